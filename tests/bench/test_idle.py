"""Other work on the device: seen, told apart from this process' own, and refused only when that is asked for."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch

from bench.metrics.cost import timing as idle
from bench.metrics.cost.timing import OtherWork, other_work
from fastflux.errors import FastFluxError


class Times(NamedTuple):
    """Seconds, as psutil has them on Linux."""

    user: float
    nice: float
    system: float
    idle: float
    iowait: float
    steal: float
    guest: float


def cpu_with(monkeypatch: pytest.MonkeyPatch, busy: float, own_seconds: float = 0.0, whole: float = 10.0) -> OtherWork:
    """What is seen when `busy` of 10 seconds of both cores are used while one looks, a fifth withheld by the host."""
    used = Times(40 + 0.8 * busy, 5, 5, 40 + whole - busy, 10, 0.2 * busy, 3)
    readings = iter([Times(40, 5, 5, 40, 10, 0, 3), used])
    own = iter([1.0, 1.0 + own_seconds])
    monkeypatch.setattr(idle.psutil, "cpu_times", lambda: next(readings))
    monkeypatch.setattr(idle.time, "process_time", lambda: next(own))
    monkeypatch.setattr(idle.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(idle.time, "sleep", lambda _seconds: None)
    return other_work("cpu")


def test_other_work_on_the_cpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cpu_with(monkeypatch, busy=6.0)
    assert (found.busy, str(found)) == (True, "other work takes 60% of the 2 cores")
    with pytest.raises(FastFluxError, match="not idle: other work takes 60%"):
        found.require_idle()


def test_an_idle_cpu_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cpu_with(monkeypatch, busy=0.4)
    assert (found.busy, str(found)) == (False, "none seen")
    found.require_idle()


def test_this_process_own_work_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_with(monkeypatch, busy=6.0, own_seconds=5.6).busy is False


def test_what_cannot_be_told_is_neither_idle_nor_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cpu_with(monkeypatch, busy=0.0, whole=0.0)
    assert found.busy is None
    with pytest.raises(FastFluxError, match="cannot be told"):
        found.require_idle()


def gpu_with(monkeypatch: pytest.MonkeyPatch, readings: Sequence[int | None]) -> OtherWork:
    left = iter(readings)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(idle.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(idle, "gpu_utilisation", lambda device: next(left))
    return other_work("cuda:0")


def test_a_gpu_is_busy_only_when_it_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = gpu_with(monkeypatch, [97, 85, 90])
    assert (found.busy, "85% utilised" in found.text) == (True, True)
    assert gpu_with(monkeypatch, [97, 30, 0]).busy is False, "what ran before has left the driver's mean"
    assert gpu_with(monkeypatch, [None]).busy is None


def test_the_machine_itself_can_be_looked_at() -> None:
    assert other_work("cpu").text
