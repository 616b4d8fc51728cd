"""The last stage: FLOPs, parameters, memory, cost, and the latency of all variants of a dense model in one run."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from torch import nn

from bench.metrics.catalogue import metric_named
from bench.metrics.cost.end_to_end import PipelineCall, measure_end_to_end
from bench.metrics.cost.flops import count_flops, measure_flops, measure_parameters
from bench.metrics.cost.latency import measure_latency
from bench.metrics.cost.memory import measure_memory
from bench.profiles.variants import Variant
from bench.progress import console
from bench.records.results import JSON, Measurement
from bench.run.base_model import BaseModel
from bench.run.evaluation import Evaluation, ModelStep
from bench.run.prune import cost_of, transformer
from bench.run.score import new_record
from bench.run.units import Results, Unit

STAGE = "measure"
_OF_A_STEP = ("flops", "parameters", "memory", "latency", "pruning_cost")
_OF_A_CALL = "latency_end_to_end"


def metrics_of(evaluation: Evaluation) -> tuple[str, ...]:
    """Names of what is measured of a variant without its images."""
    return (*_OF_A_STEP, *([_OF_A_CALL] if evaluation.profile.latency.end_to_end else []))


def unit(evaluation: Evaluation, variants: Sequence[Variant]) -> Unit:
    """The measuring of variants of one dense model in turn; ratios are good within one such run only."""
    latency = evaluation.profile.latency
    shared: dict[str, JSON] = {
        **evaluation.step_settings(),
        "warmup": latency.warmup,
        "rounds": latency.rounds,
        "precision": latency.precision,
        "end_to_end": latency.end_to_end,
        "versions": {metric: metric_named(metric).info.version for metric in metrics_of(evaluation)},
    }
    inputs = {variant.id: {"record": new_record(evaluation, variant).key, **shared} for variant in variants}
    return Unit(inputs, partial(_measure, evaluation, variants))


def _measure(evaluation: Evaluation, variants: Sequence[Variant]) -> Results:
    base, dense = evaluation.base(variants[0].base), evaluation.dense(variants[0].base)
    run: dict[str, JSON] = {
        **evaluation.step_settings(),
        "run": datetime.now(UTC).isoformat(timespec="seconds"),  # tells it from others
        "node": platform.node(),
    }
    found: dict[str, list[Measurement]] = {}
    for group in _groups(dense, variants, evaluation.profile.latency.together):
        # The dense model's own figures are those of the first group.
        found = {**_measure_together(evaluation, base, group, run), **found}
    return {variant.id: found[variant.id] for variant in variants}


def _measure_together(
    evaluation: Evaluation, base: BaseModel, variants: Sequence[Variant], run: Mapping[str, JSON]
) -> dict[str, list[Measurement]]:
    """Measure variants of which the first is the dense model, all in memory at once."""
    baseline = variants[0].id
    models = {variant.id: transformer(evaluation, variant).eval() for variant in variants}
    dense, latency, device = models[baseline], evaluation.profile.latency, evaluation.device
    inputs, single = base.step_inputs(dense, latency.batch), base.step_inputs(dense, 1)
    dense_flops = count_flops(dense, single)
    dense_total = sum(p.numel() for p in dense.parameters())
    steps = {name: ModelStep(model, inputs) for name, model in models.items()}
    timed_steps = {variant.id: steps[variant.id] for variant in variants if variant.is_timed}
    console.print(f"measure one step of {len(timed_steps)} variants, {latency.rounds} interleaved rounds")
    times = measure_latency(
        timed_steps, warmup=latency.warmup, rounds=latency.rounds, precision=latency.precision,
        seed=evaluation.sampling.seed, baseline=baseline, device=device, settings=run,
    )  # fmt: skip
    timed: dict[str, Measurement] = {}
    if latency.end_to_end:
        console.print(f"measure one call of {len(timed_steps)} variants, {latency.end_to_end} interleaved rounds")
        timed_models = {name: models[name] for name in timed_steps}
        timed = measure_end_to_end(
            calls(evaluation, base, timed_models, latency.batch), warmup=1, rounds=latency.end_to_end,
            seed=evaluation.sampling.seed, baseline=baseline, device=device, settings={"run": run["run"]},
        )  # fmt: skip
    settings = evaluation.step_settings()
    return {
        variant.id: [
            measure_flops(
                models[variant.id], single, dense_forward=dense_flops, forward=dense_flops if variant.is_dense else None
            ),
            measure_parameters(models[variant.id], dense_total=dense_total),
            measure_memory(models[variant.id], steps[variant.id], device=device, settings=settings),
            *([times[variant.id]] if variant.id in times else []),
            cost_of(evaluation, variant),
            *([timed[variant.id]] if variant.id in timed else []),
        ]
        for variant in variants
    }


def calls(
    evaluation: Evaluation, base: BaseModel, models: Mapping[str, nn.Module], batch: int
) -> dict[str, PipelineCall]:
    """By variant, a pipeline call that draws the first `batch` prompts; alike but for the transformer."""
    sampling = base.profile.sampling
    prompts = tuple(prompt.prompt for prompt in (evaluation.prompts * batch)[:batch])
    return {
        name: PipelineCall(
            base.pipeline, model, prompts, sampling.steps, sampling.guidance, sampling.height, sampling.width
        )
        for name, model in models.items()
    }


def _groups(dense: Variant, variants: Sequence[Variant], together: int) -> list[list[Variant]]:
    """The variants in groups of at most `together` (0: all), the dense model first in each."""
    pruned = [variant for variant in variants if not variant.is_dense]
    size = together - 1 if together > 1 else max(1, len(pruned))
    return [[dense, *pruned[start : start + size]] for start in range(0, max(1, len(pruned)), size)]
