"""What pruning a variant took: forwards, training and seconds, as the method counted them (`fastflux.cost`)."""

from __future__ import annotations

from dataclasses import asdict

from bench.results import Measurement, MetricInfo
from fastflux.cost import PruningCost

INFO = MetricInfo(
    "pruning_cost", "1", "count, or seconds", higher_is_better=False, reference="beyond the calibration's own forwards"
)


def measure_pruning_cost(cost: PruningCost | None) -> Measurement:
    """Values "block_forwards", "block_trainings", "training_steps", "trainable_parameters", "seconds"."""
    if cost is None:
        return Measurement.skipped(INFO, "the dense model is not pruned")
    return Measurement(INFO, "ok", values={name: float(value) for name, value in asdict(cost).items()})
