"""What a run will take, told before it starts: images, transformer steps, files, memory, disk and time."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from bench.metrics.cost.flops import count_flops
from bench.metrics.cost.timing import step_timer
from bench.profiles.variants import Variant, ranking_file
from bench.progress import console
from bench.run.draw import count_single_removals
from bench.run.evaluation import Evaluation, ModelStep
from bench.samples.generate import jobs_of
from fastflux.methods.registry import amount

_GIB = 2**30


@dataclass(frozen=True)
class RunPlan:
    """Counts of a whole run from nothing; what earlier runs left makes it shorter.

    `steps` are transformer steps on one picture (samples x sampling steps, of calibration and of drawing; a pruned
    model's count as the dense one's); `training_steps` are the optimiser's. `weights_bytes` are the largest pipeline's
    files. `seconds_per_step` is that of the dense model on one picture, None where it was not timed; `flops_per_step`
    that of one picture.
    """

    variants: int
    images: int
    steps: int
    training_steps: int
    weights_bytes: int
    flops_per_step: float
    seconds_per_step: float | None = None

    @property
    def hours(self) -> float | None:
        """Of drawing and calibrating alone, at the dense model's speed; training, scoring and loading come on top."""
        return None if self.seconds_per_step is None else self.steps * self.seconds_per_step / 3600


def plan_run(evaluation: Evaluation, *, timed: bool = False) -> RunPlan:
    """The plan of a whole run; with `timed` a step of the dense model is timed on the run's device.

    Raises FastFluxError for files that are not there.
    """
    evaluation.require_inputs()
    base = evaluation.main
    dense = base.outline.transformer
    images = len(jobs_of(evaluation.prompts, evaluation.sampling)) * len(evaluation.variants)
    if ranking_file(evaluation.profile, "sandwich_training") is not None:
        images += count_single_removals(evaluation)
    calibrations = sum(
        len(evaluation.base(name).calibration_prompts) * evaluation.profile.calibration.steps
        for name in {variant.base for variant in evaluation.variants if variant.config is not None}
    )
    trainings = sum(_training_steps(variant, dense) for variant in evaluation.variants)
    return RunPlan(
        variants=len(evaluation.variants),
        images=images,
        steps=images * evaluation.sampling.steps + calibrations,
        training_steps=trainings,
        weights_bytes=max(_bytes(evaluation.base(variant.base).folder) for variant in evaluation.variants),
        flops_per_step=float(count_flops(dense, base.step_inputs(dense, 1))),
        seconds_per_step=_timed(evaluation) if timed else None,
    )


def show_plan(plan: RunPlan, evaluation: Evaluation) -> None:
    """Print the plan with what the machine has."""
    table = Table("", "", title=f"{evaluation.profile.title}: the whole run", show_header=False)
    table.add_row("variants", f"{plan.variants}")
    table.add_row("images to draw", f"{plan.images:,}")
    table.add_row("transformer steps on one picture", f"{plan.steps:,}, {plan.flops_per_step:.3g} FLOPs each")
    table.add_row("training steps", f"{plan.training_steps:,}")
    table.add_row("pipeline's files", f"{plan.weights_bytes / _GIB:.2f} GiB")
    table.add_row("memory", _memory(evaluation.device))
    existing = next(folder for folder in (evaluation.folder, *evaluation.folder.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / _GIB
    table.add_row("disk", f"{evaluation.profile.disk_mib / 1024:.1f} GiB needed, {free:.1f} GiB free")
    if plan.seconds_per_step is not None:
        size = f"{plan.seconds_per_step * 1000:.3g} ms on one picture"
        table.add_row("time", f"{plan.hours:.2g} hours to draw and calibrate ({size}); training and scoring on top")
    console.print(table)


def _training_steps(variant: Variant, dense: torch.nn.Module) -> int:
    """Optimiser steps of a pruning method: `steps` once, or for each block where blocks are replaced one by one."""
    steps = getattr(variant.config, "steps", 0)
    if variant.config is None or not steps or not hasattr(variant.config, "blocks"):
        return int(steps)
    return int(steps) * amount(dense, getattr(variant.config, "ratio", None), variant.config.blocks)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _memory(device: str) -> str:
    if torch.device(device).type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free on {torch.cuda.get_device_name(device)}"
    return "the machine's own"


def _timed(evaluation: Evaluation) -> float:
    """Seconds of a dense step for one picture, in batches as they are drawn; the first, slower one does not count."""
    base = evaluation.main
    dense = base.dense().eval()
    batch = evaluation.sampling.batch
    step = ModelStep(dense, base.step_inputs(dense, batch))
    _, timer = step_timer(evaluation.device)
    timer(step)
    return timer(step) / 1000 / batch
