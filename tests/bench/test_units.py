"""Units: whole or not done, settled again in place, and the budget that stops between them."""

from pathlib import Path
from typing import Any

import pytest

from bench.records.results import Measurement, MetricInfo
from bench.run import units as module
from bench.run.units import Budget, BudgetSpentError, Runner, Store, Unit
from fastflux.errors import FastFluxError

INFO = MetricInfo("latency_512x512", "1", "ms", higher_is_better=False, reference="")


def ok(value: float) -> Measurement:
    return Measurement(INFO, "ok", values={"median_ms": value}, samples={"ms": [value, value]})


def piece(*units: str) -> Unit:
    return Unit(dict.fromkeys(units), lambda: {unit: [ok(1.0)] for unit in units}, variants=units, info=INFO)


def test_a_finished_piece_is_read_back_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("latency", piece("a", "b"), {"a": [ok(2.5)]}, 7.0, {"device": "x"})
    (done,) = store.done("latency")
    assert (done.names, done.seconds, done.environment) == (("a", "b"), 7.0, {"device": "x"})
    assert done.results["a"][0] == ok(2.5)
    assert store.names("latency") == {"a", "b"}
    assert store.longest("latency") == 7.0
    assert store.longest("other") == 0.0


def test_a_damaged_file_is_not_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("latency", piece("a"), {"a": [ok(1.0)]}, 1.0, {})
    path = tmp_path / "latency" / "a.json"
    text = path.read_text()
    for damaged in (text[:-20], text.replace('"median_ms": 1.0', '"median_ms": 2.0'), ""):
        path.write_text(damaged)
        assert store.names("latency") == set()
    store.write("latency", piece("a"), {"a": [ok(3.0)]}, 1.0, {})
    assert store.names("latency") == {"a"}


def test_what_failed_is_settled_until_it_is_retried_and_then_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    failed = piece("a")
    store.write("latency", failed, failed.failed("out of memory"), 1.0, {})
    assert store.done("latency")[0].failures == {"a": "out of memory"}
    assert (store.names("latency"), store.names("latency", measured=True)) == ({"a"}, set())
    store.write("latency", failed, {"a": [ok(4.0)]}, 1.0, {})
    assert [done.failures for done in store.done("latency")] == [{}]
    assert [(name, found.status) for name, found, _ in store.measurements(["latency"])] == [("a", "ok")]


def test_of_a_variant_measured_with_every_group_the_first_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("latency", piece("a"), {"dense": [ok(1.0)], "a": [ok(2.0)]}, 1.0, {})
    store.write("latency", piece("b"), {"dense": [ok(9.0)], "b": [ok(3.0)]}, 1.0, {})
    found = {name: item.values["median_ms"] for name, item, _ in store.measurements(["latency"])}
    assert found == {"dense": 1.0, "a": 2.0, "b": 3.0}


def test_a_budget_is_spent_when_the_next_piece_may_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    budget = Budget(60.0)
    budget.require(59.0)
    now[0] = 130.0
    budget.require(29.0)
    with pytest.raises(BudgetSpentError):
        budget.require(30.0)
    now[0] = 161.0
    with pytest.raises(BudgetSpentError):
        budget.require()
    Budget(None).require(1e12)
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(FastFluxError, match="--budget is"):
            Budget(seconds)


def made(path: Path, times: list[str], **inputs: Any) -> Unit:
    """A unit that writes a file, and notes that it did."""

    def make() -> dict[str, list[Measurement]]:
        times.append(path.name)
        path.write_text("whole")
        return {}

    return Unit({"x": inputs}, make, files=(path,))


def runner(folder: Path, **options: Any) -> Runner:
    return Runner(Store(folder), lambda: {"device": "x"}, **options)


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_a_unit_is_made_again_for_other_inputs_and_for_damage_only(tmp_path: Path, damage: str) -> None:
    file, times = tmp_path / "out", []
    first = runner(tmp_path)
    first.settle("stage", made(file, times, seed=1))
    assert first.worked
    again = runner(tmp_path)
    again.settle("stage", made(file, times, seed=1))
    assert (len(times), again.worked) == (1, False)
    runner(tmp_path).settle("stage", made(file, times, seed=2))
    assert len(times) == 2
    file.write_text("wholf") if damage == "flip" else file.unlink()
    runner(tmp_path).settle("stage", made(file, times, seed=2))
    assert (len(times), file.read_text()) == (3, "whole")


def test_a_unit_of_one_name_reads_no_note_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, read = runner(tmp_path), []
    monkeypatch.setattr(module, "read_note", lambda path, plain=module.read_note: (read.append(path), plain(path))[1])
    for name in ("a", "b", "a"):
        run.make("stage", piece(name))
        run.find("stage", piece(name))
    assert read == []
    run.make("stage", piece("a", "b"))
    assert [done.names for done in run.store.done("stage")] == [("a", "b")]


def test_a_unit_of_some_is_settled_by_one_of_more_with_the_same_inputs(tmp_path: Path) -> None:
    run = runner(tmp_path)
    run.settle("stage", Unit({"a": 1, "b": 2, "c": 3}, lambda: {"a": [ok(1.0)]}))
    again = runner(tmp_path)
    assert again.settle("stage", Unit({"a": 1, "c": 3}, lambda: pytest.fail("done"))).results["a"][0] == ok(1.0)
    assert again.find("stage", Unit({"a": 1, "b": 3}, dict)) is None
    assert again.find("stage", Unit({"a": 1, "d": 3}, dict)) is None


def test_a_fault_is_noted_where_there_is_a_metric_for_it_and_ends_the_run_elsewhere(tmp_path: Path) -> None:
    def broken() -> dict[str, list[Measurement]]:
        raise RuntimeError("no room\nat line 3")

    run = runner(tmp_path, retry=False)
    with pytest.raises(RuntimeError, match="no room"):
        run.settle("stage", Unit({"x": 1}, broken))
    unit = Unit({"x": 1}, broken, variants=("x",), info=INFO)
    assert run.settle("stage", unit).failures == {"x": "RuntimeError: no room"}
    working = Unit({"x": 1}, lambda: {"x": [ok(1.0)]}, variants=("x",), info=INFO)
    assert runner(tmp_path, retry=False).settle("stage", working).failures
    assert not runner(tmp_path).settle("stage", working).failures


def test_the_first_unit_starts_whatever_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "left", property(lambda _: 0.0))
    run = runner(tmp_path, budget=Budget(1.0))
    run.settle("stage", Unit({"a": 1}, dict))
    with pytest.raises(BudgetSpentError):
        run.settle("stage", Unit({"b": 1}, dict))
