"""What pruning a variant took: forwards, training, memory and seconds, as the method counted them (`fastflux.cost`)."""

from dataclasses import asdict

from bench.metrics.catalogue import metric_named
from bench.records.results import Measurement
from fastflux.cost import PruningCost

PRUNING_COST = metric_named("pruning_cost").info


def measure_pruning_cost(cost: PruningCost | None) -> Measurement:
    """Values as `PruningCost` names them, with "peak_memory_mib" for its bytes; none where memory was not measured."""
    if cost is None:
        return Measurement.skipped(PRUNING_COST, "the dense model is not pruned")
    values = asdict(cost)
    if (peak := values.pop("peak_memory_bytes")) is not None:
        values["peak_memory_mib"] = peak / 2**20
    return Measurement(PRUNING_COST, "ok", values={name: float(value) for name, value in values.items()})
