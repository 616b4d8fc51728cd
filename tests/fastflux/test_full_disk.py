"""A disk that fills up: one sentence, nothing half written, and what was there before stays."""

import resource
import shutil
from pathlib import Path

import pytest

from fastflux.cli import main
from fastflux.errors import memory_is_full

PRUNE = ["--prompts", "prompts.txt", "--steps", "4", "--device", "cpu"]
ST = ["--method", "sandwich_training", "--blocks", "1", "--samples", "4", "--rank", "2", "--train-steps", "1"]
COMMANDS = {
    "overwrite": ["prune", "base", "--blocks", "1", *PRUNE, "-o", "old", "--overwrite"],
    "new": ["prune", "base", "--blocks", "1", *PRUNE, "-o", "new", "--save-every", "1"],
    "sandwiches": ["prune", "base", *ST, *PRUNE, "-o", "new", "--work", "work"],
    "rank": ["rank", "base", *PRUNE, "--json", "old.json"],
    "generate": ["generate", "base", "a star", "--steps", "1", "-o", "old.png", "--device", "cpu"],
}


@pytest.mark.parametrize(
    ("command", "room"),
    [("overwrite", 8 << 10), ("overwrite", 100 << 10), ("new", 8 << 10), ("sandwiches", 8 << 10), ("rank", 64),
     ("generate", 64)],
)  # fmt: skip
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    command: str, room: int, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, "base")
    shutil.copytree(base, "old")
    for name in ("prompts.txt", "old.json", "old.png"):
        Path(name).write_text("a star\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))  # a file that grows beyond cannot be written
    try:
        status = main(COMMANDS[command])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "Cannot write" in last
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: after.get(path) for path in before} == before
    assert all(path.name == ".fastflux-progress" for path in after.keys() - before.keys()), after.keys() - before.keys()


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (MemoryError(), True), (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (ImportError("libtorch.so: failed to map segment from shared object"), True),
        (OSError(12, "Cannot allocate memory"), True), (RuntimeError("shapes differ"), False), (OSError("gone"), False),
    ],
)  # fmt: skip
def test_full_memory_is_told_in_whatever_words(error: Exception, full: bool) -> None:
    hidden = ValueError("cannot load")
    hidden.__context__ = error
    assert (memory_is_full(error), memory_is_full(hidden)) == (full, full)
