"""The third stage: every variant's images by every metric, each kept as soon as it is there."""

from __future__ import annotations

from functools import partial

from bench.metrics.catalogue import metric_named
from bench.profiles.variants import Variant
from bench.progress import track
from bench.run.evaluation import Evaluation
from bench.run.records import new_record
from bench.run.units import Results, Unit

STAGE = "score"


def score(evaluation: Evaluation) -> None:
    """Score the images of every variant with every metric that is not there; a metric that fails fails alone."""
    with evaluation.timed(STAGE):
        for variant in track(evaluation.variants, STAGE, total=len(evaluation.variants)):
            for unit in units(evaluation, variant):
                evaluation.runner.settle(STAGE, unit)


def units(evaluation: Evaluation, variant: Variant) -> list[Unit]:
    """One for each metric of the variant's images."""
    key = new_record(evaluation, variant).key
    found = []
    for name in evaluation.profile.metrics:
        entry = metric_named(name)
        if entry.measures == "pairs" and variant.is_dense:
            continue
        info = entry.info
        inputs = {f"{variant.id},{name}": {"record": key, "version": info.version}}
        found.append(Unit(inputs, partial(_score, evaluation, variant, name), variants=(variant.id,), info=info))
    return found


def _score(evaluation: Evaluation, variant: Variant, name: str) -> Results:
    return {variant.id: [evaluation.scorer(variant, name)(evaluation.images(variant))]}
