"""Stage of a 20 % FastFLUX run with Sandwich Training at full size: what it costs, block by block.

Random weights give the cost, not the quality. Every finished block is a file of the pruning method's own: a run that
is killed, or whose budget is spent, goes on behind it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic

from bench.metrics.cost.flops import PRUNING_COST, measure_pruning_cost
from bench.records.results import JSON, Measurement, MetricInfo
from bench.run.units import Results, Unit
from bench.studies.full_size import calibrating
from bench.studies.full_size.workbench import Need, Workbench, piece
from fastflux.calibration.importance import DEFAULT_RANKING, fit_blocks, rank_blocks
from fastflux.calibration.statistics import Calibration, load_statistics
from fastflux.cost import PeakMemory
from fastflux.errors import FastFluxError
from fastflux.methods.registry import make_config
from fastflux.methods.sandwich_training import SandwichTrainingConfig, read_cost
from fastflux.models.flux import FLUX
from fastflux.models.pruned import parameter_count
from fastflux.models.surgery import get_block
from fastflux.plan import block_count
from fastflux.pruning import prune_

RANKING = MetricInfo(
    "ranking_cost", "1", "seconds, MiB, R² or ratio", higher_is_better=None,
    reference="fits of all blocks from the statistics of one pass, and their order by residual R²; random weights",
)  # fmt: skip
BY_BLOCK = MetricInfo(
    "pruning_cost_by_block", "1", "seconds, MiB or count", higher_is_better=False,
    reference="Sandwich Training of each replaced block, in the order of replacement; random weights",
)  # fmt: skip
RATIO = 0.20
VARIANT = "fastflux-20"
STAGE = "prune-20"
ORDER, WHOLE = "order", "whole"
_BLOCK_FILES = "[0-9]*.safetensors"
_MIB = 2**20
_NAMES = 2**16
"""Bytes for the names and shapes of a file's tensors and for its figures, at most."""
_SOLVING = 5
"""Matrices while a fit is solved: both products, the damped one, its factor, the solution."""


def units(_bench: Workbench) -> list[str]:
    """The order of the blocks, and all blocks of the ratio."""
    return [ORDER, WHOLE]


def pieces(bench: Workbench, left: Sequence[str]) -> Iterator[Unit]:
    """The order from the statistics of the stage `calibration`, then the pruning, which needs the order alone."""
    whole = calibrating.whole(bench)
    if whole is not None and whole.status != "ok":
        reason = f"the stage calibration failed ({whole.reason})"
        for unit, info in ((ORDER, RANKING), (WHOLE, PRUNING_COST)):
            if unit in left:
                yield piece((unit,), (VARIANT,), info, lambda info=info: {VARIANT: [Measurement.failed(info, reason)]})  # type: ignore[misc]
        return
    require_statistics(bench)
    if ORDER in left:
        yield piece((ORDER,), (VARIANT,), RANKING, lambda: _rank(bench))
    if WHOLE in left:
        yield piece((WHOLE,), (VARIANT,), PRUNING_COST, lambda: _prune(bench))


def needs_statistics(bench: Workbench) -> bool:
    """Whether the order of the blocks is not known yet."""
    return ORDER not in bench.store.names(STAGE)


def require_statistics(bench: Workbench) -> None:
    """Raise FastFluxError where the order is to be made of statistics that are not there."""
    whole = calibrating.whole(bench)
    there = whole is not None and (whole.status != "ok" or calibrating.statistics_file(bench).exists())
    if needs_statistics(bench) and not there:
        raise FastFluxError(
            f"The stage {STAGE} needs the statistics of the stage {calibrating.STAGE}: run that one first, or both."
        )


def _rank(bench: Workbench) -> Results:
    bench.clear()
    began, memory = monotonic(), PeakMemory(bench.device)
    statistics = load_statistics(calibrating.statistics_file(bench), device=bench.device)
    fits = fit_blocks(bench.outline, statistics)
    order = rank_blocks(DEFAULT_RANKING, bench.outline, fits)
    values = {"seconds": monotonic() - began}
    if (peak := memory.read()) is not None:
        values["peak_device_mib"] = peak / _MIB
    values |= {f"{block}.residual_r2": fits[block].residual_r2 for block in order}
    values |= {f"{block}.ridge": fits[block].ridge for block in order}
    settings: dict[str, JSON] = {"weights": "random", "offload": bench.offload}
    settings["order"] = [str(block) for block in order]
    return {VARIANT: [Measurement(RANKING, "ok", values=values, scored=len(order), settings=settings)]}


def _order(bench: Workbench) -> str:
    for done in bench.store.done(STAGE):
        for measurement in done.results[VARIANT]:
            if measurement.info.name == RANKING.name and measurement.status == "ok":
                blocks = measurement.settings["order"]
                return ",".join(str(block) for block in blocks)  # type: ignore[union-attr]  # a list of texts
    raise FastFluxError(f"The order of the blocks could not be found: run the stage {STAGE} with --retry.")


