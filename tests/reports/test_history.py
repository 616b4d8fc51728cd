"""The drawing of a trend: a panel for each prompt set and device, a line for each variant, a mark for new weights."""

from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.regression.history import Point, append
from fastflux.errors import FastFluxError
from reports.cli import main
from reports.figures.history import history_figure


def points(count: int, **changes: str) -> list[Point]:
    def one(index: int) -> Point:
        values = {
            name: {"hps.averaged": [score + index, score + index - 1, score + index + 1], "flops.forward": [1e6]}
            for name, score in (("dense", 60.0), ("fastflux-10", 59.0), ("l1-21", 40.0), ("brll-10", 50.0))
        }
        settings = {
            "device": "a CPU", "profile": "shapes", "prompts": "p", "base": "w1" if index < 2 else "w2",
        } | changes  # fmt: skip
        return Point(f"{index:07}", False, f"2026-11-{index + 1:02}T10:00:00", images=80, values=values, **settings)

    return [one(index) for index in range(count)]


def test_a_line_for_each_variant_with_intervals_and_a_mark_for_new_weights(tmp_path: Path) -> None:
    append(tmp_path / "h.jsonl", points(4))
    (axes,) = history_figure([tmp_path / "h.jsonl"], "hps", "shapes").axes
    trends = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert [list(line.get_ydata()) for line in trends] == [
        [60.0, 61.0, 62.0, 63.0], [59.0, 60.0, 61.0, 62.0], [40.0, 41.0, 42.0, 43.0],
    ]  # fmt: skip
    bars = [line for line in axes.lines if list(line.get_ydata()) == [59.0, 61.0]]
    assert bars
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("new weights") == 1
    assert {"dense", "fastflux-10", "l1-21"} <= set(texts)
    assert "brll-10" not in texts


def test_what_cannot_be_joined_has_a_panel_of_its_own(tmp_path: Path) -> None:
    append(tmp_path / "h.jsonl", [*points(3), *points(2, prompts="q"), *points(2, device="a GPU")])
    assert len(history_figure([tmp_path / "h.jsonl"], "hps", "shapes").axes) == 3


def test_labels_do_not_overlap(tmp_path: Path) -> None:
    append(tmp_path / "h.jsonl", points(3))
    (axes,) = history_figure([tmp_path / "h.jsonl"], "flops", "shapes").axes
    places = sorted(text.xy[1] for text in axes.texts if text.get_text() != "new weights")
    low, high = axes.get_ylim()
    assert all(after - before > 0.02 * (high - low) for before, after in pairwise(places))


def test_the_command_writes_the_file_that_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append(tmp_path / "h.jsonl", [*points(3), replace(points(4)[3], dirty=True)])
    out = tmp_path / "deep" / "trend.png"
    assert main(["history", str(tmp_path / "h.jsonl"), "--metric", "hps", "-o", str(out)]) == 0
    assert out.stat().st_size > 1000
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("0000001", "new weights", "0000003*", "fastflux-10", "63"))
    assert "brll-10" not in shown
    assert main(["history", str(tmp_path / "h.jsonl"), "-o", str(tmp_path / "trend.pdf")]) == 1
    assert "neither .png nor .svg" in capsys.readouterr().err


def test_a_history_without_the_metric_is_an_error(tmp_path: Path) -> None:
    append(tmp_path / "h.jsonl", points(2))
    with pytest.raises(FastFluxError, match=r"No run of shapes with latency\.ratio_to_dense"):
        history_figure([tmp_path / "h.jsonl"], "latency", "shapes")
