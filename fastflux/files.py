"""Files, folders and tensors that appear whole or not at all: what every writer of this project goes through.

And where a run keeps its progress: in the folder that its user named, or in one of its own that goes in the end. Free
of torch, so that what only reads and writes records can use it.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from fastflux.errors import FastFluxError

Foreign = Callable[[Path], Sequence[str]]
"""Names what must not be deleted with a folder that is to be replaced; nothing where all of it may go."""

PARTIALS = ".*.partial-????????"
"""The names of what is half written."""
_REMEDY = "free some space or choose another place"
_IMMOVABLE = (errno.EBUSY, errno.EXDEV)
"""What renaming a mount point gives, and a folder of a lower layer of an overlay."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def whole_file(path: Path, *, remedy: str = _REMEDY) -> Iterator[Path]:
    """A place to write to: it becomes the file at ``path`` when the block ends well, and is deleted when it does not.

    Makes the folder. A link is written through; a device is written to as it is; a file that is a mount point, which
    nothing can take the place of, is filled anew in the end. A full disk or a refused write becomes a ``FastFluxError``
    that ends with the ``remedy``.
    """
    path = Path(os.path.realpath(path))
    partial = None
    try:
        if path.exists() and not path.is_file():
            yield path
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _hidden(path, "partial")
        partial.touch()
        with _held(partial):
            yield partial
        try:
            partial.replace(path)
        except OSError as error:
            if error.errno not in _IMMOVABLE:
                raise
            shutil.copyfile(partial, path)
    except OSError as error:
        raise FastFluxError(f"Cannot write {path}: {error.strerror or error}; {remedy}.") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def file_hash(path: Path) -> bytes:
    """SHA-256 of a file's content; raises ``FastFluxError`` for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise FastFluxError(f"Cannot read {path}: {error.strerror or error}; restore it or take it away.") from error


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file as `whole_file` does; returns ``path``."""
    with whole_file(path) as partial:
        partial.write_bytes(data)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text, with the same line ends on every system, as `whole_file` does; returns ``path``."""
    return write_bytes(path, text.encode())


def replace_files(folder: Path, source: Path, pattern: str = "*") -> None:
    """Make the files of ``folder``, at any depth, those of ``source``, as far as their names match ``pattern``.

    All are copied, each whole, before those that ``source`` lacks are deleted: what fails on the way loses none. Raises
    ``FastFluxError`` where ``source`` has none at all, and where one cannot be written.
    """
    names = [path.relative_to(source) for path in source.rglob(pattern) if path.is_file()]
    if not names:
        raise FastFluxError(f"{source} holds no {pattern} to put in the place of those in {folder}: make them again.")
    for name in names:
        with whole_file(folder / name) as partial:
            shutil.copyfile(source / name, partial)
    for path in [path for path in folder.rglob(pattern) if path.is_file()]:
        if path.relative_to(folder) not in names:
            path.unlink()


def save_tensors(
    tensors: Mapping[str, Any], path: Path, *, remedy: str = _REMEDY, metadata: Mapping[str, str] | None = None
) -> None:
    """Write torch tensors to a safetensors file as `whole_file` does."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with whole_file(path, remedy=remedy) as partial:
        try:
            save_file(dict(tensors), partial, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            raise FastFluxError(f"Cannot write {path}: {error}; {remedy}.") from error


def require_new_folder(
    folder: Path, *, overwrite: bool, foreign: Foreign, inputs: Mapping[str, Path | None] | None = None
) -> Path:
    """Raise ``FastFluxError`` unless `new_folder` can write ``folder``, and lose nothing but what it replaces.

    That is where something is there and ``overwrite`` is not set or it holds anything ``foreign``, where one of the
    ``inputs``, or anything that links in one lead to, lies in it, and where no folder can be made: on a read-only disk,
    below a file, with a name too long. Nothing is left behind. Returns the folder with all links resolved.
    """
    target = Path(os.path.realpath(folder))
    if target in (here := Path.cwd(), *here.parents):
        raise FastFluxError(
            f"Cannot write {folder}: it is the folder this runs in, or one around it; name a new folder."
        )
    for what, path in (inputs or {}).items():
        if path is not None and (inside := _found_in(target, path)) is not None:
            raise FastFluxError(f"Cannot write {folder}: {what} lies in it ({inside}); choose another folder.")
    with _refused(folder):
        if os.path.lexists(target):
            if not target.is_dir():
                raise FastFluxError(f"{folder} exists already and is no folder: choose another name.")
            if not overwrite:
                raise FastFluxError(f"{folder} exists already: choose another folder or allow overwriting.")
            if kept := foreign(target):
                names = ", ".join(kept[:3]) + (f" and {len(kept) - 3} more" if len(kept) > 3 else "")
                raise FastFluxError(
                    f"Overwriting {folder} would delete {names}, which is no part of such an output: move that away or "
                    "choose another folder."
                )
        _require_room(target, _place(target, "partial"))
    return target


def require_room(folder: Path) -> None:
    """Raise ``FastFluxError`` unless files can be written to ``folder``, or to a folder that can be made there."""
    target = Path(os.path.realpath(folder))
    probe = target / _hidden(target, "partial").name
    with _refused(folder):
        _require_room(target, probe)
    delete_partials(_like(probe))


@contextmanager
def new_folder(folder: Path, *, overwrite: bool = False, foreign: Foreign = os.listdir) -> Iterator[Path]:
    """A folder to fill, put in the place of ``folder`` when the block ends well and deleted when it does not.

    Raises ``FastFluxError`` as `require_new_folder` does, and for a full disk or a refused write. A link is written
    through. What is replaced is deleted when the new one is in its place, never before: the two are exchanged in one
    step where the system can (Linux), or else renamed one after the other. After a kill at any moment ``folder`` is
    the old one or the new one, whole; where it takes two renames, it may also be absent between them. Then both lie
    beside it, whole, under hidden names that end in ``old-`` and ``partial-`` and eight digits. A folder that cannot
    be renamed, such as a mount point, gets new contents instead: a kill while these are moved leaves the old files in
    it or in its ``.old-...`` and the new ones in it or in ``.partial-...``, none of them lost, and an error moves them
    back. When the new folder cannot be put in its place, it stays where it was made and the error names it.
    """
    target = require_new_folder(folder, overwrite=overwrite, foreign=foreign)
    partial = _place(target, "partial")
    done = False
    try:
        with _refused(folder):
            partial.mkdir(parents=True)
            with _held(partial):
                yield partial
        done = True
        try:
            _put(partial, target)
        except OSError as error:
            raise FastFluxError(
                f"Cannot put what was written in the place of {folder}: {error.strerror or error}; "
                f"it lies complete in {partial}."
            ) from error
        delete_partials(_like(partial))
    finally:
        if not done:
            shutil.rmtree(partial, ignore_errors=True)


def _like(partial: Path) -> Iterator[Path]:
    """What others left half written for the same place."""
    return partial.parent.glob(f"{glob.escape(partial.name[:-8])}????????")


def delete_partials(found: Iterable[Path]) -> None:
    """Delete, of files and folders named as half written ones are, those whose process was killed."""
    for partial in found:
        with _held(partial) as free:
            if free and partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            elif free:
                partial.unlink(missing_ok=True)


@contextmanager
def _held(partial: Path) -> Iterator[bool]:
    """Lock what is half written while the block runs; False where another one does, or nothing can be locked."""
    handle, free = -1, False
    with suppress(ImportError, OSError):  # Windows, and file systems that know no locks
        import fcntl

        handle = os.open(partial, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    try:
        yield free
    finally:
        if handle >= 0:
            os.close(handle)


def _put(new: Path, folder: Path) -> None:
    if not os.path.lexists(folder):
        new.rename(folder)
        return
    if new.parent == folder.parent:
        if _exchange(new, folder):
            shutil.rmtree(new, ignore_errors=True)
            return
        old = _hidden(folder, "old")
        try:
            folder.rename(old)
        except OSError as error:
            if error.errno not in _IMMOVABLE:
                raise
        else:
            try:
                new.rename(folder)
            except BaseException:
                old.rename(folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
            return
    _replace_contents(new, folder)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot, or one cannot be renamed."""
    try:
        exchange = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # no Linux, or an old C library
        return False
    done: int = exchange(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return done == 0


def _replace_contents(new: Path, folder: Path) -> None:
    """Move what ``folder`` holds aside and the contents of ``new`` in; delete the old last."""
    old = folder / _hidden(folder, "old").name
    old.mkdir()
    moved: list[tuple[Path, Path]] = []
    # Files leave first and come last, so that an index or a config never stands beside another model's weights.
    leaving = sorted((path for path in folder.iterdir() if path not in (old, new)), key=_files_first)
    coming = sorted(new.iterdir(), key=_files_first, reverse=True)
    try:
        for entries, target in ((leaving, old), (coming, folder)):
            for entry in entries:
                shutil.move(entry, target / entry.name)
                moved.append((target / entry.name, entry))
    except BaseException:
        for now, before in reversed(moved):
            shutil.move(now, before)
        with suppress(OSError):  # half a copy of what is still in its place
            old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)
    new.rmdir()


def _files_first(path: Path) -> tuple[bool, str]:
    return path.is_dir(), path.name


def _place(folder: Path, kind: str) -> Path:
    """Where to fill a new folder: beside the old one, but in it where that cannot be renamed."""
    if folder.is_dir() and (os.path.ismount(folder) or not os.access(folder.parent, os.W_OK | os.X_OK)):
        return folder / _hidden(folder, kind).name
    return _hidden(folder, kind)


def _hidden(path: Path, kind: str) -> Path:
    """An unused hidden name beside ``path``, which fits wherever a name of usual length does."""
    return path.with_name(f".{path.name[:40]}.{kind}-{secrets.token_hex(4)}")


def _require_room(folder: Path, probe: Path) -> None:
    """Make the folder ``probe`` and delete it again, in the nearest folder that is there; raises ``OSError``."""
    missing = [folder, probe]
    while not os.path.lexists(missing[-1].parent):
        missing.append(missing[-1].parent)
    place = missing[-1].parent
    longest = os.pathconf(place, "PC_NAME_MAX")
    if any(len(os.fsencode(path.name)) > longest for path in missing):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    try:
        (place / probe.name).mkdir()
    finally:  # also where a signal comes between the two
        with suppress(OSError):
            (place / probe.name).rmdir()


def _found_in(folder: Path, path: Path) -> Path | None:
    """The first of ``path`` and all that it holds which lies in ``folder``, links resolved; None if nothing does."""
    inner = (Path(root, name) for root, folders, files in os.walk(path) for name in (*folders, *files))
    for one in (path, *inner):
        real = Path(os.path.realpath(one))
        if folder == real or folder in real.parents:
            return one
    return None


@contextmanager
def _refused(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FastFluxError(f"Cannot write {folder}: {error.strerror or error}; {_REMEDY}.") from error


MARKER = ".fastflux-progress"
_WRITTEN = re.compile(r"(statistics-[0-9a-f]{16}-\d+|finetuning-[0-9a-f]{16})\.safetensors|[0-9a-f]{16}")
"""Names of what calibration and pruning methods write there: statistics, trainings, and folders of finished blocks."""


def require_progress_folder(named: Path | None, output: Path) -> Path:
    """The folder to keep progress in; raises ``FastFluxError`` where nothing can be written to it.

    Unless it is ``named``, that is ``<output>.progress`` where there is none, or one that a run of this package made
    and an interruption left; beside a folder of the user's of that name, ``<output>.progress-2`` and so on.
    """
    names = (f"{output.name}.progress{'' if number == 1 else f'-{number}'}" for number in count(1))
    own = (output.with_name(name) for name in names)
    folder = named or next(path for path in own if not path.exists() or (path / MARKER).is_file())
    require_room(folder)
    return folder


@contextmanager
def progress_folder(named: Path | None, output: Path) -> Iterator[Path]:
    """The folder of `require_progress_folder`; of its own, it deletes what runs wrote there when the block ends well.

    Whatever else lies in it stays, and so does all of a ``named`` folder.
    """
    folder = require_progress_folder(named, output)
    delete_partials(folder.rglob(PARTIALS))
    if named is not None:
        yield folder
        return
    write_text(folder / MARKER, "Progress of fastflux, deleted when its output is written.\n")
    try:
        yield folder
        for path in folder.iterdir():
            if _WRITTEN.fullmatch(path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        if [path.name for path in folder.iterdir()] == [MARKER]:
            shutil.rmtree(folder)
