"""Batched scoring against hpsv2's way: equal scores, both speeds, and what cannot be timed."""

from pathlib import Path

import pytest

from bench.metrics.cost.throughput import app, measure_throughput
from fastflux.command_line import run
from fastflux.errors import FastFluxError


def test_both_ways_give_the_same_scores(tiny_hps: tuple[str, Path]) -> None:
    architecture, checkpoint = tiny_hps
    found = measure_throughput(
        checkpoint, architecture=architecture, images=16, singles=2, rounds=1, size=56, batch_size=16
    )
    assert found.difference < 1e-5
    assert found.ratio == found.batched / found.reloading
    assert found.ratio > 1


def test_the_ratio_is_printed(tiny_hps: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run(app, [str(tiny_hps[1]), "--architecture", tiny_hps[0], "--images", "2", "--singles", "1", "--rounds", "1"])
    shown = capsys.readouterr().err
    assert "ratio: " in shown
    assert "reloaded: " in shown


def test_what_cannot_be_timed_is_refused(
    tiny_hps: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for sizes in ({"images": 1, "singles": 2}, {"singles": 0}, {"rounds": 0}):
        with pytest.raises(FastFluxError, match="cannot be timed"):
            measure_throughput(tiny_hps[1], architecture=tiny_hps[0], **sizes)
    assert run(app, [str(tmp_path / "absent.pt")]) == 1
    assert "huggingface.co/xswu/HPSv2" in capsys.readouterr().err
