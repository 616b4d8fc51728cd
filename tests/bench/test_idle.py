"""Other work on the device: seen, told apart from this process' own, and refused only when that is asked for."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from bench.metrics.cost import idle
from bench.metrics.cost.idle import OtherWork, other_work
from fastflux.errors import FastFluxError

TICKS = 1000


def stat_line(busy: int, all_ticks: int) -> str:
    """A /proc/stat of which `busy` ticks were used, a fifth of them withheld by the host."""
    stolen = busy // 5
    return f"cpu  {busy - stolen} 0 0 {all_ticks - busy} 0 0 0 {stolen} 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n"


def cpu_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: int, own_seconds: float = 0.0) -> OtherWork:
    """What is seen when `busy` of 1000 ticks are used while one looks."""
    stat = tmp_path / "stat"
    stat.write_text(stat_line(5000, 10000))
    own = iter([1.0, 1.0 + own_seconds])
    monkeypatch.setattr(idle.time, "process_time", lambda: next(own))
    monkeypatch.setattr(idle.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(idle.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(idle.time, "sleep", lambda seconds: stat.write_text(stat_line(5000 + busy, 10000 + TICKS)))
    return other_work("cpu", stat)


def test_other_work_on_the_cpu_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cpu_with(tmp_path, monkeypatch, busy=600)
    assert (found.busy, str(found)) == (True, "other work takes 60% of the 2 cores")
    with pytest.raises(FastFluxError, match="not idle: other work takes 60%"):
        found.require_idle()


def test_an_idle_cpu_is_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cpu_with(tmp_path, monkeypatch, busy=40)
    assert (found.busy, str(found)) == (False, "none seen")
    found.require_idle()


def test_this_process_own_work_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_with(tmp_path, monkeypatch, busy=600, own_seconds=5.6).busy is False


@pytest.mark.parametrize(("load", "busy"), [(0.4, False), (1.9, True)])
def test_without_the_cores_times_the_load_average_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: float, busy: bool
) -> None:
    monkeypatch.setattr(idle.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(idle.os, "cpu_count", lambda: 2)
    assert other_work("cpu", tmp_path / "absent").busy is busy
    (tmp_path / "stat").write_text("not the kernel's\n")
    assert other_work("cpu", tmp_path / "stat").busy is busy


def test_what_cannot_be_told_is_neither_idle_nor_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> tuple[float, float, float]:
        raise OSError

    monkeypatch.setattr(idle.os, "getloadavg", unreadable)
    found = other_work("cpu", tmp_path / "absent")
    assert found.busy is None
    with pytest.raises(FastFluxError, match="cannot be told"):
        found.require_idle()


def gpu_with(monkeypatch: pytest.MonkeyPatch, readings: Sequence[str | None]) -> OtherWork:
    left = iter(readings)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(idle.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(idle, "query_gpu", lambda device, fields: {"utilization.gpu": next(left)})
    return other_work("cuda:0")


def test_a_gpu_is_busy_only_when_it_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = gpu_with(monkeypatch, ["97", "85", "90"])
    assert (found.busy, "85% utilised" in found.text) == (True, True)
    assert gpu_with(monkeypatch, ["97", "30", "0"]).busy is False, "what ran before has left the driver's mean"
    assert gpu_with(monkeypatch, [None]).busy is None


def test_the_machine_itself_can_be_looked_at() -> None:
    assert other_work("cpu").text
