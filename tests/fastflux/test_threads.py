"""Cores are counted by affinity and by the quotas of control groups; small models compute with one thread."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from fastflux import threads
from fastflux.threads import usable_cores, usable_memory, use_threads_for

V1 = "4:cpu,cpuacct:/jobs/one\n3:memory:/jobs/one\n"
V2 = "0::/jobs/one\n"


def write_groups(root: Path, membership: str, files: Mapping[str, str]) -> None:
    for name, text in {"proc/self/cgroup": membership, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("", {}, 8),
        (V2, {"cpu.max": "max 100000"}, 8),
        (V2, {"jobs/one/cpu.max": "250000 100000"}, 2),
        (V2, {"jobs/cpu.max": "300000 100000", "jobs/one/cpu.max": "max 100000"}, 3),
        ("0::/not/mounted/here\n", {"cpu.max": "50000 100000"}, 1),
        (V1, {"cpu/jobs/one/cpu.cfs_quota_us": "-1", "cpu/jobs/one/cpu.cfs_period_us": "100000"}, 8),
        (V1, {"cpu/jobs/cpu.cfs_quota_us": "400000", "cpu/jobs/cpu.cfs_period_us": "100000"}, 4),
        (V1, {"cpu/cpu.cfs_quota_us": "1600000", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_cores_are_those_of_affinity_and_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, files: Mapping[str, str], cores: int
) -> None:
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _pid: range(8), raising=False)
    write_groups(tmp_path, membership, files)
    assert usable_cores(tmp_path) == cores


V2_MEMORY = {"jobs/memory.max": "8000\n", "jobs/memory.current": "5000\n", "jobs/memory.stat": "inactive_file 700\n"}
V1_MEMORY = {"limit_in_bytes": "5000\n", "usage_in_bytes": "4000\n", "stat": "cache 90\ninactive_file 10\n"}


@pytest.mark.parametrize(
    ("membership", "files", "left"),
    [
        ("", {}, 9000),
        (V2, V2_MEMORY, 3700),
        (V2, {**V2_MEMORY, "jobs/memory.max": "max\n"}, 9000),
        (V2, {**V2_MEMORY, "jobs/memory.max": "99000\n"}, 9000),
        (V2, {**V2_MEMORY, "jobs/memory.current": "9000\n"}, 0),
        (V1, {f"memory/jobs/one/memory.{name}": text for name, text in V1_MEMORY.items()}, 1010),
    ],
)
def test_memory_is_what_the_machine_and_the_groups_limit_leave(
    tmp_path: Path, membership: str, files: Mapping[str, str], left: int
) -> None:
    write_groups(tmp_path, membership, files)
    assert usable_memory(9000, tmp_path) == left


@pytest.mark.parametrize(("size", "given", "count"), [(100, None, 1), (400, None, 6), (0, None, 6), (400, "3", 3)])
def test_a_small_model_takes_one_thread_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, given: str | None, count: int
) -> None:
    (tmp_path / "transformer").mkdir()
    if size:
        (tmp_path / "transformer" / "model.safetensors").write_bytes(bytes(size))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "SMALL_BYTES", 200)
    monkeypatch.setattr(threads, "usable_cores", lambda: 6)
    try:
        use_threads_for(tmp_path)
        assert os.environ["OMP_NUM_THREADS"] == str(count)
        assert torch.get_num_threads() == (before if given else count)
    finally:
        torch.set_num_threads(before)
