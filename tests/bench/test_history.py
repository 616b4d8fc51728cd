"""The trend over commits: points, their file, what git remembers, and the table."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bench.cli import main
from bench.profiles.profile import ROOT
from bench.regression.git_history import points_from_git, show_history
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
    assert append(file, [point("bbbb", 2), point("aaaa", 1)]) == 2
    assert append(file, [point("aaaa", 1), point("cccc", 3)]) == 1
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


def test_the_committed_history_is_what_git_tells() -> None:
    """The newest committed records are a point; every older one was when it was the newest."""
    try:
        told = next(points_from_git(ROOT / "reports" / "data" / "results" / "cpu" / "shapes"), None)
    except FastFluxError:
        pytest.skip("not a git checkout")
    if told is None:
        pytest.skip("no history in this checkout")
    committed = read_history([ROOT / "reports" / "data" / "regression" / "history.jsonl"])
    assert told.key in {point.key for point in committed}
    assert {"dense", "fastflux-10", "l1-21"} <= told.values.keys()


def test_the_command_prints_a_table(tmp_path: Path, capfd: Any) -> None:
    append(
        tmp_path / "h.jsonl", [point("aaaa111", 1), point("bbbb222", 2, base="def"), point("cccc333", 3, dirty=True)]
    )
    assert main(["history", "--metric", "latency", "--file", str(tmp_path / "h.jsonl")]) == 0
    shown = capfd.readouterr().out
    assert all(text in shown for text in ("aaaa111", "new weights", "cccc333*", "fastflux-10"))


def test_nothing_to_show_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FastFluxError, match=r"No run of shapes with hps\.averaged"):
        show_history(metric="hps", profile="shapes", files=[tmp_path / "absent.jsonl"])


def test_a_line_that_a_kill_cut_short_loses_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    append(path, [point("aaaa111", 1)])
    with path.open("a") as file:
        file.write(point("bbbb222", 2).line()[:40])
    assert [found.commit for found in read_history([path])] == ["aaaa111"]
    assert append(path, [point("cccc333", 3)]) == 1
    assert [found.commit for found in read_history([path])] == ["aaaa111", "cccc333"]
    path.write_text("no point\n" + path.read_text())
    with pytest.raises(FastFluxError, match="line 1 is no point"):
        read_history([path])
