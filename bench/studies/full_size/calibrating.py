"""Stage of calibration at full size: statistics of all blocks in one pass, beside plain forwards on its samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.metrics.cost.timing import step_timer
from bench.records.results import Measurement, MetricInfo
from bench.records.variant_id import DENSE
from bench.run.units import Results, Unit
from bench.studies.full_size.workbench import Need, Workbench, piece
from fastflux.calibration.block_runs import on_device
from fastflux.calibration.importance import fit_blocks
from fastflux.calibration.statistics import Statistics, collect_statistics, save_statistics
from fastflux.cost import PeakMemory
from fastflux.models.flux import FLUX
from fastflux.models.pruned import parameter_count
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef

CALIBRATION = MetricInfo(
    "calibration_cost", "1", "seconds, MiB, count or ratio", higher_is_better=False,
    reference="forwards with the statistics of all blocks beside plain ones, batch by batch in turn",
)  # fmt: skip
PRECISION = MetricInfo(
    "calibration_precision", "1", "ms, ratio or R²", higher_is_better=None,
    reference="statistics of two blocks with products in bfloat16 against float64, on the same forwards",
)  # fmt: skip
STAGE = "calibration"
WHOLE, PRECISE = "whole", "precision"
BATCHES_OF_PRECISION = 8
_MIB = 2**20


def units(_bench: Workbench) -> list[str]:
    """The pass, and the check of the reduced precision."""
    return [WHOLE, PRECISE]


def statistics_file(bench: Workbench) -> Path:
    """Where the pass leaves what it collected."""
    return bench.store.folder / "statistics.safetensors"


def pieces(bench: Workbench, left: Sequence[str]) -> Iterator[Unit]:
    """One for each unit."""
    if WHOLE in left:
        yield piece((WHOLE,), (DENSE,), CALIBRATION, lambda: _collect(bench))
    if PRECISE in left:
        yield piece((PRECISE,), (DENSE,), PRECISION, lambda: _precision(bench))


def whole(bench: Workbench) -> Measurement | None:
    """What the pass came to; None before it has ended."""
    return next((done.results[DENSE][0] for done in bench.store.done(STAGE) if WHOLE in done.names), None)


def forget_lost(bench: Workbench) -> None:
    """Drop a pass that was measured but whose statistics are gone: they are collected anew.

    They are a large file beside the pieces, which may have been left behind where those were copied.
    """
    found = whole(bench)
    if found is not None and found.status == "ok" and not statistics_file(bench).exists():
        bench.store.forget_names(STAGE, {WHOLE})


def _collect(bench: Workbench) -> Results:
    """All samples, plain and with statistics in turn."""
    size = bench.profile.calibration.batch
    transformer = bench.fresh()
    statistics: Statistics = {}
    _, timer = step_timer(bench.device)
    plain: list[float] = []
    full: list[float] = []
    device_memory, host_memory = PeakMemory(bench.device), PeakMemory("cpu")
    for batch in bench.recorded().batches(size):
        forward = _forward(transformer, batch)
        if not plain:
            forward()  # what is made once is no part of either
        plain.append(timer(forward))
        full.append(timer(lambda forward=forward: collect_statistics(transformer, forward, into=statistics)))  # type: ignore[misc]
    save_statistics(statistics, statistics_file(bench))
    values = {
        "samples": float(bench.sizes.samples),
        "forwards": float(len(plain)),
        "plain_seconds": sum(plain) / 1000,
        "statistics_seconds": sum(full) / 1000,
        "ratio": sum(full) / sum(plain),
        "statistics_file_bytes": float(statistics_file(bench).stat().st_size),
    }
    for name, peak in (("device", device_memory.read()), ("host", host_memory.read())):
        if peak is not None:
            values[f"peak_{name}_mib"] = peak / _MIB
    samples = {"plain/ms": plain, "statistics/ms": full}
    settings = {**bench.conditions(bench.sizes.pruning_pixels), "batch": size, "offload": bench.offload}
    bench.clear()
    return {
        DENSE: [Measurement(CALIBRATION, "ok", values=values, scored=len(plain), samples=samples, settings=settings)]
    }


def _forward(transformer: Any, batch: Mapping[str, Any]) -> Callable[[], None]:
    arguments = on_device(batch, transformer)

    def run() -> None:
        with torch.no_grad():
            transformer(**arguments, return_dict=False)

    return run


def _precision(bench: Workbench) -> Results:
    """Time and R² of the statistics of the first double and the first single block, both ways."""
    transformer = bench.fresh()
    blocks = _two(transformer)
    size = bench.profile.calibration.batch
    _, timer = step_timer(bench.device)
    times: dict[str, list[float]] = {"plain": [], "bfloat16": [], "float64": []}
    statistics: dict[str, Statistics] = {"bfloat16": {}, "float64": {}}
    for batch in islice(bench.recorded().batches(size), BATCHES_OF_PRECISION):
        forward = _forward(transformer, batch)
        if not times["plain"]:
            forward()  # what is made once is no part of any
        times["plain"].append(timer(forward))
        for name, into in statistics.items():
            times[name].append(
                timer(
                    lambda name=name, into=into, forward=forward: collect_statistics(  # type: ignore[misc]
                        transformer, forward, blocks=blocks, into=into, exact=name == "float64"
                    )
                )
            )
    values = {f"{name}_ms": sum(found) for name, found in times.items()}
    fits = {name: fit_blocks(transformer, found) for name, found in statistics.items()}
    for block in blocks:
        for name, found in fits.items():
            values[f"{block}.{name}.residual_r2"] = found[block].residual_r2
            values[f"{block}.{name}.ridge"] = found[block].ridge
        values[f"{block}.weight_difference"] = _difference(
            *(found[block].fits["hidden_states"].weight for found in (fits["bfloat16"], fits["float64"]))
        )
    samples = {f"{name}/ms": found for name, found in times.items()}
    settings = bench.conditions(bench.sizes.pruning_pixels) | {
        "batch": size,
        "blocks": [str(block) for block in blocks],
    }
    bench.clear()
    return {DENSE: [Measurement(PRECISION, "ok", values=values, scored=size, samples=samples, settings=settings)]}


def _two(transformer: Any) -> tuple[BlockRef, BlockRef]:
    chain = FLUX.chain(transformer)
    return chain[0], next(block for block in chain if block.stack == "single_transformer_blocks")


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).norm() / second.norm())


def statistics_bytes(bench: Workbench) -> int:
    """Of the moments of all blocks, two streams each: two matrices and little besides.

    In float32 where `fastflux.calibration.statistics.observe_residual` keeps them so, in float64 elsewhere.
    """
    blocks = bench.sizes.double_blocks + bench.sizes.single_blocks
    small = torch.device(bench.device).type == "cuda" and bench.dtype == torch.bfloat16
    return blocks * 2 * 2 * (4 if small else 8) * bench.sizes.width**2


def written_bytes(bench: Workbench) -> int:
    """Of the statistics that are on the disk."""
    path = statistics_file(bench)
    return path.stat().st_size if path.exists() else 0


def model_bytes(bench: Workbench) -> int:
    """Of the dense transformer on the device: with offload its largest block and what is no block."""
    if not bench.offload:
        return bench.weight_bytes
    sizes = [parameter_count(get_block(bench.outline, block)) for block in FLUX.chain(bench.outline)]
    return bench.weight_bytes - (sum(sizes) - max(sizes)) * bench.dtype.itemsize


def need(bench: Workbench) -> Need:
    """The model, the statistics, a copy of these on the host, from where they are written, and a file of them."""
    copied = 0 if torch.device(bench.device).type == "cpu" else statistics_bytes(bench)
    host = bench.recorded_bytes + copied + (bench.weight_bytes if bench.offload else 0)
    return Need(
        device=model_bytes(bench) + statistics_bytes(bench),
        host=host,
        disk=statistics_bytes(bench),
        remedy="fewer samples (--set random.samples=128) need less of the machine's memory"
        if bench.offload
        else "--offload keeps the blocks in the machine's memory",
    )
