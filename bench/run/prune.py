"""The first stage: every variant's pruned transformer, and the ratios at which L1-norm pruning meets a latency."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from bench.metrics.cost.flops import measure_pruning_cost
from bench.metrics.cost.latency_search import EqualLatency
from bench.profiles.variants import Variant, with_ratio
from bench.progress import console
from bench.records.environment import device_name
from bench.records.results import JSON, Measurement
from bench.run.equal_latency import solve_equal_latency
from bench.run.evaluation import Evaluation, ModelStep
from bench.run.graph import searched
from bench.run.units import Done, Results, Unit
from fastflux.calibration.statistics import Calibration
from fastflux.errors import FastFluxError
from fastflux.files import write_text
from fastflux.io.checkpoint import read_json, save_transformer
from fastflux.pruning import prune_

STAGE, SEARCH = "prune", "equal_latency"
#: How the latency of a variant is brought to that of the one it is to be as fast as: within 2%, by measurements that
#: are long enough to tell.
EQUAL_SEARCH: Mapping[str, Any] = {
    "tolerance": 0.02,
    "rounds": 30,
    "final_rounds": 100,
    "precision": 0.02,
    "final_precision": 0.01,
    "candidates": 6,
}


def unit(evaluation: Evaluation, variant: Variant) -> Unit:
    """The pruning of a variant, which measures its cost on the way."""
    inputs = {variant.id: evaluation.pruning_inputs(variant)}
    return Unit(inputs, partial(_prune, evaluation, variant), files=(evaluation.saved(variant),))


def transformer(evaluation: Evaluation, variant: Variant) -> nn.Module:
    """The variant's transformer; it is pruned and saved the first time."""
    base = evaluation.base(variant.base)
    if variant.is_dense:
        return base.dense()
    if variant.config is not None:
        _pruned(evaluation, variant)
    return base.load(evaluation.saved(variant))


def _pruned(evaluation: Evaluation, variant: Variant) -> Done:
    found = evaluation.pruner.find(STAGE, unit(evaluation, variant))
    if found is None:
        raise FastFluxError(f"{variant.id} is not pruned, or not whole: run the same again.")
    return found


def is_pruned(evaluation: Evaluation, variant: Variant) -> bool:
    """Whether the variant's transformer lies there whole, made from the present inputs."""
    return evaluation.pruner.find(STAGE, unit(evaluation, variant)) is not None


def plan_of(evaluation: Evaluation, variant: Variant) -> dict[str, JSON] | None:
    """The variant's plan as its saved config holds it; None for the dense model, and where there is none."""
    if variant.is_dense or (variant.config is not None and not is_pruned(evaluation, variant)):
        return None
    plan: dict[str, JSON] | None = read_json(evaluation.saved(variant) / "config.json").get("pruning_plan")
    return plan


def cost_of(evaluation: Evaluation, variant: Variant) -> Measurement:
    """What pruning the variant took; skipped for the dense model and for one pruned elsewhere."""
    if variant.config is None:
        return measure_pruning_cost(None)
    return _pruned(evaluation, variant).results[variant.id][0]


def _prune(evaluation: Evaluation, variant: Variant) -> Results:
    config = variant.config
    assert config is not None, "a variant without a config is never pruned"  # noqa: S101  # for mypy
    base = evaluation.base(variant.base)
    calibration = base.calibration(config.method) if config.needs_statistics else Calibration()
    model = base.dense()
    base.pipeline.transformer = model  # whose forwards the calibration records
    prune_(model, config, calibration, base_model=base.profile.title, base_revision=base.revision)
    shutil.rmtree(evaluation.saved(variant), ignore_errors=True)  # a damaged one is nothing that may be overwritten
    save_transformer(model, evaluation.saved(variant))
    return {variant.id: [measure_pruning_cost(calibration.cost)]}


def meet_latencies(evaluation: Evaluation) -> None:
    """Give the variants that are to be as fast as another one the ratios at which they are, as far as these are found.

    They keep their ids and `as_fast_as`.
    """
    for variant in evaluation.variants:
        if variant.as_fast_as and evaluation.pruner.find(SEARCH, search_unit(evaluation, variant)) is not None:
            note = _note(evaluation, variant)
            found = EqualLatency.from_json(note.read_text(encoding="utf-8"), str(note))
            met = with_ratio(variant, found.ratio, evaluation.variant(variant.as_fast_as))
            evaluation.variants = [met if item.id == variant.id else item for item in evaluation.variants]


def search_unit(evaluation: Evaluation, variant: Variant) -> Unit:
    """The search for the ratio at which the variant is as fast as `as_fast_as`."""
    target, note = evaluation.variant(variant.as_fast_as), _note(evaluation, variant)
    inputs: dict[str, JSON] = {
        "target": evaluation.pruning_inputs(target),
        "device": device_name(evaluation.device),
        "step": evaluation.step_settings(),
        **EQUAL_SEARCH,
    }
    return Unit({searched(variant): inputs}, partial(_search, evaluation, variant, target, note), files=(note,))


def _note(evaluation: Evaluation, variant: Variant) -> Path:
    return evaluation.saved(variant).parents[1] / searched(variant) / f"{SEARCH}.json"


def _search(evaluation: Evaluation, variant: Variant, target: Variant, note: Path) -> Results:
    console.print(f"search the ratio of {variant.id} at the latency of {target.label}")
    base = evaluation.base(variant.base)
    fast = transformer(evaluation, target).eval()
    inputs = base.step_inputs(fast, evaluation.profile.latency.batch)
    equal = solve_equal_latency(
        base.dense(),
        ModelStep(fast, inputs),
        inputs,
        **EQUAL_SEARCH,
        device=evaluation.device,
        progress=lambda line: console.print(line, markup=False),
    )
    console.print(str(equal), markup=False)
    write_text(note, equal.to_json())
    return {}
