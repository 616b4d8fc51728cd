"""What pruning a model took, in counts that do not depend on the machine, and in seconds and bytes that do."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import torch

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"
"""What `clear_refs` takes to let the peak resident size begin anew (proc_pid_clear_refs(5))."""


class PeakMemory:
    """Counts from its making on; a second one on the same device begins the count anew for both.

    On CUDA: the most bytes in tensors, weights among them. On a CPU: the most bytes of the whole process that were
    resident, which Linux tells; elsewhere it is not measured.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._counts = True
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._device.type == "cpu":
            try:
                (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
            except OSError:
                self._counts = False  # an earlier peak would be taken for this one's

    def read(self) -> int | None:
        """Bytes, or None where they cannot be measured."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if self._device.type != "cpu" or not self._counts:
            return None
        try:
            status = (_PROCESS / "status").read_text()
        except OSError:
            return None
        found = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(found[0][1]) * 1024 if found else None


@dataclass(frozen=True)
class PruningCost:
    """The work of a pruning method beyond the calibration's own forwards, which every calibrated method needs.

    ``block_forwards``: samples times blocks run without gradients; ``block_trainings``: samples times blocks run
    forward and backward; ``training_steps``: optimiser steps; ``trainable_parameters``: the most trained at once,
    which gradients and optimiser states need memory for; ``seconds``: wall time; ``activation_bytes``: the most
    recorded inputs, block inputs and outputs held at once, in RAM or in files; ``peak_memory_bytes``: of the device, or
    on a CPU of the whole process, during those seconds (`fastflux.cost`), None where it was not measured.
    A run that was interrupted, or that continues one of a lower ratio, counts what one in one go would have taken.
    """

    block_forwards: int = 0
    block_trainings: int = 0
    training_steps: int = 0
    trainable_parameters: int = 0
    seconds: float = 0.0
    activation_bytes: int = 0
    peak_memory_bytes: int | None = None

    def __add__(self, other: Self) -> "PruningCost":
        """Both one after the other: work adds up, of what is held at once the larger counts."""
        peaks = [peak for peak in (self.peak_memory_bytes, other.peak_memory_bytes) if peak is not None]
        return PruningCost(
            self.block_forwards + other.block_forwards,
            self.block_trainings + other.block_trainings,
            self.training_steps + other.training_steps,
            max(self.trainable_parameters, other.trainable_parameters),
            self.seconds + other.seconds,
            max(self.activation_bytes, other.activation_bytes),
            max(peaks, default=None),
        )

    @classmethod
    def parse(cls, figures: Mapping[str, str]) -> Self:
        """Read the figures, each as ``repr`` writes it; KeyError or ValueError where one is missing or faulty."""
        peak = figures["peak_memory_bytes"]
        whole = {field.name: int(figures[field.name]) for field in fields(cls) if field.type is int}
        return cls(**whole, seconds=float(figures["seconds"]), peak_memory_bytes=None if peak == "None" else int(peak))
