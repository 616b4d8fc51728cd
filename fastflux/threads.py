"""How many cores this process may use, and how many threads its arithmetic takes."""

import math
import os
import sys
from pathlib import Path

SMALL_BYTES = 2**28
"""Of a transformer's weights: below, the threads of one product wait for each other longer than they compute, and ten
times longer on a machine that does something else. FLUX-Shapes has a tenth of that."""


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that affinity and the quota of this process' control group (version 1 or 2) leave it, at least 1."""
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(affine, *_quotas(root))))


def _quotas(root: Path) -> list[float]:
    """Cores' worth of time that each group around this process may use; none where nothing is limited."""
    try:
        memberships = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return [math.inf]
    found = [math.inf]
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / ("" if not controllers else "cpu")
            # In a container the group of the file may be its root here.
            for group in {mount, *(mount / part.lstrip("/") for part in (path, *map(str, Path(path).parents)))}:
                found += _quota(group)
    return found


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
