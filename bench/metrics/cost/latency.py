"""Latency of one transformer step, with all variants measured in turn so that the machine's drift meets them alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Required, TypedDict

import torch
from msgspec import structs

from bench.metrics.base import values_and_intervals
from bench.metrics.catalogue import metric_named
from bench.metrics.cost.idle import other_work
from bench.metrics.cost.timing import Clock, Step, interleave, percentiles, require_rounds, step_timer
from bench.records.results import JSON, Measurement, MetricInfo
from bench.records.statistics import median_interval
from fastflux.errors import FastFluxError

LATENCY = metric_named("latency").info


class Timing(TypedDict, total=False):
    """How steps are timed: the options of `measure_latency`, which every measurement of a latency passes on to it."""

    warmup: Required[int]
    rounds: Required[int]
    seed: Required[int]
    baseline: str
    device: str
    clock: Clock | None
    settings: Mapping[str, JSON] | None
    require_idle: bool


def measure_latency(
    steps: Mapping[str, Step],
    *,
    warmup: int,
    rounds: int,
    seed: int,
    baseline: str = "dense",
    device: str = "cpu",
    clock: Clock | None = None,
    settings: Mapping[str, JSON] | None = None,
    require_idle: bool = False,
    info: MetricInfo = LATENCY,
) -> dict[str, Measurement]:
    """Time one step of every variant in every round, in an order shuffled anew each round.

    Args:
        steps: by variant, a call that runs one step.
        warmup: untimed rounds first.
        rounds: timed rounds.
        seed: of the orders.
        baseline: the variant the ratios refer to.
        device: a CUDA device is waited for before and after each step.
        clock: seconds; without one the device's own: CUDA events, or ``time.perf_counter``. The settings name it.
        settings: what else determines the times (resolution, number format, threads), kept in the measurements.
        require_idle: refuse to measure while other work takes the device, or where that cannot be told. Unasked, and
            unless a clock is given, other work is only noted as the setting "other_work".
        info: the metric, where a step is something else than one of a transformer.

    Returns:
        Per variant "median_ms" and "ratio_to_dense" (median over the rounds of its time by the baseline's in the same
        round) with distribution-free 95% intervals, "p50_ms" (the median again), "p90_ms", "p99_ms", and the raw times
        as samples "ms". A variant whose step raises a RuntimeError (out of memory, say) has failed and is left out of
        further rounds; when that is the baseline, no one has a ratio.

    Raises:
        FastFluxError: no baseline among the steps, no rounds, or a device that is not idle when it must be.
    """
    if baseline not in steps:
        raise FastFluxError(f"There is no step of the baseline {baseline!r} among {sorted(steps)}; add it.")
    require_rounds(rounds, warmup)  # before the look at the machine, which takes a moment
    watched: dict[str, JSON] = {}
    if require_idle or clock is None:
        found = other_work(device)
        if require_idle:
            found.require_idle()
        watched["other_work"] = str(found)
    name_of_clock, timer = step_timer(device, clock)
    times, faults = interleave(steps, timer, warmup=warmup, rounds=rounds, seed=seed)
    common: dict[str, JSON] = {
        **(settings or {}),
        "warmup": warmup,
        "rounds": rounds,
        "seed": seed,
        "baseline": baseline,
        "order": "all variants in each round, shuffled",
        "device_type": torch.device(device).type,
        "clock": name_of_clock,
        **watched,
    }
    reference = None if baseline in faults else times[baseline]
    return {
        name: Measurement.failed(info, faults[name], missing=rounds, settings=common)
        if name in faults
        else latency_of(info, times[name], reference, common)
        for name in steps
    }


def latency_of(
    info: MetricInfo, times: list[float], reference: list[float] | None, settings: Mapping[str, JSON]
) -> Measurement:
    """The measurement of a variant's milliseconds, with the baseline's of the same rounds as `reference`."""
    estimates = {"median_ms": median_interval(times)}
    if reference is not None:
        ratios = [own / dense for own, dense in zip(times, reference, strict=True)]
        estimates["ratio_to_dense"] = median_interval(ratios)
    values, intervals = values_and_intervals(estimates)
    return Measurement(
        info,
        "ok",
        values=values | percentiles(times),
        intervals=intervals,
        scored=len(times),
        samples={"ms": times},
        settings=settings,
    )


def with_value(measurement: Measurement, key: str, value: float) -> Measurement:
    """The measurement with one more value; a failed one stays without."""
    if measurement.status != "ok":
        return measurement
    return structs.replace(measurement, values={**measurement.values, key: value})
