"""Latency of one transformer step, with all variants measured in turn so that the machine's drift meets them alike."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from bench.metrics.base import values_and_intervals
from bench.results import JSON, Measurement, MetricInfo
from bench.statistics import median_interval
from fastflux.errors import FastFluxError

LATENCY = MetricInfo("latency", "1", "ms", higher_is_better=False, reference="wall time of one transformer step")

Step = Callable[[], object]


def measure_latency(
    steps: Mapping[str, Step],
    *,
    warmup: int,
    rounds: int,
    seed: int,
    baseline: str = "dense",
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
    settings: Mapping[str, JSON] | None = None,
) -> dict[str, Measurement]:
    """Time one step of every variant in every round, in an order shuffled anew each round.

    Args:
        steps: by variant, a call that runs one step.
        warmup: untimed rounds first.
        rounds: timed rounds.
        seed: of the orders.
        baseline: the variant the ratios refer to.
        device: a CUDA device is waited for before and after each step.
        clock: seconds.
        settings: what else determines the times (resolution, number format, threads), kept in the measurements.

    Returns:
        Per variant "median_ms" and "ratio_to_dense" (median over the rounds of its time by the baseline's in the same
        round) with distribution-free 95% intervals, "p90_ms", and the raw times as samples "ms". A variant whose step
        raises a RuntimeError (out of memory, say) has failed and is left out of further rounds; when that is the
        baseline, no one has a ratio.

    Raises:
        FastFluxError: no baseline among the steps, or no rounds.
    """
    if baseline not in steps:
        raise FastFluxError(f"There is no step of the baseline {baseline!r} among {sorted(steps)}; add it.")
    if rounds < 1 or warmup < 0:
        raise FastFluxError(f"rounds is {rounds} and warmup {warmup}; expected at least 1 and 0.")
    shuffler = random.Random(seed)  # noqa: S311  # an order, not a secret
    times: dict[str, list[float]] = {name: [] for name in steps}
    faults: dict[str, str] = {}
    synchronize = _synchronizer(device)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # or a collection falls into whoever's step it will
    try:
        for index in range(warmup + rounds):
            order = [name for name in steps if name not in faults]
            shuffler.shuffle(order)
            for name in order:
                try:
                    seconds = _timed(steps[name], clock, synchronize)
                except RuntimeError as error:
                    faults[name] = f"{type(error).__name__} in round {index}: {error}"
                else:
                    if index >= warmup:
                        times[name].append(seconds * 1000)
    finally:
        if collecting:
            gc.enable()
    common: dict[str, JSON] = {
        **(settings or {}),
        "warmup": warmup,
        "rounds": rounds,
        "seed": seed,
        "baseline": baseline,
        "order": "all variants in each round, shuffled",
        "device_type": torch.device(device).type,
    }
    reference = None if baseline in faults else times[baseline]
    return {
        name: Measurement.failed(LATENCY, faults[name], missing=rounds, settings=common)
        if name in faults
        else _measurement(times[name], reference, common)
        for name in steps
    }


def _timed(step: Step, clock: Callable[[], float], synchronize: Callable[[], None]) -> float:
    synchronize()
    start = clock()
    step()
    synchronize()
    return clock() - start


def _measurement(times: list[float], reference: list[float] | None, settings: Mapping[str, JSON]) -> Measurement:
    estimates = {"median_ms": median_interval(times)}
    if reference is not None:
        ratios = [own / dense for own, dense in zip(times, reference, strict=True)]
        estimates["ratio_to_dense"] = median_interval(ratios)
    values, intervals = values_and_intervals(estimates)
    values["p90_ms"] = float(np.quantile(times, 0.9))
    return Measurement(
        LATENCY,
        "ok",
        values=values,
        intervals=intervals,
        scored=len(times),
        samples={"ms": times},
        settings=settings,
    )


def _synchronizer(device: str) -> Callable[[], None]:
    if torch.device(device).type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
