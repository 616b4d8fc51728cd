"""Methods and architectures of other packages: loaded from their entry points, so that installing them is enough."""

from functools import cache
from importlib.metadata import entry_points

from fastflux.errors import FastFluxError


@cache
def load_plugins(group: str) -> None:
    """Import once what installed packages declare in an entry point group; their modules register what they add.

    Raises ``FastFluxError`` naming the package for one that cannot be imported.
    """
    for entry in entry_points(group=group):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist else entry.value
            raise FastFluxError(
                f"Cannot load {entry.name} of the package {package} ({group}): {error}; mend or uninstall that package."
            ) from error