def _prune(bench: Workbench) -> Results:
    settings = {
        **bench.profile.methods.get("sandwich_training", {}),
        "samples": bench.sizes.samples,
        "ranking": _order(bench),
        "blocks": _replaced_blocks(bench),
    }
    config = make_config("sandwich_training", settings)
    folder = bench.file("progress")
    transformer = bench.fresh()
    host, began, longest = PeakMemory("cpu"), monotonic(), 0.0
    there = len(list(folder.rglob(_BLOCK_FILES)))

    def advance(done: int, total: int) -> None:
        nonlocal began, longest
        longest, began = max(longest, monotonic() - began), monotonic()
        # At least one block of each call, or a short budget would load the model again and again for nothing.
        if done < total and len(list(folder.rglob(_BLOCK_FILES))) > there:
            bench.budget.require(longest)

    calibration = Calibration(
        folder=folder,
        batch_size=bench.profile.calibration.batch,
        advance=advance,
        recorded_inputs=bench.recorded(),
        activations="ram",
        keep=1,
    )
    prune_(transformer, config, calibration)
    found = measure_pruning_cost(calibration.cost)
    turns = [asdict(read_cost(path)) for path in _files_of_this_order(folder)]
    samples = {
        name: [float(turn[name]) for turn in turns]
        for name in ("seconds", "block_forwards", "block_trainings", "training_steps", "activation_bytes")
    }
    samples["peak_device_mib"] = [turn["peak_memory_bytes"] / _MIB for turn in turns if turn["peak_memory_bytes"]]
    values = {"blocks": float(len(turns)), "seconds": sum(samples["seconds"])}
    if (peak := host.read()) is not None:
        values["peak_host_mib"] = peak / _MIB
    shown = {key: value for key, value in settings.items() if key != "ranking"}
    by_block = Measurement(
        BY_BLOCK, "ok", values=values, scored=len(turns), samples=samples,
        settings={**bench.conditions(bench.sizes.pruning_pixels), **shown, "offload": bench.offload},
    )  # fmt: skip
    bench.clear()
    return {VARIANT: [found, by_block]}


def _files_of_this_order(folder: Path) -> list[Path]:
    """The finished blocks in their order; a folder beside theirs has those of an order that was found before."""
    paths = sorted(folder.rglob(_BLOCK_FILES))
    latest = max(paths, key=lambda path: path.stat().st_mtime_ns).parent
    return [path for path in paths if path.parent == latest]


def fit_bytes(bench: Workbench) -> int:
    """Of the fits of all blocks in float64, a matrix for each stream of a double block, and of one that is solved."""
    matrices = 2 * bench.sizes.double_blocks + bench.sizes.single_blocks
    return (matrices + _SOLVING) * 8 * bench.sizes.width**2


def files_bytes(bench: Workbench) -> int:
    """Of the files of all replaced blocks, at most: whichever blocks the ranking takes, all of them double ones.

    Each holds its sandwich: the adapted blocks, and between them the linear layers of the block itself and of those
    replaced before that are its neighbours.
    """
    config = bench.profile.methods.get("sandwich_training", {})
    layers = config.get("layers", SandwichTrainingConfig.layers)
    adapted = (int(str(layers)) - 1) * _largest_block(bench)
    linear = 2 * (bench.sizes.width + 1) * bench.sizes.width
    return sum(
        (adapted + turn * linear) * bench.dtype.itemsize + _NAMES for turn in range(1, _replaced_blocks(bench) + 1)
    )


def _largest_block(bench: Workbench) -> int:
    """Parameters of a double block."""
    return max(parameter_count(get_block(bench.outline, block)) for block in FLUX.chain(bench.outline))


def _replaced_blocks(bench: Workbench) -> int:
    return block_count(RATIO, bench.sizes.double_blocks + bench.sizes.single_blocks)


def need(bench: Workbench) -> Need:
    """On the device the model and a sandwich, or the ranking's statistics and fits, whichever is more.

    On the host the samples at three places of the model at least; on disk the statistics and the blocks' files, as far
    as they are not there yet.
    """
    tokens = (bench.sizes.pruning_pixels // 16) ** 2 + bench.sizes.text_tokens
    place = bench.sizes.samples * tokens * bench.sizes.width * bench.dtype.itemsize
    written = sum(path.stat().st_size for path in (bench.store.folder / "progress").rglob(_BLOCK_FILES))
    return Need(
        device=max(
            calibrating.model_bytes(bench) + 3 * 4 * _largest_block(bench),
            calibrating.statistics_bytes(bench) + fit_bytes(bench),
        ),
        host=bench.recorded_bytes + 4 * place + (bench.weight_bytes if bench.offload else 0),
        disk=max(0, calibrating.statistics_bytes(bench) - calibrating.written_bytes(bench))
        + max(0, files_bytes(bench) - written),
        remedy="--offload keeps the blocks in the machine's memory; fewer samples (--set random.samples=128) need less "
        "of that",
    )
