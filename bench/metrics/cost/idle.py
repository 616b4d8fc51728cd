"""Whether other work takes the device that is to be measured: it would end up in every time."""

import os
import time
from dataclasses import dataclass
from typing import Any

import psutil

from bench.records.environment import gpu_utilisation
from fastflux.errors import FastFluxError

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
