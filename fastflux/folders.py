"""Folders that appear complete or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastflux.errors import FastFluxError


def require_absent(folder: Path, *, overwrite: bool) -> None:
    """Raise ``FastFluxError`` when there is something at ``folder`` and it must not be replaced."""
    if folder.exists() and not overwrite:
        raise FastFluxError(f"{folder} exists already: choose another folder or allow overwriting.")


@contextmanager
def new_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to fill beside ``folder``, put in its place when the block ends well and deleted when it does not.

    A full disk or a refused write becomes a ``FastFluxError``.
    """
    require_absent(folder, overwrite=overwrite)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.is_dir():
            shutil.rmtree(folder)
        partial.replace(folder)
    except OSError as error:
        raise FastFluxError(
            f"Cannot write {folder}: {error.strerror or error}; free some space or choose another place."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
