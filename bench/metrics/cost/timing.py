"""Timed steps: the clock of a device, rounds in which all variants take turns, and what is told of the times."""

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from fastflux.errors import FastFluxError

Step = Callable[[], object]
Clock = Callable[[], float]
"""Seconds."""
Timer = Callable[[Step], float]
"""Runs a step and gives its milliseconds."""

PERCENTILES = (50, 90, 99)


class Rounds(NamedTuple):
    """Milliseconds by variant, in the order of the rounds, and what went wrong with those that failed."""

    times: dict[str, list[float]]
    faults: dict[str, str]


def step_timer(device: str, clock: Clock | None = None) -> tuple[str, Timer]:
    """How a step on `device` is timed, and the name of it for the record.

    On CUDA without a `clock`: two events around the step ("cuda_events"), on the device's own clock. Otherwise by
    `clock` or ``time.perf_counter``, with the device waited for before and after.
    """
    cuda = torch.device(device).type == "cuda"
    if cuda and clock is None:
        return "cuda_events", _event_timer(device)
    read = clock or time.perf_counter

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize(device)

    def timed(step: Step) -> float:
        wait()
        start = read()
        step()
        wait()
        return (read() - start) * 1000

    return getattr(read, "__name__", type(read).__name__), timed


def require_rounds(rounds: int, warmup: int) -> None:
    """Raise FastFluxError for no timed rounds, or less than no untimed ones."""
    if rounds < 1 or warmup < 0:
        raise FastFluxError(f"rounds is {rounds} and warmup {warmup}; expected at least 1 and 0.")


def interleave(
    steps: Mapping[str, Step],
    timer: Timer,
    *,
    warmup: int,
    rounds: int,
    seed: int,
    enough: Callable[[Mapping[str, list[float]]], bool] = lambda _times: False,
) -> Rounds:
    """Time every step once a round, in an order shuffled anew each round, after `warmup` rounds that do not count.

    A step that raises a RuntimeError (out of memory, a failed compilation) or a FastFluxError is a fault, and left out
    from then on. Ends before the last round when the times, of those without a fault, are `enough`. Raises
    FastFluxError for no rounds.
    """
    require_rounds(rounds, warmup)
    shuffler = random.Random(seed)  # noqa: S311  # an order, not a secret
    times: dict[str, list[float]] = {name: [] for name in steps}
    faults: dict[str, str] = {}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # or a collection falls into whoever's step it will
    try:
        for index in range(warmup + rounds):
            order = [name for name in steps if name not in faults]
            shuffler.shuffle(order)
            for name in order:
                try:
                    milliseconds = timer(steps[name])
                except (RuntimeError, FastFluxError) as error:
                    # The first two lines: compilers say more than a record can use.
                    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                    faults[name] = f"{type(error).__name__} in round {index}: {' '.join(lines[:2])}"
                else:
                    if index >= warmup:
                        times[name].append(milliseconds)
            if enough({name: found for name, found in times.items() if name not in faults}):
                break
    finally:
        if collecting:
            gc.enable()
    return Rounds(times, faults)


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """Interpolated "p50_ms", "p90_ms" and "p99_ms"; of fewer than 100 times the last is near the largest."""
    return {f"p{percent}_ms": float(np.quantile(times, percent / 100)) for percent in PERCENTILES}


def _event_timer(device: str) -> Timer:
    def timed(step: Step) -> float:
        with torch.cuda.device(device):
            torch.cuda.synchronize()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            step()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end))

    return timed
