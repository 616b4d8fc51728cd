"""Whether records agree with themselves: what follows from samples, plans and the dense model is worked out anew.

Beside the digest of a record (`bench.records.results`), which tells that something was changed, this tells what.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bench.metrics.catalogue import Metric, metrics
from bench.metrics.quality.image_similarity import psnr
from bench.records.results import Measurement, RecordError, RunRecord
from bench.records.statistics import (
    Estimate,
    StatisticsError,
    mean_interval,
    median_interval,
    strata_of,
    stratified_means,
)
from bench.records.variant_id import EXTERNAL, VariantId

_CLOSE = 1e-9
_FLUX_STACK = "single_transformer_blocks"


def check_records(records: Sequence[RunRecord]) -> None:
    """Raise RecordError, which names record and field, for what does not agree with the rest of the records.

    Values, intervals and counts are those of the samples, all within the metric's bounds; ratios are to the dense
    model's record; FLOPs and parameters fall alike for every block replaced alike; there is one set of weights for each
    base model and one set of prompts. Other models' images have no part in the latter two.
    """
    for record in records:
        for measurement in record.measurements:
            if measurement.status == "ok" and (metric := metrics().get(measurement.info.name)) is not None:
                _check_measurement(record.variant, metric, measurement)
        for key in ("base_model", "base_revision"):
            planned = record.plan.get(key) if record.plan else None
            _require(record.variant, f"plan.{key}", planned or getattr(record, key), getattr(record, key), "the record")
    records = [record for record in records if VariantId.parse(record.variant).family != EXTERNAL]
    named = {record.variant: record for record in records}
    for field, of in (("base_revision", "base_model"), ("sampling.prompts", "profile")):
        first: dict[str, RunRecord] = {}
        for record in records:
            if (value := _field(record, field)) is not None:
                other = first.setdefault(getattr(record, of), record)
                _require(record.variant, field, value, _field(other, field), other.variant)
    dense = {record.base_model: record for record in records if record.plan is None}
    for record in records:
        if (base := dense.get(record.base_model)) is not None:
            _check_ratios(record, base, named)
    for model, base in dense.items():
        pruned = [record for record in records if record.base_model == model and record.plan]
        for name, key in (("flops", "forward"), ("parameters", "total")):
            _check_savings(pruned, base, name, key)


def _check_measurement(variant: str, metric: Metric, measurement: Measurement) -> None:
    """The bounds of all numbers, and what the samples give."""
    name, (low, high) = metric.name, metric.bounds
    scores = measurement.samples if metric.weighting else {}
    for key, numbers in [*((key, [value]) for key, value in measurement.values.items()), *scores.items()]:
        if outside := [number for number in numbers if not low <= number <= high]:
            raise RecordError(f"{variant}, {name}.{key} is {outside[0]}, outside {low:g} to {high:g}: measure again.")
    if not measurement.samples:
        return
    try:
        expected, count = _expected(metric, measurement)
    except StatisticsError as error:
        raise RecordError(f"{variant}, {name}.samples: {error}") from error
    if expected:
        _require(variant, f"{name}.scored", measurement.scored, count, "its samples")
    for key, estimate in expected.items():
        if key in measurement.values or key == metric.headline:
            _require(variant, f"{name}.{key}", measurement.values.get(key), estimate.value, "its samples")
            if estimate.interval is not None:
                found = measurement.intervals.get(key)
                _require(variant, f"{name}.{key}, interval", found, estimate.interval, "its samples")


def _expected(metric: Metric, measurement: Measurement) -> tuple[dict[str, Estimate], int]:
    """The values that follow from the samples, and how many were scored."""
    samples, seed = measurement.samples, int(str(measurement.settings.get("interval_seed", 0)))
    strata = strata_of(samples)
    if metric.weighting is not None:
        found = stratified_means(strata, weighting=metric.weighting, seed=seed)
        values = {name: estimate for name, estimate in found.strata.items() if name}
        return {**values, metric.headline: found.overall}, sum(map(len, samples.values()))
    if metric.name == "paired":
        values = {name: mean_interval(clusters, seed=seed) for name, clusters in strata.items()}
        error = values.pop("mse", Estimate(0.0, None))
        if error.value > 0:
            bounds = error.interval if error.interval and error.interval[0] > 0 else None
            ends = (psnr(bounds[1]), psnr(bounds[0])) if bounds else None
            values["psnr"] = Estimate(psnr(error.value), ends)
        return values, sum(map(len, strata.get("ssim", {}).values()))
    if metric.name == "latency" and (times := samples.get("ms")):
        tails = {f"p{part}_ms": Estimate(float(np.quantile(times, part / 100)), None) for part in (50, 90, 99)}
        return {"median_ms": median_interval(times), **tails}, len(times)
    return {}, 0


def _check_ratios(record: RunRecord, base: RunRecord, named: Mapping[str, RunRecord]) -> None:
    """FLOPs, parameters and latency, as ratios to the dense model's."""
    for name, key in (("flops", "forward"), ("parameters", "total")):
        ours, theirs = record.measurement(name), base.measurement(name)
        if ours and theirs and {key, "ratio_to_dense"} <= ours.values.keys() and theirs.values.get(key):
            ratio = ours.values[key] / theirs.values[key]
            _require(record.variant, f"{name}.ratio_to_dense", ours.values["ratio_to_dense"], ratio, base.variant)
    ours = record.measurement("latency")
    reference = named.get(str(ours.settings.get("baseline"))) if ours else None
    theirs = reference.measurement("latency") if reference else None
    times = [measurement.samples.get("ms", []) if measurement else [] for measurement in (ours, theirs)]
    if ours and theirs and "ratio_to_dense" in ours.values and len(times[0]) == len(times[1]) > 0:
        if ours.settings.get("run") != theirs.settings.get("run"):
            return  # the dense model was measured anew since
        found = median_interval([own / other for own, other in zip(*times, strict=True)])
        field, where = "latency.ratio_to_dense", f"its samples and those of {theirs.info.name}"
        _require(record.variant, field, ours.values["ratio_to_dense"], found.value, where)
        _require(record.variant, f"{field}, interval", ours.intervals.get("ratio_to_dense"), found.interval, where)


