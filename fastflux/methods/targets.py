"""Whose outputs pruned blocks are fitted or trained to give."""

from fastflux.errors import unknown_name

TARGETS = ("dense", "current")


def require_targets(targets: str) -> None:
    """Raise ``FastFluxError`` unless ``targets`` is one of `TARGETS`."""
    if targets not in TARGETS:
        raise unknown_name("kind of targets", targets, TARGETS)
