"""`--dry-run`: a table of what every stage needs and has left, and what the machine has."""

from collections.abc import Sequence

import torch
from rich.table import Table

from bench.progress import console
from bench.studies.full_size.resources import GIB, free_disk
from bench.studies.full_size.stage import Stage
from bench.studies.full_size.workbench import Workbench, host_free_bytes


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
