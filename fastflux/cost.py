"""What pruning a model took, in counts that do not depend on the machine, and in seconds that do."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self


@dataclass(frozen=True)
class PruningCost:
    """The work of a pruning method beyond the calibration's own forwards, which every calibrated method needs.

    ``block_forwards``: samples times blocks run without gradients; ``block_trainings``: samples times blocks run
    forward and backward; ``training_steps``: optimiser steps; ``trainable_parameters``: the most trained at once,
    which gradients and optimiser states need memory for; ``seconds``: wall time; ``activation_bytes``: the most
    recorded inputs, block inputs and outputs held at once, in RAM or in files; ``peak_memory_bytes``: of the device, or
    on a CPU of the whole process, during those seconds (`fastflux.models.memory`), None where it was not measured.
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
