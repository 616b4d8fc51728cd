"""How many cores and how much memory this process may use, and how many threads its arithmetic takes."""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

SMALL_BYTES = 2**28
"""Of a transformer's weights: below, the threads of one product wait for each other longer than they compute, and ten
times longer on a machine that does something else. FLUX-Shapes has a tenth of that."""


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that affinity and the quota of this process' control group (version 1 or 2) leave it, at least 1."""
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in _groups(root, "cpu") for quota in _quota(group)]
    return max(1, math.floor(min([affine, *quotas])))


def usable_memory(free: int, root: Path = Path("/")) -> int:
    """Of the bytes that are free on the machine, those that the limits of this process' control group leave it."""
    return max(0, min([free, *(left for group in _groups(root, "memory") for left in _memory_left(group))]))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of all control groups around this process; none where there are none."""
    try:
        memberships = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / ("" if not controllers else controller)
            # In a container the group of the file may be its root here.
            yield from {mount, *(mount / part.lstrip("/") for part in (path, *map(str, Path(path).parents)))}


def _memory_left(group: Path) -> list[int]:
    """Of the group's limit, what is neither used nor only a copy of files."""
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        try:
            bound, taken = (int((group / name).read_text(encoding="utf-8")) for name in (limit, used))
            counts = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
            return [bound - taken + int(counts.get("inactive_file", 0))]
        except (OSError, ValueError):  # "max" too
            continue
    return []


def _quota(group: Path) -> list[float]:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text(encoding="utf-8") for name in names).split()
            return [int(quota) / int(period)] if quota != "max" and int(quota) > 0 else []
        except (OSError, ValueError):
            continue
    return []


def use_threads(count: int) -> None:
    """Compute with so many threads from now on, in processes that this one starts too.

    The libraries that are not loaded yet read it from the environment.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(count)


def use_threads_for(pipeline: Path) -> None:
    """One thread for a small model, which then gives the same bits on any number of cores; else all usable cores.

    ``OMP_NUM_THREADS`` in the environment says otherwise.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        weights = sum(path.stat().st_size for path in (pipeline / "transformer").glob("*.safetensors"))
        use_threads(1 if 0 < weights < SMALL_BYTES else usable_cores())
