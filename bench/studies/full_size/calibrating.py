"""Stage of calibration at full size: statistics of all blocks in one pass, beside plain forwards on the same samples.

The pass is taken in parts of `save_every` samples, whose sum is written behind each: a kill loses one part at most.
"""

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
from fastflux.calibration.statistics import Statistics, collect_statistics, load_statistics, save_statistics
from fastflux.models.flux import FLUX
from fastflux.models.memory import PeakMemory
from fastflux.models.pruned import parameter_count
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef

PART = MetricInfo(
    "calibration_part", "1", "ms, MiB or count", higher_is_better=None, reference="a part of the calibration pass"
)
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
_FILES = "statistics-*.safetensors"
_MIB = 2**20


def parts(bench: Workbench) -> list[str]:
    """Numbers of samples behind each part."""
    count, step = bench.sizes.samples, bench.sizes.save_every
    return [str(min(start + step, count)) for start in range(0, count, step)]


def units(bench: Workbench) -> list[str]:
    """The parts, their sum, and the check of the reduced precision."""
    return [*parts(bench), WHOLE, PRECISE]


def statistics_file(bench: Workbench, done: str) -> Path:
    """Of the samples up to a part's end."""
    return bench.file(f"statistics-{done}.safetensors")


def pieces(bench: Workbench, left: Sequence[str]) -> Iterator[Unit]:
    """The parts in their order; the statistics stay on the device from one to the next.

    Behind a part that failed none is taken: their statistics would lack its samples.
    """
    every = parts(bench)
    failed = next((unit for unit in every if unit not in left and _found(bench, unit).status != "ok"), "")
    first = _first_missing(bench, left)
    holder = _Pass(bench, every[first - 1] if first else "")
    for unit in [unit for unit in every if unit in left] if failed else every[first:]:
        if failed:
            yield piece((unit,), (DENSE,), PART, lambda: _behind(failed))  # noqa: B023  # run before it changes
        else:
            yield piece((unit,), (DENSE,), PART, lambda unit=unit: holder.run(unit))  # type: ignore[misc]
            failed = "" if holder.done == unit else unit
    holder.close()
    if WHOLE in left:
        yield piece((WHOLE,), (DENSE,), CALIBRATION, lambda: _sum(bench))
    if PRECISE in left:
        yield piece((PRECISE,), (DENSE,), PRECISION, lambda: _precision(bench))


def _first_missing(bench: Workbench, left: Sequence[str]) -> int:
    """How many parts need not be taken again: all before the first missing one, as far as their sum is there."""
    every = parts(bench)
    first = next((place for place, unit in enumerate(every) if unit in left), len(every))
    if first == len(every) and WHOLE not in left:
        return first
    while first and not statistics_file(bench, every[first - 1]).exists():
        first -= 1
    return first


def _behind(failed: str) -> Results:
    reason = f"the part up to sample {failed} failed, and none is taken behind it"
    return {DENSE: [Measurement.failed(PART, reason)]}


def whole(bench: Workbench) -> Measurement | None:
    """What the pass as a whole came to; None before it has ended."""
    return _settled(bench, WHOLE)


def _found(bench: Workbench, unit: str) -> Measurement:
    """A finished part's measurement; a failed one where there is none."""
    return _settled(bench, unit) or Measurement.failed(PART, f"the part up to sample {unit} is not there")


def _settled(bench: Workbench, unit: str) -> Measurement | None:
    found = (done.results[DENSE][0] for done in bench.store.done(STAGE) if unit in done.names)
    return next(found, None)


def forget_lost(bench: Workbench) -> None:
    """Drop all parts of a pass that was measured but whose statistics are gone: they are collected anew.

    They are a large file beside the pieces, which may have been left behind where those were copied.
    """
    found = whole(bench)
    if found is not None and found.status == "ok" and not statistics_file(bench, parts(bench)[-1]).exists():
        bench.store.forget_names(STAGE, {*parts(bench), WHOLE})


def keep_only(bench: Workbench, done: str) -> None:
    """Delete the statistics of all parts but the one that ends at `done`."""
    for path in bench.store.folder.glob(_FILES):
        if path != statistics_file(bench, done):
            path.unlink()


