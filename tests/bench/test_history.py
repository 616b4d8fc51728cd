"""The trend over commits: points and their file."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bench.profiles.profile import ROOT
from bench.records.results import RunRecord
from bench.regression.history import Point, append, groups_of, point_of, read_history
from bench.tables import trend
from fastflux.errors import FastFluxError
from tests.bench.made_snapshots import made_snapshot


def point(commit: str = "aaaa", hour: int = 1, **changes: Any) -> Point:
    made = point_of(made_snapshot().records)
    return replace(made, commit=commit, created=f"2026-11-21T{hour:02}:00:00+00:00", **changes)


def test_a_point_holds_values_with_their_intervals() -> None:
    made = point()
    assert made.values["dense"]["flops.forward"] == [171479040.0]
    value, low, high = made.values["fastflux-10"]["latency.ratio_to_dense"]
    assert low <= value <= high
    assert made.base == "abc"


def test_points_accumulate_in_the_order_of_time_none_twice(tmp_path: Path) -> None:
    file, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    append(file, [point("bbbb", 2), point("aaaa", 1)])
    append(file, [point("aaaa", 1, images=7), point("cccc", 3)])
    assert [entry.images for entry in read_history([file])] == [7, point().images, point().images]
    append(other, [point("cccc", 3), point("dddd", 4)])
    assert [entry.commit for entry in read_history([file, other, tmp_path / "absent"])] == [
        "aaaa", "bbbb", "cccc", "dddd",
    ]  # fmt: skip


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(point().line() + '\n{"commit": "cut\n')
    with pytest.raises(FastFluxError, match=r"a\.jsonl, line 2 is no point"):
        read_history([file])


def test_other_prompts_and_devices_share_no_line() -> None:
    points = [point(), point("bbbb", 2), point("cccc", 3, prompts="others"), point("dddd", 4, device="a GPU")]
    assert [len(group) for group in groups_of(points).values()] == [2, 1, 1]


def test_short_names_and_suggestions() -> None:
    assert trend("hps").key == "hps.averaged"
    assert trend("latency.ratio_to_dense").key == "latency.ratio_to_dense"
    with pytest.raises(FastFluxError, match="did you mean 'latency'"):
        trend("latncy")


def test_the_committed_history_holds_the_committed_records() -> None:
    dense = RunRecord.read(ROOT / "reports/data/results/cpu/shapes/dense.json.gz")
    committed = {point.key: point for point in read_history([ROOT / "reports/data/regression/history.jsonl"])}
    assert {"dense", "fastflux-10", "l1-21"} <= committed[point_of([dense]).key].values.keys()


def test_a_line_that_a_kill_cut_short_loses_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    append(path, [point("aaaa111", 1)])
    with path.open("a") as file:
        file.write(point("bbbb222", 2).line()[:40])
    assert [found.commit for found in read_history([path])] == ["aaaa111"]
    append(path, [point("cccc333", 3)])
    assert [found.commit for found in read_history([path])] == ["aaaa111", "cccc333"]
    path.write_text("no point\n" + path.read_text())
    with pytest.raises(FastFluxError, match="line 1 is no point"):
        read_history([path])