def _check_savings(pruned: Iterable[RunRecord], base: RunRecord, metric: str, key: str) -> None:
    """Every block of a stack of FLUX that was replaced alike saves the same: a record that breaks this was changed.

    The blocks of other architectures are not all alike: SD3's last one has no text behind it.
    """
    whole = _number(base, metric, key)
    found = [(record, Counter(map(_cut, _replacements(record))), _number(record, metric, key)) for record in pruned]
    found = [entry for entry in found if entry[1] and entry[2] is not None]
    kinds = sorted({kind for _, cuts, _ in found for kind in cuts})
    if whole is None or len(found) <= len(kinds) or _FLUX_STACK not in {stack for stack, _ in kinds}:
        return
    counts = np.array([[cuts[kind] for kind in kinds] for _, cuts, _ in found], dtype=float)
    saved = np.array([whole - (number or 0.0) for _, _, number in found])
    if _fits(counts, saved):
        return
    alone = [row for row in range(len(found)) if _fits(np.delete(counts, row, 0), np.delete(saved, row))]
    names = ", ".join(found[row][0].variant for row in alone or range(len(found)))
    raise RecordError(
        f"{names}, {metric}.{key} or plan.replacements: blocks replaced alike do not save alike; measure again."
    )


def _fits(counts: npt.NDArray[np.float64], saved: npt.NDArray[np.float64]) -> bool:
    each = np.linalg.lstsq(counts, saved, rcond=None)[0]
    return bool(np.allclose(counts @ each, saved, rtol=1e-6, atol=1e-6 * float(np.abs(saved).max())))


def _replacements(record: RunRecord) -> Sequence[Mapping[str, object]]:
    found = record.plan.get("replacements") if record.plan else None
    return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


def _cut(replacement: Mapping[str, object]) -> tuple[str, str]:
    """Stack and kind of a replacement."""
    block = replacement.get("block")
    stack = block.get("stack") if isinstance(block, Mapping) else str(block).rpartition(".")[0]
    return str(stack), str(replacement.get("kind"))


def _number(record: RunRecord, metric: str, key: str) -> float | None:
    measurement = record.measurement(metric)
    return None if measurement is None else measurement.values.get(key)


def _field(record: RunRecord, field: str) -> object:
    return record.base_revision if field == "base_revision" else record.sampling.get("prompts")


def _require(variant: str, field: str, found: object, expected: object, source: str) -> None:
    """Raise RecordError unless both are equal, numbers but for rounding."""
    pairs = [entry if isinstance(entry, tuple) else (entry,) for entry in (found, expected)]
    same = len(pairs[0]) == len(pairs[1]) and all(
        math.isclose(a, b, rel_tol=_CLOSE, abs_tol=_CLOSE)
        if isinstance(a, int | float) and isinstance(b, int | float)
        else a == b
        for a, b in zip(*pairs, strict=True)
    )
    if not same:
        raise RecordError(f"{variant}, {field} is {found}, but {source} say {expected}: measure again.")
