"""Latency of one transformer step at several batch sizes: variants interleaved at each, in one measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Unpack

from bench.metrics.catalogue import metric_named
from bench.metrics.cost.latency import Timing, measure_latency, with_value
from bench.metrics.cost.timing import Step
from bench.records.results import JSON, Measurement
from fastflux.errors import FastFluxError

LATENCY_BATCHES = metric_named("latency_batches").info


def measure_latency_batches(
    steps_of: Callable[[int], Mapping[str, Step]], batches: Sequence[int], **timing: Unpack[Timing]
) -> dict[str, Measurement]:
    """`measure_latency` at every batch size, one after the other.

    Args:
        steps_of: for a batch size, the step of every variant; called when its turn comes, so that the inputs of one
            size are held at a time.
        batches: numbers of images in a step.
        timing: options of `measure_latency`.

    Returns:
        Per variant the values of `measure_latency` as "batch4_median_ms" and so on, "batch4_per_image_ms", and the raw
        times as samples "batch4/ms". A size at which the variant's step raised a RuntimeError has no values and is
        named, with the reason, in the setting "failed"; failed as a whole when that is every size.

    Raises:
        FastFluxError: no sizes, one below 1 or twice, or as `measure_latency`.
    """
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise FastFluxError(f"The batch sizes are {list(batches)}; expected at least one, each from 1 and once.")
    found = {batch: measure_latency(steps_of(batch), info=LATENCY_BATCHES, **timing) for batch in batches}
    return {name: _joined({batch: found[batch][name] for batch in batches}) for name in found[batches[0]]}


def _joined(found: Mapping[int, Measurement]) -> Measurement:
    """One variant's measurements of all sizes as one."""
    ok = {
        batch: with_value(one, "per_image_ms", one.values["median_ms"] / batch)
        for batch, one in found.items()
        if one.status == "ok"
    }
    failed: dict[str, JSON] = {str(batch): one.reason for batch, one in found.items() if batch not in ok}
    settings: dict[str, JSON] = {**[*found.values()][-1].settings, "batches": list(found), "failed": failed}
    missing = sum(one.missing for one in found.values())
    if not ok:
        reason = "; ".join(f"batch {batch}: {why}" for batch, why in failed.items())
        return Measurement.failed(LATENCY_BATCHES, reason, missing=missing, settings=settings)
    return Measurement(
        LATENCY_BATCHES,
        "ok",
        values={f"batch{batch}_{key}": value for batch, one in ok.items() for key, value in one.values.items()},
        intervals={f"batch{batch}_{key}": pair for batch, one in ok.items() for key, pair in one.intervals.items()},
        scored=sum(one.scored for one in ok.values()),
        missing=missing,
        samples={f"batch{batch}/{key}": times for batch, one in ok.items() for key, times in one.samples.items()},
        settings=settings,
    )
