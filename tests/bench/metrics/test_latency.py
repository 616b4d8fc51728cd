"""Latency with a clock that the steps themselves move, so that every figure is known."""

import gc
from collections.abc import Callable

import numpy as np
import pytest

from bench.metrics.cost import latency
from bench.metrics.cost.latency import measure_latency
from bench.metrics.cost.timing import OtherWork
from bench.records.results import Measurement
from fastflux.errors import FastFluxError


class Clock:
    """Time that passes only in steps; drifts slower by 1% each step, as a machine that warms up."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now = 0.0
        self.speed = 1.0
        self.drift = drift
        self.ran: list[str] = []

    def __call__(self) -> float:
        return self.now

    def step(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.ran.append(name)
            self.now += seconds * self.speed
            self.speed += self.drift

        return run


def measured(clock: Clock, rounds: int = 20, precision: float = 0.0, **seconds: float) -> dict[str, Measurement]:
    steps = {name: clock.step(name, taken) for name, taken in seconds.items()}
    return measure_latency(steps, warmup=2, rounds=rounds, precision=precision, seed=7, clock=clock)


def test_times_and_ratios_are_those_of_the_clock() -> None:
    found = measured(Clock(), dense=0.1, fast=0.08, slow=0.13)
    for name, milliseconds in (("dense", 100), ("fast", 80), ("slow", 130)):
        values = found[name].values
        assert values["median_ms"] == pytest.approx(milliseconds)
        assert all(values[key] == pytest.approx(milliseconds) for key in ("p50_ms", "p90_ms", "p99_ms"))
        assert values["ratio_to_dense"] == pytest.approx(milliseconds / 100)
        assert len(found[name].samples["ms"]) == found[name].scored == 20
        assert found[name].intervals.keys() == {"median_ms", "ratio_to_dense"}
    assert found["dense"].values["ratio_to_dense"] == 1


def test_no_more_rounds_are_timed_than_the_precision_takes() -> None:
    exact = measured(Clock(), precision=0.01, dense=0.1, fast=0.08)["fast"]
    assert (exact.scored, exact.settings["rounds"]) == (6, 6), "below which there is no interval"
    drifting = measured(Clock(drift=0.03), rounds=100, precision=0.02, dense=0.1, fast=0.08)["fast"]
    low, high = drifting.intervals["ratio_to_dense"]
    assert 6 < drifting.scored < 100
    assert high - low < 0.02


def test_rounds_end_when_the_interval_of_every_ratio_has_decided() -> None:
    clock = Clock(drift=0.03)
    steps = {name: clock.step(name, taken) for name, taken in {"dense": 0.1, "fast": 0.08, "faster": 0.07}.items()}

    def decided(_low: float, high: float) -> bool:
        return high < 0.83

    found = measure_latency(steps, warmup=2, rounds=100, decided=decided, seed=7, clock=clock)
    (rounds,) = {one.scored for one in found.values()}
    assert 6 < rounds < 100
    assert found["fast"].intervals["ratio_to_dense"][1] < 0.83


def test_drift_moves_the_times_but_hardly_the_ratios() -> None:
    found = measured(Clock(drift=0.01), rounds=40, dense=0.1, fast=0.08)
    times = found["dense"].samples["ms"]
    assert times[-1] > 1.5 * times[0]
    assert found["fast"].values["ratio_to_dense"] == pytest.approx(0.8, abs=0.005)


def test_every_round_runs_all_in_an_order_of_its_own_that_the_seed_fixes() -> None:
    clocks = [Clock(), Clock()]
    for clock in clocks:
        measured(clock, dense=0.1, fast=0.08, slow=0.13)
    assert clocks[0].ran == clocks[1].ran
    rounds = [tuple(clocks[0].ran[start : start + 3]) for start in range(0, 66, 3)]
    assert len(rounds) == 22, "2 to warm up, 20 timed"
    assert all(sorted(order) == ["dense", "fast", "slow"] for order in rounds)
    assert len(set(rounds)) > 3


def test_warmup_rounds_are_not_timed() -> None:
    clock = Clock()
    first = iter([5.0, 5.0])

    def step() -> None:
        clock.now += next(first, 0.1)

    found = measure_latency({"dense": step}, warmup=2, rounds=6, seed=0, clock=clock)
    assert max(found["dense"].samples["ms"]) == pytest.approx(100)


def test_the_upper_percentiles_show_a_tail_that_the_median_hides() -> None:
    clock = Clock()
    times = iter([0.1] * 17 + [0.5] * 2 + [0.9])

    def step() -> None:
        clock.now += next(times)

    found = measure_latency({"dense": step}, warmup=0, rounds=20, seed=0, clock=clock)["dense"]
    assert found.values["median_ms"] == found.values["p50_ms"] == pytest.approx(100)
    assert found.values["p90_ms"] == pytest.approx(500)
    assert 500 < found.values["p99_ms"] < 900


def fails() -> None:
    raise RuntimeError("out of memory")


def test_a_failing_variant_fails_alone() -> None:
    clock = Clock()
    steps = {"dense": clock.step("dense", 0.1), "broken": fails, "fast": clock.step("fast", 0.05)}
    found = measure_latency(steps, warmup=1, rounds=6, seed=0, clock=clock)
    assert found["broken"].status == "failed"
    assert found["broken"].reason == "RuntimeError in round 0: out of memory"
    assert found["fast"].values["ratio_to_dense"] == pytest.approx(0.5)


def test_without_a_baseline_there_are_no_ratios() -> None:
    clock = Clock()
    found = measure_latency({"dense": fails, "fast": clock.step("fast", 0.05)}, warmup=0, rounds=6, seed=0, clock=clock)
    assert found["fast"].values.keys() == {"median_ms", "p50_ms", "p90_ms", "p99_ms"}


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(FastFluxError, match=r"no step of the baseline 'dense' among \['fast'\]"):
        measure_latency({"fast": fails}, warmup=0, rounds=1, seed=0)
    with pytest.raises(FastFluxError, match="rounds is 0"):
        measure_latency({"dense": fails}, warmup=0, rounds=0, seed=0)


def test_the_real_clock_shows_a_slow_step_and_collection_is_on_again() -> None:
    small, large = np.ones((2, 2)), np.ones((300, 300))
    steps = {"dense": lambda: small @ small, "slow": lambda: large @ large @ large}
    found = measure_latency(steps, warmup=1, rounds=9, seed=0)
    interval = found["slow"].intervals["ratio_to_dense"]
    assert interval[0] > 1
    assert gc.isenabled()


def test_a_long_message_is_cut_to_what_a_record_can_use() -> None:
    def step() -> None:
        raise RuntimeError("backend raised:\n\nNo compiler\n" + "trace\n" * 100)

    found = measure_latency({"dense": step}, warmup=0, rounds=1, seed=0, clock=Clock())
    assert found["dense"].reason == "RuntimeError in round 0: backend raised: No compiler"


def looks(monkeypatch: pytest.MonkeyPatch, found: OtherWork) -> list[str]:
    """Let the look at the machine find that; the devices looked at."""
    devices: list[str] = []

    def look(device: str) -> OtherWork:
        devices.append(device)
        return found

    monkeypatch.setattr(latency, "other_work", look)
    return devices


def test_the_clock_and_other_work_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = looks(monkeypatch, OtherWork(busy=True, text="other work takes 60% of the 2 cores"))
    settings = measure_latency({"dense": lambda: None}, warmup=0, rounds=1, seed=0)["dense"].settings
    assert settings["clock"] == "perf_counter"
    assert settings["other_work"] == "other work takes 60% of the 2 cores"
    assert devices == ["cpu"]
    settings = measured(Clock(), dense=0.1)["dense"].settings
    assert settings["clock"] == "Clock"
    assert "other_work" not in settings, "a clock of its own says nothing about the machine"
    assert devices == ["cpu"]


def test_a_busy_device_is_refused_only_when_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    steps = {"dense": lambda: ran.append(1)}
    looks(monkeypatch, OtherWork(busy=True, text="other work takes 60% of the 2 cores"))
    with pytest.raises(FastFluxError, match="not idle: other work takes 60%"):
        measure_latency(steps, warmup=0, rounds=1, seed=0, require_idle=True)
    assert not ran
    looks(monkeypatch, OtherWork(busy=False, text="none seen"))
    assert measure_latency(steps, warmup=0, rounds=1, seed=0, require_idle=True)["dense"].status == "ok"