class _Pass:
    """The calibration pass from where it was left."""

    def __init__(self, bench: Workbench, done: str) -> None:
        self.bench, self.done = bench, done
        self.transformer: Any = None
        self.statistics: Statistics = {}
        self.batches: Iterator[dict[str, Any]] = iter(())

    def run(self, unit: str) -> Results:
        """Samples up to `unit`, plain and with statistics in turn.

        An error drops the statistics, which then hold a part's samples halfway: the last file is what counts.
        """
        try:
            return self._run(unit)
        except BaseException:
            self.transformer, self.statistics, self.batches = None, {}, iter(())
            raise

    def _run(self, unit: str) -> Results:
        bench, size = self.bench, self.bench.profile.calibration.batch
        began = int(self.done or 0)
        warm = self.transformer is not None
        if not warm:
            self.transformer = bench.fresh()
            if self.done:
                self.statistics = load_statistics(statistics_file(bench, self.done), device=bench.device)
            self.batches = islice(bench.recorded().batches(size), began // size, None)
        keep_only(bench, self.done)  # not at the end of a part: its piece is not yet written then
        _, timer = step_timer(bench.device)
        plain, full = [], []
        device_memory, host_memory = PeakMemory(bench.device), PeakMemory("cpu")
        forwards = 0
        for batch in islice(self.batches, -(-(int(unit) - began) // size)):
            forward = _forward(self.transformer, batch)
            if not warm:
                forward()  # what is made once, in this process, is no part of either
                warm = True
            plain.append(timer(forward))
            full.append(timer(lambda forward=forward: self._collect(forward)))  # type: ignore[misc]
            forwards += 1
        save_statistics(self.statistics, statistics_file(bench, unit))
        self.done = unit
        values = {"samples": float(int(unit) - began), "forwards": float(forwards)}
        for name, peak in (("device", device_memory.read()), ("host", host_memory.read())):
            if peak is not None:
                values[f"peak_{name}_mib"] = peak / _MIB
        samples = {"plain/ms": plain, "statistics/ms": full}
        settings = {**bench.conditions(bench.sizes.pruning_pixels), "batch": size, "offload": bench.offload}
        return {DENSE: [Measurement(PART, "ok", values=values, scored=forwards, samples=samples, settings=settings)]}

    def _collect(self, forward: Callable[[], None]) -> None:
        self.statistics = collect_statistics(self.transformer, forward, into=self.statistics or None)

    def close(self) -> None:
        """Let go of model and statistics."""
        self.transformer, self.statistics = None, {}
        self.bench.clear()


def _forward(transformer: Any, batch: Mapping[str, Any]) -> Callable[[], None]:
    arguments = on_device(batch, transformer)

    def run() -> None:
        with torch.no_grad():
            transformer(**arguments, return_dict=False)

    return run


def _sum(bench: Workbench) -> Results:
    """All parts together."""
    wanted = parts(bench)
    found = {unit: _found(bench, unit) for unit in wanted}
    if failed := [found[unit].reason for unit in wanted if found[unit].status != "ok"]:
        return {DENSE: [Measurement.failed(CALIBRATION, failed[0])]}
    keep_only(bench, wanted[-1])  # not before: to go on, a retry needs what was left before a failure
    plain = [ms for unit in wanted for ms in found[unit].samples["plain/ms"]]
    full = [ms for unit in wanted for ms in found[unit].samples["statistics/ms"]]
    values = {
        "samples": sum(found[unit].values["samples"] for unit in wanted),
        "forwards": float(len(plain)),
        "plain_seconds": sum(plain) / 1000,
        "statistics_seconds": sum(full) / 1000,
        "ratio": sum(full) / sum(plain),
        "statistics_file_bytes": float(statistics_file(bench, wanted[-1]).stat().st_size),
    }
    for key in ("peak_device_mib", "peak_host_mib"):
        if peaks := [found[unit].values[key] for unit in wanted if key in found[unit].values]:
            values[key] = max(peaks)
    settings = found[wanted[-1]].settings
    samples = {"plain/ms": plain, "statistics/ms": full}
    return {
        DENSE: [Measurement(CALIBRATION, "ok", values=values, scored=len(plain), samples=samples, settings=settings)]
    }


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
    return sum(path.stat().st_size for path in bench.store.folder.glob(_FILES))


def model_bytes(bench: Workbench) -> int:
    """Of the dense transformer on the device: with offload its largest block and what is no block."""
    if not bench.offload:
        return bench.weight_bytes
    sizes = [parameter_count(get_block(bench.outline, block)) for block in FLUX.chain(bench.outline)]
    return bench.weight_bytes - (sum(sizes) - max(sizes)) * bench.dtype.itemsize


def need(bench: Workbench) -> Need:
    """The model, the statistics, a copy of these on the host, from where they are written, and two files of them.

    Two, while one takes the place of the other; what is there is not needed again.
    """
    copied = 0 if torch.device(bench.device).type == "cpu" else statistics_bytes(bench)
    host = bench.recorded_bytes + copied + (bench.weight_bytes if bench.offload else 0)
    return Need(
        device=model_bytes(bench) + statistics_bytes(bench),
        host=host,
        disk=max(0, 2 * statistics_bytes(bench) - written_bytes(bench)),
        remedy="fewer samples (--set random.samples=128) need less of the machine's memory"
        if bench.offload
        else "--offload keeps the blocks in the machine's memory",
    )
