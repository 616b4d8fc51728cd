"""Importance of blocks: the figure's points, the table's text, and what faulty files get."""

import json
from pathlib import Path
from typing import Any

import pytest

from reports.cli import main
from reports.figures.quality import importance_figure
from reports.figures.ranking import Ranking, orders_table
from reports.table import to_markdown


def entry(block: str, importance: float, r2: float) -> dict[str, Any]:
    return {"block": block, "importance": importance, "residual_r2": r2, "fid": 1.0, "clip_score": 80.0}


DATA: dict[str, Any] = {
    "base_model": "tiny_model",
    "blocks": [
        entry("single_transformer_blocks.1", -0.9, 0.3),
        entry("single_transformer_blocks.0", -0.8, 0.4),
        entry("transformer_blocks.0", -0.1, 0.9),
    ],
    "spearman": {"residual_r2": -0.345, "block_influence": 0.5, "start2end": -1.0},
    "cost": {
        "importance": {"forwards": 148480, "seconds": 812.3},
        "one calibration pass": {"forwards": 1280, "seconds": 4.6},
    },
    "scorers": {"fid": "a small FID", "clip_score": "a small CLIP"},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "ranking.json"
    file.write_text(json.dumps({**DATA, "created": "today"}))
    return file


def test_the_table_reads_as_it_should(path: Path) -> None:
    text = to_markdown(orders_table(Ranking.read(path)))
    lines = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert lines[2:] == [
        ["Importance (FID and CLIP score)", "1.00", "148,480", "812"],
        ["Residual R²", "-0.34", "1,280", "5"],
        ["Block influence", "0.50", "1,280", "5"],
        ["Start2End", "-1.00", "\N{EN DASH}", "\N{EN DASH}"],
    ]
    assert "clip\\_score: a small CLIP" in text


def test_the_table_says_how_well_the_order_repeats(path: Path) -> None:
    figures = {"first_5": 1.5, "first_11": 3.55}
    repeats = [{"images": images, **figures} for images in (256, 1024)]
    path.write_text(json.dumps({**DATA, "halves": {"images": 128.0, **figures, "repeats": repeats}}))
    assert orders_table(Ranking.read(path)).notes[-1] == (
        "Orders by two halves of the prompts, 128 images each, share 1.5 of the first 5 blocks and 3.5 of the first "
        "11. By simulation, which makes them rather too alike, two orders would share 1.5 and 3.5 of 256, 1.5 and 3.5 "
        "of 1,024 images."
    )


def test_the_figure_shows_importance_in_order_and_r2_along_the_flow(path: Path) -> None:
    left, right = importance_figure(Ranking.read(path)).axes
    points = {
        line.get_label(): list(zip(*line.get_data(), strict=True)) for line in left.lines if len(line.get_xdata()) != 2
    }
    assert points["double blocks"] == [(3, -0.1)]
    by_kind = {line.get_label(): line.get_data() for line in right.lines}
    assert [list(values) for values in by_kind["double blocks"]] == [[1], [0.9]]
    assert sorted(zip(*by_kind["single blocks"], strict=True)) == [(2, 0.4), (3, 0.3)]
    marks = [line.get_xdata()[0] for line in left.lines if line.get_linestyle() == "--"]
    assert marks == pytest.approx([0.5, 1.5, 1.5]), "behind the 0, 1 and 1 of 3 blocks replaced at these ratios"


def test_the_command_writes_both_and_repeats_its_bytes(path: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        assert main(["importance", str(path), "-o", str(tmp_path / folder)]) == 0
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == ["importance.png", "ranking.md", "ranking.tex"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("content", ["", "{}", "[]", json.dumps({**DATA, "blocks": [{"block": "x"}]})])
def test_a_faulty_file_is_one_sentence(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ranking.json"
    path.write_text(content)
    assert main(["importance", str(path), "-o", str(tmp_path / "out")]) == 1
    assert "holds no ranking of blocks" in capsys.readouterr().err
    assert main(["importance", str(tmp_path / "none.json"), "-o", str(tmp_path / "out")]) == 1
