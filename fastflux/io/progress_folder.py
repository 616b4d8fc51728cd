"""Where a run keeps its progress: in the folder that its user named, or in one of its own that goes in the end."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from fastflux.files import PARTIALS, delete_partials, require_room, write_text

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
