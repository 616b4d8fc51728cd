"""Pieces: whole or not done, settled again in place, and the budget that stops between them."""

from pathlib import Path

import pytest

from bench.records.results import Measurement, MetricInfo
from bench.studies.full_size import pieces as module
from bench.studies.full_size.pieces import Budget, BudgetSpentError, Piece, Pieces
from fastflux.errors import FastFluxError

INFO = MetricInfo("latency_512x512", "1", "ms", higher_is_better=False, reference="")


def ok(value: float) -> Measurement:
    return Measurement(INFO, "ok", values={"median_ms": value}, samples={"ms": [value, value]})


def piece(*units: str) -> Piece:
    return Piece(units, units, INFO, lambda: {unit: [ok(1.0)] for unit in units})


def test_a_finished_piece_is_read_back_as_it_was(tmp_path: Path) -> None:
    store = Pieces(tmp_path)
    store.write("latency", piece("a", "b"), {"a": [ok(2.5)]}, 7.0, {"device": "x"})
    (done,) = store.done("latency")
    assert (done.units, done.seconds, done.environment) == (("a", "b"), 7.0, {"device": "x"})
    assert done.results["a"][0] == ok(2.5)
    assert store.units("latency") == {"a", "b"}
    assert store.longest("latency") == 7.0
    assert store.longest("other") == 0.0


def test_a_damaged_file_is_not_done(tmp_path: Path) -> None:
    store = Pieces(tmp_path)
    store.write("latency", piece("a"), {"a": [ok(1.0)]}, 1.0, {})
    path = tmp_path / "latency" / "000.json"
    path.write_text(path.read_text()[:-20])
    assert store.units("latency") == set()
    store.write("latency", piece("a"), {"a": [ok(3.0)]}, 1.0, {})
    assert store.units("latency") == {"a"}


def test_what_failed_is_settled_until_it_is_retried_and_then_replaced(tmp_path: Path) -> None:
    store = Pieces(tmp_path)
    failed = piece("a")
    store.write("latency", failed, failed.failed("out of memory"), 1.0, {})
    assert store.done("latency")[0].failures == {"a": "out of memory"}
    assert (store.units("latency"), store.units("latency", measured=True)) == ({"a"}, set())
    store.write("latency", failed, {"a": [ok(4.0)]}, 1.0, {})
    assert [done.failures for done in store.done("latency")] == [{}]
    assert [(name, found.status) for name, found, _ in store.measurements(["latency"])] == [("a", "ok")]


def test_of_a_variant_measured_with_every_group_the_first_counts(tmp_path: Path) -> None:
    store = Pieces(tmp_path)
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
    with pytest.raises(FastFluxError, match="--budget is -1"):
        Budget(-1)
