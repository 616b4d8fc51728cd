"""Where runs lie: below `runs/` of the working directory, one process at a time in each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fastflux.errors import FastFluxError
from fastflux.files import PARTIALS, delete_partials

RUNS = Path("runs")
"""Folder of all runs unless a command is given another one."""
REGRESS = RUNS / "regress"
"""Of regression runs."""
_LOCK = ".lock"


@contextmanager
def locked(*folders: Path) -> Iterator[None]:
    """Hold run folders, made where they are not there; an end of this process, however it comes, lets go of them.

    What killed processes left half written in them is deleted.

    Raises:
        FastFluxError: another process works in one of them.
    """
    with ExitStack() as held:
        for folder in dict.fromkeys(folders):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(FileLock(folder / _LOCK, timeout=0))
            except Timeout as error:
                raise FastFluxError(
                    f"another run works in {folder}: wait until it has ended, or work in another folder"
                ) from error
            delete_partials(folder.rglob(PARTIALS))
        yield
