"""The third stage: every variant's images by every metric, each kept as soon as it is there."""

from __future__ import annotations

from functools import partial

from bench.metrics.catalogue import metric_named
from bench.profiles.variants import Variant
from bench.run.evaluation import Evaluation
from bench.run.graph import scored_by
from bench.run.records import new_record
from bench.run.units import Results, Unit

STAGE = "score"


def unit(evaluation: Evaluation, variant: Variant, name: str) -> Unit:
    """The scoring of a variant's images by a metric; one that fails fails alone."""
    info = metric_named(name).info
    inputs = {f"{variant.id},{name}": {"record": new_record(evaluation, variant).key, "version": info.version}}
    return Unit(inputs, partial(_score, evaluation, variant, name), variants=(variant.id,), info=info)


def units(evaluation: Evaluation, variant: Variant) -> list[Unit]:
    """One for each metric of the variant's images."""
    return [unit(evaluation, variant, name) for name in scored_by(evaluation.profile, variant)]


def _score(evaluation: Evaluation, variant: Variant, name: str) -> Results:
    return {variant.id: [evaluation.scorer(variant, name)(evaluation.images(variant))]}
