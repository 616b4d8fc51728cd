"""Stages of times at full size: steps eager, compiled and as CUDA graphs, their profile, and whole pipeline calls."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from msgspec.structs import replace
from torch import nn

from bench.metrics.base import values_and_intervals
from bench.metrics.cost.end_to_end import LATENCY_END_TO_END, PipelineCall, measure_end_to_end
from bench.metrics.cost.latency import LATENCY, many_compilations, measure_latency
from bench.metrics.cost.memory import MEMORY, measure_memory, measure_stage_memory
from bench.metrics.cost.step_profile import STEP_PROFILE, measure_step_profile
from bench.metrics.cost.timing import Step
from bench.records.results import JSON, Measurement, MetricInfo
from bench.records.statistics import median_interval
from bench.records.variant_id import DENSE, FASTFLUX, L1, L1_EQUAL, VariantId
from bench.run.evaluation import ModelStep
from bench.run.units import Results, Unit
from bench.studies.full_size.random_weights import encoder_bytes, random_pipeline
from bench.studies.full_size.variants import FullSizeVariant, build, groups
from bench.studies.full_size.workbench import Need, Workbench, one_each, piece, release, with_size

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
        with torch.cuda.device(bench.device):
            stream = torch.cuda.Stream()  # one for all: each would keep a workspace of the matrix library
            pool = torch.cuda.graph_pool_handle()  # nobody reads an output, so all graphs may share their memory
        return {name: GraphStep(model, inputs, pool, stream) for name, model in models.items()}

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
    stream: Any
    graph: Any = None

    def __call__(self) -> None:
        """Replay it."""
        with torch.inference_mode():
            if self.graph is None:
                self._record()
            self.graph.replay()

    def _record(self) -> None:
        device = next(self.model.parameters()).device
        with torch.cuda.device(device):
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                for _ in range(GRAPH_WARMUP):
                    self.model(**self.inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                self.model(**self.inputs)
        self.graph = graph


def variant_units(bench: Workbench) -> list[str]:
    """All variants but the dense one, which is timed with each group."""
    return [name for name in bench.variants if name != DENSE]


def sized_units(bench: Workbench) -> list[str]:
    """The same at every resolution."""
    return [f"{pixels}/{name}" for pixels in bench.sizes.resolutions for name in variant_units(bench)]


def eager_pieces(pixels_of: Callable[[Workbench], int]) -> Callable[[Workbench, Sequence[str]], Iterator[Unit]]:
    """Pieces of eager steps at one resolution."""

    def pieces(bench: Workbench, left: Sequence[str]) -> Iterator[Unit]:
        yield from _timed(bench, left, pixels_of(bench), EAGER, unit="{name}", memory=True)

    return pieces


def way_pieces(*ways: Way) -> Callable[[Workbench, Sequence[str]], Iterator[Unit]]:
    """Pieces of other ways at all resolutions; the units of more than one way are told apart by their suffix."""

    def pieces(bench: Workbench, left: Sequence[str]) -> Iterator[Unit]:
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
) -> Iterator[Unit]:
    names = [name for name in variant_units(bench) if unit.format(name=name) in left]
    if not names:
        return
    info = with_size(LATENCY, pixels, way.suffix)
    if way.graphs and torch.device(bench.device).type != "cuda":
        reason = f"CUDA graphs need a CUDA device, and this is {bench.device}"
        units = tuple(unit.format(name=name) for name in names)
        every = (DENSE, *names)
        yield piece(units, every, info, lambda: {name: [Measurement.skipped(info, reason)] for name in every})
        return
    variants = bench.variants
    for group in groups([variants[name] for name in names], bench.own_bytes, bench.room()):
        step = at_once or len(group)
        for start in range(0, len(group), step):
            chosen = tuple(variant.id for variant in group[start : start + step])
            yield piece(
                tuple(unit.format(name=name) for name in chosen),
                (DENSE, *chosen),
                info,
                partial(_measure, bench, chosen, pixels, way, info, memory=memory),
            )


def _measure(
    bench: Workbench, names: Sequence[str], pixels: int, way: Way, info: MetricInfo, *, memory: bool
) -> Results:
    """Times of the variants, their targets and the dense model in turn; one that runs out of memory fails alone."""
    settings, variants = bench.profile.latency, bench.variants
    models: dict[str, Any] = {}
    failed: dict[str, list[Measurement]] = {}
    for name in dict.fromkeys((DENSE, *with_targets(variants, names))):
        try:
            models[name] = build(variants[name], bench.dense, bench.sizes)
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
    compared = against_targets(variants, found)
    results = {name: [compared[name]] for name in (DENSE, *names) if name in compared}
    if memory:
        for name, measurements in results.items():
            taken = measure_memory(models[name], steps[name], device=bench.device, settings=bench.conditions(pixels))
            measurements.append(replace(taken, info=with_size(MEMORY, pixels)))
    steps.clear()
    models.clear()
    release(bench.device)
    return {**results, **failed}


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def latency_need(bench: Workbench) -> Need:
    """The dense model, and the largest variant beside it."""
    variants = [variant for variant in bench.planned.values() if not variant.sliced]
    return Need(
        device=bench.weight_bytes + max(bench.own_bytes(variant) for variant in variants),
        remedy="take a GPU with more, or free it; L1-norm models need as much again, and fail alone without",
    )


def with_targets(variants: Mapping[str, FullSizeVariant], names: Sequence[str]) -> list[str]:
    """The names, and behind them the targets that are not among them."""
    targets = (variants[name].target for name in names)
    return list(dict.fromkeys((*names, *(target for target in targets if target))))


def against_targets(
    variants: Mapping[str, FullSizeVariant], found: Mapping[str, Measurement]
) -> dict[str, Measurement]:
    """The latencies of one run of rounds, those of models with a target with "ratio_to_target" besides.

    It is the median over the rounds of the model's time by the target's in the same round, with its 95% interval.
    """
    compared = dict(found)
    for name, own in found.items():
        target = found.get(variants[name].target)
        if target is None or own.status != "ok" or target.status != "ok":
            continue
        pairs = zip(own.samples["ms"], target.samples["ms"], strict=True)
        estimate = median_interval([mine / its for mine, its in pairs])
        values, intervals = values_and_intervals({"ratio_to_target": estimate})
        compared[name] = replace(
            own,
            values={**own.values, **values},
            intervals={**own.intervals, **intervals},
            settings={**own.settings, "target": variants[name].target},
        )
    return compared


# -- where a step's time goes

PROFILED = ("fastflux-20", "mix-20", "run_folded-20", "run_lora-20", "l1-4of24")


def profiled_units(bench: Workbench) -> list[str]:
    """The dense model and one of each family, at every resolution."""
    names = [name for name in bench.planned if name == DENSE or name in PROFILED]
    return [f"{pixels}/{name}" for pixels in bench.sizes.resolutions for name in names]


def _profile(bench: Workbench, unit: str) -> Results:
    latency, (pixels, _, name) = bench.profile.latency, unit.partition("/")
    model = build(bench.planned[name], bench.dense, bench.sizes)
    found = measure_step_profile(
        model, bench.inputs(int(pixels), latency.batch), rounds=latency.rounds, warmup=latency.warmup,
        device=bench.device, settings=bench.conditions(int(pixels)), info=_profile_info(unit),
    )  # fmt: skip
    del model
    release(bench.device)
    return {name: [found]}


def _profile_info(unit: str) -> MetricInfo:
    return with_size(STEP_PROFILE, int(unit.partition("/")[0]))


profiled_pieces = one_each(_profile, _profile_info)


# -- whole pipeline calls, VAE and text encoders with them: their time and memory by stage

PROMPT = "a photo of a red star left of a blue ring"
CALLED_AT_ONCE = 3


def call_units(bench: Workbench) -> list[str]:
    """FastFLUX of single blocks at every ratio, the folded run, and the sliced models, those of equal latency too."""
    families = (FASTFLUX, "run_folded", L1, L1_EQUAL)
    return [name for name in bench.variants if VariantId.parse(name).family in families]


def call_pieces(bench: Workbench, left: Sequence[str]) -> Iterator[Unit]:
    """A few variants each, with the dense model."""
    room = bench.room() - encoder_bytes(bench.sizes, bench.dtype)
    variants = bench.variants
    for group in groups([variants[name] for name in left], bench.own_bytes, room):
        for start in range(0, len(group), CALLED_AT_ONCE):
            names = tuple(variant.id for variant in group[start : start + CALLED_AT_ONCE])
            yield piece(names, (DENSE, *names), LATENCY_END_TO_END, partial(_measure_calls, bench, names))


def _measure_calls(bench: Workbench, names: Sequence[str]) -> Results:
    profile, sampling, variants = bench.profile, bench.profile.sampling, bench.variants
    models: dict[str, Any] = {
        name: build(variants[name], bench.dense, bench.sizes)
        for name in dict.fromkeys((DENSE, *with_targets(variants, names)))
    }
    pipeline = random_pipeline(bench.sizes, models[DENSE], bench.device, bench.dtype)
    calls = {
        name: PipelineCall(
            pipeline, model, (PROMPT,) * sampling.batch, sampling.steps, sampling.guidance, sampling.height,
            sampling.width, sampling.seed,
        )
        for name, model in models.items()
    }  # fmt: skip
    settings = {"weights": "random", "together": list(models)}
    found = measure_end_to_end(
        calls, warmup=1, rounds=max(1, profile.latency.end_to_end), seed=bench.sizes.seed, baseline=DENSE,
        device=bench.device, settings=settings,
    )  # fmt: skip
    compared = against_targets(variants, found)
    results = {
        name: [compared[name], measure_stage_memory(calls[name], device=bench.device, settings=settings)]
        for name in (DENSE, *names)
    }
    del pipeline
    calls.clear()
    models.clear()
    release(bench.device)
    return results


def call_need(bench: Workbench) -> Need:
    """The dense model and the encoders."""
    return Need(
        device=bench.weight_bytes + encoder_bytes(bench.sizes, bench.dtype),
        remedy="take a GPU with more, or leave this stage away with --stages",
    )
