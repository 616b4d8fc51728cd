"""Timed steps: is the device idle, its clock, rounds in which variants take turns, and what is told of the times."""

import gc
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from bench.records.environment import gpu_utilisation
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


BUSY_SHARE = 0.1
"""Of the device's time; what an idle machine does for itself stays below."""
SAMPLE_S = 0.3
_GPU_SAMPLES = 3


@dataclass(frozen=True)
class OtherWork:
    """Whether there is any, None where it cannot be told, and one line on it for the record."""

    busy: bool | None
    text: str

    def __str__(self) -> str:
        return self.text

    def require_idle(self) -> None:
        """Raise FastFluxError unless the device is known to be idle."""
        if self.busy is None:
            raise FastFluxError(
                f"An idle device is required, and whether it is cannot be told: {self.text}. Measure without "
                "requiring it."
            )
        if self.busy:
            raise FastFluxError(
                f"The device is not idle: {self.text}. Stop the other work, or measure without requiring idleness."
            )


def other_work(device: str = "cpu") -> OtherWork:
    """Look at the device for a moment in which this process does nothing.

    A CPU: the share of its time that other processes, or other guests of the same host, took. A GPU: its utilisation
    as the driver states it.
    """
    return _gpu_work(device) if device.partition(":")[0] == "cuda" else _cpu_work()


def _cpu_work() -> OtherWork:
    cores = os.cpu_count() or 1
    before, own_before = psutil.cpu_times(), time.process_time()
    time.sleep(SAMPLE_S)
    after, own = psutil.cpu_times(), time.process_time() - own_before
    busy, every = _seconds(after)[0] - _seconds(before)[0], _seconds(after)[1] - _seconds(before)[1]
    if every <= 0:
        return OtherWork(busy=None, text="the cores' time cannot be read")
    share = max(0.0, (busy - own) / every)
    if share <= BUSY_SHARE:
        return OtherWork(busy=False, text="none seen")
    return OtherWork(busy=True, text=f"other work takes {share:.0%} of the {cores} cores")


def _seconds(times: Any) -> tuple[float, float]:
    """Of all cores since the start of the system: busy ones, with those that the host withheld, and all."""
    fields = times._asdict()
    guests = fields.get("guest", 0.0) + fields.get("guest_nice", 0.0)  # which are in user's and nice's
    idle = fields["idle"] + fields.get("iowait", 0.0)
    every = sum(fields.values()) - guests
    return every - idle, every


def _gpu_work(device: str) -> OtherWork:
    import torch

    torch.cuda.synchronize(device)
    readings: list[int] = []
    for _ in range(_GPU_SAMPLES):
        # The driver's figure is a mean over up to a second: what this process has just done must leave it.
        time.sleep(SAMPLE_S)
        reading = gpu_utilisation(device)
        if reading is None:
            return OtherWork(busy=None, text="the driver does not tell the GPU's utilisation")
        readings.append(reading)
    if min(readings) <= 100 * BUSY_SHARE:
        return OtherWork(busy=False, text="none seen")
    return OtherWork(busy=True, text=f"the GPU is {min(readings)}% utilised before the measurement")
