"""Files that appear whole or not at all, whatever ends the writing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place to write to, which becomes `path` at the end and is deleted after an error; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text whole or not at all, with the same line ends on every system; returns `path`."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
    return path
