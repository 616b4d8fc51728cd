"""The third stage: every variant's images by every metric, each kept as soon as it is there; and a run's records."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import torch

from bench.metrics.catalogue import metric_named
from bench.profiles.variants import Variant
from bench.progress import console
from bench.records.results import Measurement, RecordError, RunRecord, digest
from bench.run.evaluation import Evaluation
from bench.run.graph import scored_by
from bench.run.prune import plan_of
from bench.run.units import Done, Results, Unit

STAGE = "score"


def unit(evaluation: Evaluation, variant: Variant, name: str) -> Unit:
    """The scoring of a variant's images by a metric, known by what that one reads; one that fails fails alone."""
    info = metric_named(name).info
    inputs = {f"{variant.id},{name}": {"record": new_record(evaluation, variant, name).key, "version": info.version}}
    return Unit(inputs, partial(_score, evaluation, variant, name), variants=(variant.id,), info=info)


def units(evaluation: Evaluation, variant: Variant) -> list[Unit]:
    """One for each metric of the variant's images."""
    return [unit(evaluation, variant, name) for name in scored_by(evaluation.profile, variant)]


def _score(evaluation: Evaluation, variant: Variant, name: str) -> Results:
    return {variant.id: [evaluation.scorer(variant, name)(evaluation.images(variant))]}


def new_record(evaluation: Evaluation, variant: Variant, metric: str = "") -> RunRecord:
    """A record of the variant without measurements, of the scorers of one `metric` or of all."""
    base = evaluation.base(variant.base)
    return RunRecord(
        profile=evaluation.profile.name,
        variant=variant.id,
        label=variant.label,
        plan=plan_of(evaluation, variant),
        base_model=base.profile.title,
        base_revision=base.revision,
        environment=evaluation.environment,
        sampling=evaluation.sampling_record(variant),
        measurements=(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        inputs={
            "pruning": digest(evaluation.pruning_inputs(variant)),
            "scorers": evaluation.scorers_hashes[metric],
            "device": torch.device(evaluation.device).type,
        },
    )


def write_record(
    evaluation: Evaluation, variant: Variant, found: Sequence[Done], failed: Sequence[Measurement] = ()
) -> None:
    """Write the record of what was measured, and of what `failed` before it could be.

    It is dated as the last of it; one of other inputs in its place moves aside.
    """
    if not found and not failed:
        return
    fresh = new_record(evaluation, variant)
    measurements = (*(measurement for done in found for measurement in done.results.get(variant.id, ())), *failed)
    last = max(found, key=lambda done: done.created, default=fresh)
    fresh = fresh.finished(measurements, last.environment, last.created)
    path = evaluation.record_path(variant)
    if path.exists():
        try:
            earlier = RunRecord.read(path)
        except RecordError as error:
            console.print(f"{error}; it is made again", markup=False, soft_wrap=True)
        else:
            if earlier == fresh:
                return
            if earlier.key != fresh.key:
                aside = path.parent / "superseded" / f"{variant.id}-{earlier.key}.json"
                aside.parent.mkdir(parents=True, exist_ok=True)
                path.replace(aside)
    fresh.write(path)
