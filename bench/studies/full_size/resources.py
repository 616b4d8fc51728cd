"""What the stages need of a machine, against what it has: told before any work."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.studies.full_size.stage import Stage
from bench.studies.full_size.workbench import Workbench, free_bytes, host_free_bytes
from fastflux.errors import FastFluxError
from fastflux.settings import require_device

GIB = 2**30


def usable_dtype(name: str, device: str, *, strict: bool) -> torch.dtype:
    """The number format, checked on the device where `strict`.

    Raises FastFluxError for none of floating point, a device that is not there, or one without bfloat16.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise FastFluxError(f"The dtype is {name!r}: give float32, bfloat16 or float16.")
    if not strict:
        return dtype
    require_device(device)
    if dtype == torch.bfloat16 and torch.device(device).type == "cuda":
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                raise FastFluxError(
                    f"{torch.cuda.get_device_name(device)} has no bfloat16 arithmetic: give --dtype float16, which is "
                    "a measurement of its own."
                )
    return dtype


def require_resources(bench: Workbench, stages: Sequence[Stage]) -> None:
    """Raise FastFluxError, naming need and remedy, when a stage needs more memory or disk than there is."""
    disk = free_disk(bench.store.folder)
    for stage in stages:
        need = stage.need(bench)
        one_memory = torch.device(bench.device).type == "cpu"
        device = need.device + (need.host if one_memory else 0)
        for what, wanted, free, remedy in (
            (f"memory on {bench.device}", device, free_bytes(bench.device) if device else 0, need.remedy),
            ("memory of the machine", 0 if one_memory else need.host, host_free_bytes(), need.remedy),
            (f"disk below {bench.store.folder.name}", need.disk, disk, "free some space"),
        ):
            if wanted > free:
                raise FastFluxError(
                    f"The stage {stage.name} needs at least {wanted / GIB:.1f} GiB of {what}, activations not counted, "
                    f"and {free / GIB:.1f} GiB are free: {remedy}. Other stages can be named with --stages."
                )


def free_disk(folder: Path) -> int:
    """Bytes on the disk of a folder that need not be there yet."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free
