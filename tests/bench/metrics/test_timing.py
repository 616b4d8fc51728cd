"""Which clock times a step, and that a CUDA device's own is asked in the right order."""

import time
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from bench.metrics.cost.timing import percentiles, step_timer


def test_a_cpu_is_timed_by_the_systems_clock() -> None:
    name, timer = step_timer("cpu")
    assert name == "perf_counter"
    assert 5 < timer(lambda: time.sleep(0.006)) < 500


class Events:
    """Stands in for torch.cuda: what is called, in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        log = self.log

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                self.name = "end" if "start" in log else "start"
                log.append(self.name)

            def record(self) -> None:
                log.append(f"{self.name} recorded")

            def synchronize(self) -> None:
                log.append(f"{self.name} awaited")

            def elapsed_time(self, other: Any) -> float:
                return 12.5

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: log.append("awaited"))


def test_cuda_is_timed_by_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    events = Events(monkeypatch)
    name, timer = step_timer("cuda:0")
    assert name == "cuda_events"
    assert timer(lambda: events.log.append("step")) == 12.5
    order = ["awaited", "start", "end", "start recorded", "step", "end recorded", "end awaited"]
    assert events.log == order


def test_a_given_clock_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    events = Events(monkeypatch)
    ticks = iter([1.0, 1.25])

    def ticking() -> float:
        events.log.append("read")
        return next(ticks)

    name, timer = step_timer("cuda", ticking)
    assert name == "ticking"
    assert timer(lambda: events.log.append("step")) == pytest.approx(250)
    assert events.log == ["awaited", "read", "step", "awaited", "read"]


def test_percentiles_are_of_the_times() -> None:
    assert percentiles([float(value) for value in range(101)]) == {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99}
    assert percentiles([3.0]) == {"p50_ms": 3, "p90_ms": 3, "p99_ms": 3}
