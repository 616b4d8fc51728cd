"""What the stages need of a machine, against what it has: told before any work."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.table import Table

from bench.progress import console
from bench.studies.full_size.workbench import Stage, Workbench, free_bytes, host_free_bytes
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


def show_plan(bench: Workbench, stages: Sequence[Stage]) -> None:
    """Print what each stage needs and has left; hours only where pieces of it were measured here before."""
    table = Table(
        "stage", "what", "device", "host", "disk", "left", "measured",
        title=f"{bench.profile.title}: at least so many GiB, activations not counted",
    )  # fmt: skip
    for stage in stages:
        need, every = stage.need(bench), stage.units(bench)
        spent = sum(done.seconds for done in bench.store.done(stage.name))
        table.add_row(
            stage.name, stage.what,
            *(f"{size / GIB:.1f}" if size else "" for size in (need.device, need.host, need.disk)),
            f"{len(stage.left(bench))} of {len(every)}", f"{spent:.0f} s" if spent else "",
        )  # fmt: skip
    console.print(table)
    console.print(f"the machine: {_has(bench)}", markup=False, soft_wrap=True)
    samples = bench.sizes.samples
    steps = sum(stage.name.startswith("latency-") for stage in stages) * len(bench.variants)
    console.print(
        f"images to make: none, random weights draw nothing worth a look; forwards of the calibration: {samples:,} "
        f"samples, plain and with statistics; models to time at each resolution: {len(bench.variants)}, "
        f"{steps * (bench.profile.latency.rounds + bench.profile.latency.warmup):,} eager steps in all. "
        "Seconds are told of measured pieces alone, never estimated.",
        markup=False,
        soft_wrap=True,
    )


def _has(bench: Workbench) -> str:
    disk = free_disk(bench.store.folder) / GIB
    host = f"{host_free_bytes() / GIB:.1f} GiB of memory and {disk:.1f} GiB of disk free"
    if torch.device(bench.device).type != "cuda":
        return host
    if not torch.cuda.is_available():
        return f"{host}, no CUDA GPU: all stages but flops need one, or --device cpu at reduced sizes"
    free, total = torch.cuda.mem_get_info(bench.device)
    name = torch.cuda.get_device_name(bench.device)
    return f"{host}, {free / GIB:.1f} of {total / GIB:.1f} GiB free on {name}"
