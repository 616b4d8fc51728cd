"""What a run will take, told before it starts: images, transformer steps, files, memory, disk and time."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.table import Table

from bench.metrics.cost.flops import count_flops
from bench.metrics.cost.timing import step_timer
from bench.profiles.variants import Variant
from bench.progress import console
from bench.run.draw import PROMPTS_OF_A_KIND
from bench.run.evaluate import nodes_of
from bench.run.evaluation import Evaluation, ModelStep
from bench.run.graph import Node, simulate
from bench.samples.generate import jobs_of
from bench.samples.prompts import limited
from fastflux.methods.registry import amount

_GIB = 2**30


#: Numbers of workers whose time is told.
_WORKERS = (1, 2, 8, 64)


@dataclass(frozen=True)
class RunPlan:
    """Counts of a whole run from nothing; what earlier runs left makes it shorter.

    The work of the `nodes` is told in transformer steps on one picture of the dense model. `training_steps` are the
    optimiser's. `weights_bytes` are the largest pipeline's files. `seconds_per_step` is that of the dense model on one
    picture, None where it was not timed; `flops_per_step` that of one picture.
    """

    variants: int
    images: int
    nodes: Sequence[Node]
    training_steps: int
    weights_bytes: int
    flops_per_step: float
    seconds_per_step: float | None = None

    @property
    def steps(self) -> float:
        """Of all nodes."""
        return sum(node.steps for node in self.nodes)

    def hours(self, workers: int = 1) -> float | None:
        """That so many workers take, at the dense model's speed; loading comes on top."""
        return None if self.seconds_per_step is None else simulate(self.nodes, workers, self.seconds_per_step) / 3600


def plan_run(evaluation: Evaluation, *, timed: bool = False) -> RunPlan:
    """The plan of a whole run; with `timed` a step of the dense model is timed on the run's device.

    Raises FastFluxError for files that are not there.
    """
    evaluation.require_inputs()
    base, nodes = evaluation.main, nodes_of(evaluation)
    dense = base.outline.transformer
    images = len(jobs_of(evaluation.prompts, evaluation.sampling)) * len(evaluation.variants)
    removals = sum(node.stage == "draw_without" for node in nodes)
    return RunPlan(
        variants=len(evaluation.variants),
        images=images + removals * len(limited(evaluation.prompts, PROMPTS_OF_A_KIND)),
        nodes=nodes,
        training_steps=sum(_training_steps(variant, dense) for variant in evaluation.variants),
        weights_bytes=max(evaluation.base(name).weights_bytes for name in evaluation.bases),
        flops_per_step=float(count_flops(dense, base.step_inputs(dense, 1))),
        seconds_per_step=_timed(evaluation) if timed else None,
    )


def show_plan(plan: RunPlan, evaluation: Evaluation, workers: int | None = None) -> None:
    """Print the plan with what the machine has."""
    table = Table("", "", title=f"{evaluation.profile.title}: the whole run", show_header=False)
    table.add_row("variants", f"{plan.variants}")
    table.add_row("images to draw", f"{plan.images:,}")
    table.add_row("transformer steps on one picture", f"{plan.steps:,.0f}, {plan.flops_per_step:.3g} FLOPs each")
    table.add_row("training steps", f"{plan.training_steps:,}")
    table.add_row("pipeline's files", f"{plan.weights_bytes / _GIB:.2f} GiB")
    table.add_row("memory", _memory(evaluation.device))
    existing = next(folder for folder in (evaluation.folder, *evaluation.folder.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / _GIB
    table.add_row("disk", f"{evaluation.profile.disk_mib / 1024:.1f} GiB needed, {free:.1f} GiB free")
    if plan.seconds_per_step is not None:
        for count in sorted({*_WORKERS, workers or 1}):
            name = "GPU" if not evaluation.on_cpu else "core"
            size = f" ({plan.seconds_per_step * 1000:.3g} ms a step on one picture)" if count == 1 else ""
            table.add_row(f"hours on {count} {name}{'s' * (count > 1)}", f"{plan.hours(count):.2g}{size}")
    console.print(table)
    stages = Table("stage", "units", "transformer steps", "comes after", title="units of work")
    for stage in dict.fromkeys(node.stage for node in plan.nodes):
        chosen = [node for node in plan.nodes if node.stage == stage]
        before = dict.fromkeys(key.partition(":")[0] for node in chosen for key in node.needs)
        alone = " (alone)" if chosen[0].alone else ""
        steps = sum(node.steps for node in chosen)
        stages.add_row(f"{stage}{alone}", f"{len(chosen)}", f"{steps:,.0f}", ", ".join(before))
    console.print(stages)


def _training_steps(variant: Variant, dense: torch.nn.Module) -> int:
    """Optimiser steps of a pruning method: `steps` once, or for each block where blocks are replaced one by one."""
    steps = getattr(variant.config, "steps", 0)
    if variant.config is None or not steps or not hasattr(variant.config, "blocks"):
        return int(steps)
    return int(steps) * amount(dense, getattr(variant.config, "ratio", None), variant.config.blocks)


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
