"""A disk that fills up under `bench`: one sentence, nothing half written, and the run goes on later."""

import json
import os
import resource
import sys
from pathlib import Path

import pytest

from bench.cli import main
from tests.fastflux.tiny_pipeline import write_tiny_pipeline

TINY = """extends = "shapes"
name = "tiny"
pipeline = "base"
prompts = ["prompts.jsonl"]
calibration_prompts = "prompts.jsonl"
without = ["others.sd3", "metrics.hps", "metrics.geneval", "metrics.fid", "metrics.paired"]
disk_mib = 1
sampling = { height = 32, width = 32, steps = 1, batch = 1, samples = { hps = 1 } }
calibration.steps = 1
latency = { warmup = 0, rounds = 6, batch = 1 }
methods.block_removal.ranking = "start2end"
methods.linear_replacement.ranking = "start2end"
methods.sandwich_training.ranking = "start2end"
"""
DRAW = "draw base -o drawn --profile tiny.toml"
SCORE = "score drawn --name mine --metrics clip_score --profile tiny.toml -o runs"
RUN = "reproduce --profile tiny.toml --variants removal-10 --workers 1 -o runs"
SMALL = 1 << 10


def held(folder: Path) -> dict[str, bytes]:
    """All files, but for locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def limited(room: int, line: str) -> tuple[int, str]:
    """Status and messages of a command in a process of its own whose files can have so many bytes."""
    told, telling = os.pipe()
    if not (child := os.fork()):
        status = 99
        try:
            sys.stderr = os.fdopen(telling, "w", buffering=1, encoding="utf-8")
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            status = main(line.split())
        finally:
            os._exit(status)
    os.close(telling)
    with os.fdopen(told, encoding="utf-8") as file:
        said = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a tiny pipeline and its profile."""
    monkeypatch.chdir(tmp_path)
    write_tiny_pipeline(Path("base"))
    prompts = [{"id": f"h{n}", "set": "hps", "style": "photo", "prompt": f"a star of {n}"} for n in range(2)]
    Path("prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    Path("tiny.toml").write_text(TINY)
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # of forks beside other threads
@pytest.mark.parametrize(
    ("before", "line", "room"),
    [
        ("", DRAW, SMALL), (DRAW, SCORE, SMALL),
        pytest.param(RUN.replace("removal-10", "dense"), RUN, 12 * SMALL, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_full_disk_is_one_sentence_and_loses_nothing(before: str, line: str, room: int, place: Path) -> None:
    assert not before or main(before.split()) == 0
    finished = held(place)
    status, said = limited(room, line)
    assert status == 1, said
    assert "Traceback" not in said
    assert said.count("Cannot write") == 1
    left = held(place)
    assert all(left.values()), "nothing is empty"
    assert not [name for name in left if ".partial-" in name]
    kept = finished if before == DRAW else {name: data for name, data in finished.items() if "dense/" in name}
    assert {name: left[name] for name in kept} == kept
    assert main(line.split()) == 0
