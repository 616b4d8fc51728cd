"""Stages of step times at full size: eager, compiled, as CUDA graphs, and L1-norm pruning at equal latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.full_size.pieces import Piece, Results
from bench.full_size.stage import Need
from bench.full_size.variants import build, equal_variant, groups, widths_at
from bench.full_size.workbench import ModelStep, Workbench, release, with_size
from bench.latency_search import GRID, EqualLatency, Reading, search_equal_latency
from bench.metrics.compiled import many_compilations
from bench.metrics.flops import count_flops
from bench.metrics.latency import LATENCY, measure_latency
from bench.metrics.memory import MEMORY, measure_memory
from bench.metrics.timing import Step
from bench.results import JSON, Measurement, MetricInfo
from bench.variants import DENSE
from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm import largest_ratio

EQUAL_LATENCY = MetricInfo(
    "equal_latency", "1", "fraction, or count of what is kept", higher_is_better=None,
    reference="L1-norm slicing whose step takes as long as that of a FastFLUX model",
)  # fmt: skip
#: Within 2 %, as the tables have it; fewer rounds than there, since a step at full size varies less.
SEARCH: Mapping[str, Any] = {"tolerance": 0.02, "rounds": 10, "final_rounds": 30, "candidates": 6}
COMPILED_AT_ONCE = 4
GRAPH_WARMUP = 3


@dataclass(frozen=True)
class Way:
    """How a step is run: its blocks compiled or not, launched one by one or replayed as one CUDA graph."""

    suffix: str = ""
    compiled: bool = False
    graphs: bool = False

    def steps(self, bench: Workbench, models: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Step]:
        """A step of every model."""
        if self.compiled:
            for model in models.values():
                # One block of a kind is compiled, and serves all of that kind: minutes less than the whole model.
                model.compile_repeated_blocks(backend=bench.sizes.compile_backend, dynamic=False)
        if not self.graphs:
            return {name: ModelStep(model, inputs) for name, model in models.items()}
        pool = torch.cuda.graph_pool_handle()  # nobody reads an output, so all graphs may share their memory
        return {name: GraphStep(model, inputs, pool) for name, model in models.items()}

    def context(self, models: int) -> AbstractContextManager[Any]:
        """Around the timing."""
        found: AbstractContextManager[Any] = many_compilations(models) if self.compiled else nullcontext()
        return found


EAGER, COMPILED = Way(), Way("_compiled", compiled=True)
GRAPHS, COMPILED_GRAPHS = Way("_graphs", graphs=True), Way("_compiled_graphs", compiled=True, graphs=True)


@dataclass
class GraphStep:
    """A step recorded at its first call and replayed from then on: no launch costs but one."""

    model: nn.Module
    inputs: Mapping[str, Any]
    pool: Any
    graph: Any = None

    def __call__(self) -> None:
        """Replay it."""
        if self.graph is None:
            self._record()
        self.graph.replay()

    def _record(self) -> None:
        device = next(self.model.parameters()).device
        with torch.cuda.device(device), torch.inference_mode():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(GRAPH_WARMUP):
                    self.model(**self.inputs)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                self.model(**self.inputs)
        self.graph = graph


def variant_units(bench: Workbench) -> list[str]:
    """All variants but the dense one, which is timed with each group."""
    return [name for name in bench.variants if name != DENSE]


def sized_units(bench: Workbench) -> list[str]:
    """The same at every resolution."""
    return [f"{pixels}/{name}" for pixels in bench.sizes.resolutions for name in variant_units(bench)]


def eager_pieces(pixels_of: Callable[[Workbench], int]) -> Callable[[Workbench, Sequence[str]], Iterator[Piece]]:
    """Pieces of eager steps at one resolution."""

    def pieces(bench: Workbench, left: Sequence[str]) -> Iterator[Piece]:
        yield from _timed(bench, left, pixels_of(bench), EAGER, unit="{name}", memory=True)

    return pieces


def way_pieces(*ways: Way) -> Callable[[Workbench, Sequence[str]], Iterator[Piece]]:
    """Pieces of other ways at all resolutions; the units of more than one way are told apart by their suffix."""

    def pieces(bench: Workbench, left: Sequence[str]) -> Iterator[Piece]:
        for way in ways:
            for pixels in bench.sizes.resolutions:
                unit = f"{pixels}/{{name}}" + (way.suffix if len(ways) > 1 else "")
                yield from _timed(bench, left, pixels, way, unit=unit, at_once=COMPILED_AT_ONCE)

    return pieces


def graph_units(bench: Workbench) -> list[str]:
    """Both kinds of graphs, at every resolution."""
    return [f"{unit}{way.suffix}" for way in (GRAPHS, COMPILED_GRAPHS) for unit in sized_units(bench)]


def _timed(
    bench: Workbench,
    left: Sequence[str],
    pixels: int,
    way: Way,
    *,
    unit: str,
    memory: bool = False,
    at_once: int | None = None,
) -> Iterator[Piece]:
    names = [name for name in variant_units(bench) if unit.format(name=name) in left]
    if not names:
        return
    info = with_size(LATENCY, pixels, way.suffix)
    if way.graphs and torch.device(bench.device).type != "cuda":
        reason = f"CUDA graphs need a CUDA device, and this is {bench.device}"
        units = tuple(unit.format(name=name) for name in names)
        every = (DENSE, *names)
        yield Piece(units, every, info, lambda: {name: [Measurement.skipped(info, reason)] for name in every})
        return
    for group in groups([bench.variants[name] for name in names], bench.own_bytes, bench.room()):
        step = at_once or len(group)
        for start in range(0, len(group), step):
            chosen = tuple(variant.id for variant in group[start : start + step])
            yield Piece(
                tuple(unit.format(name=name) for name in chosen),
                (DENSE, *chosen),
                info,
                lambda chosen=chosen: _measure(bench, chosen, pixels, way, info, memory=memory),  # type: ignore[misc]
            )


def _measure(
    bench: Workbench, names: Sequence[str], pixels: int, way: Way, info: MetricInfo, *, memory: bool
) -> Results:
    """Times of the variants and the dense model in turn; one that runs out of memory fails alone."""
    settings = bench.profile.latency
    models: dict[str, Any] = {}
    failed: dict[str, list[Measurement]] = {}
    for name in dict.fromkeys((DENSE, *names)):
        try:
            models[name] = build(bench.variants[name], bench.dense, bench.sizes)
        except torch.OutOfMemoryError as error:
            failed[name] = [Measurement.failed(info, f"no memory to make the model: {_first(error)}")]
            release(bench.device)
    inputs = bench.inputs(pixels, settings.batch)
    steps = way.steps(bench, models, inputs)
    conditions: dict[str, JSON] = {
        **bench.conditions(pixels),
        "compiled": way.compiled,
        "compile_backend": bench.sizes.compile_backend if way.compiled else "",
        "compiled_regions": "every block" if way.compiled else "",
        "cuda_graphs": way.graphs,
        "together": list(models),
    }
    with way.context(len(models)):
        found = measure_latency(
            steps, warmup=settings.warmup, rounds=settings.rounds, seed=bench.sizes.seed, baseline=DENSE,
            device=bench.device, settings=conditions, info=info,
        )  # fmt: skip
    results = {name: [measurement] for name, measurement in found.items()}
    if memory:
        for name, model in models.items():
            taken = measure_memory(model, steps[name], device=bench.device, settings=bench.conditions(pixels))
            results[name].append(_renamed(taken, with_size(MEMORY, pixels)))
    steps.clear()
    models.clear()
    release(bench.device)
    return {**results, **failed}


def _renamed(measurement: Measurement, info: MetricInfo) -> Measurement:
    from dataclasses import replace

    return replace(measurement, info=info)


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def equal_units(bench: Workbench) -> list[str]:
    """FastFLUX models of single blocks whose latency is to be met."""
    return [f"fastflux-{100 * ratio:02.0f}" for ratio in bench.sizes.equal_ratios]


def equal_pieces(bench: Workbench, left: Sequence[str]) -> Iterator[Piece]:
    """A search for each target, at the largest resolution."""
    for target in left:
        name = f"l1_equal-{target.rpartition('-')[2]}"
        yield Piece((target,), (name,), EQUAL_LATENCY, lambda target=target, name=name: _search(bench, target, name))  # type: ignore[misc]


def _search(bench: Workbench, target: str, name: str) -> Results:
    pixels = max(bench.sizes.resolutions)
    inputs = bench.inputs(pixels)
    fast = ModelStep(build(bench.variants[target], bench.dense, bench.sizes), inputs)

    def measure(ratio: float, rounds: int) -> Reading:
        heads, channels = widths_at(ratio, bench.outline)
        sliced = equal_variant(bench.variants[target], heads, channels, ratio)
        steps: dict[str, Step] = {name: ModelStep(build(sliced, bench.dense, bench.sizes), inputs), target: fast}
        found = measure_latency(
            steps, warmup=bench.profile.latency.warmup, rounds=rounds, seed=bench.sizes.seed, baseline=target,
            device=bench.device,
        )  # fmt: skip
        steps.clear()
        release(bench.device)
        for measurement in found.values():
            if measurement.status != "ok":
                raise FastFluxError(f"No latency can be met: {measurement.reason}")
        return Reading(
            ratio, heads, channels, found[name].values["ratio_to_dense"],
            found[name].intervals.get("ratio_to_dense"), rounds,
            tuple(found[name].samples["ms"]), tuple(found[target].samples["ms"]),
        )  # fmt: skip

    try:
        equal = search_equal_latency(
            measure, lambda ratio: widths_at(ratio, bench.outline), largest=largest_ratio(bench.outline), **SEARCH
        )
    except FastFluxError as error:
        return {name: [Measurement.failed(EQUAL_LATENCY, str(error))]}
    return {name: [_equal_measurement(bench, equal, target, pixels)]}


def _equal_measurement(bench: Workbench, equal: EqualLatency, target: str, pixels: int) -> Measurement:
    inputs = bench.inputs(pixels)
    widths = (equal.heads, equal.mlp_channels)
    sliced = equal_variant(bench.variants[target], *widths, equal.ratio)
    dense = count_flops(bench.outline, inputs)
    flops = count_flops(build(sliced, bench.outline, bench.sizes), inputs)
    return Measurement(
        EQUAL_LATENCY,
        "ok",
        values={
            "ratio": equal.ratio, "heads": equal.heads, "mlp_channels": equal.mlp_channels,
            "ratio_to_target": equal.latency_ratio, "flops_ratio_to_dense": flops / dense,
        },
        intervals={} if equal.interval is None else {"ratio_to_target": equal.interval},
        scored=equal.rounds,
        samples={"ms": list(equal.candidate_ms), "target_ms": list(equal.target_ms)},
        settings={
            **bench.conditions(pixels), **SEARCH, "target": target, "met": equal.met, "grid": GRID,
            "tried": [[reading.ratio, reading.latency_ratio] for reading in equal.tried],
        },
    )  # fmt: skip


def latency_need(bench: Workbench) -> Need:
    """The dense model, and the largest variant beside it."""
    return Need(
        device=bench.weight_bytes + max(bench.own_bytes[name] for name in bench.variants if "l1" not in name),
        remedy="take a GPU with more, or free it; L1-norm models need as much again, and fail alone without",
    )


def equal_need(bench: Workbench) -> Need:
    """The dense model, a FastFLUX one, and the largest sliced one beside them."""
    sliced = max((size for name, size in bench.own_bytes.items() if bench.variants[name].sliced), default=0)
    return Need(
        device=latency_need(bench).device + sliced,
        remedy="take a GPU with more, or leave this stage away with --stages",
    )
