"""Latency of one transformer step, eager at one batch size or several, and compiled (`torch.compile`).

All variants are measured in turn, so that the machine's drift meets them alike.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Required, TypedDict, Unpack, cast

import torch
from msgspec import structs
from torch import Tensor, nn

from bench.metrics.base import measured
from bench.metrics.catalogue import metric_named
from bench.metrics.cost.timing import Clock, Step, interleave, other_work, percentiles, require_rounds, step_timer
from bench.records.results import JSON, Measurement, MetricInfo
from bench.records.statistics import median_interval
from fastflux.errors import FastFluxError, unknown_name

LATENCY = metric_named("latency").info
LATENCY_BATCHES = metric_named("latency_batches").info


class Timing(TypedDict, total=False):
    """How steps are timed: the options of `measure_latency`, which every measurement of a latency passes on to it."""

    warmup: Required[int]
    rounds: Required[int]
    precision: float
    seed: Required[int]
    baseline: str
    device: str
    clock: Clock | None
    settings: Mapping[str, JSON] | None
    require_idle: bool


def measure_latency(
    steps: Mapping[str, Step],
    *,
    warmup: int,
    rounds: int,
    seed: int,
    precision: float = 0.0,
    decided: Callable[[float, float], bool] = lambda _low, _high: False,
    baseline: str = "dense",
    device: str = "cpu",
    clock: Clock | None = None,
    settings: Mapping[str, JSON] | None = None,
    require_idle: bool = False,
    info: MetricInfo = LATENCY,
) -> dict[str, Measurement]:
    """Time one step of every variant in every round, in an order shuffled anew each round.

    Args:
        steps: by variant, a call that runs one step.
        warmup: untimed rounds first.
        rounds: timed rounds, at most.
        seed: of the orders.
        precision: no more rounds than it takes for the 95% interval of every ratio to be narrower than this; 0 takes
            them all.
        decided: whether a ratio's interval says enough without being as narrow.
        baseline: the variant the ratios refer to.
        device: a CUDA device is waited for before and after each step.
        clock: seconds; without one the device's own: CUDA events, or ``time.perf_counter``. The settings name it.
        settings: what else determines the times (resolution, number format, threads), kept in the measurements.
        require_idle: refuse to measure while other work takes the device, or where that cannot be told. Unasked, and
            unless a clock is given, other work is only noted as the setting "other_work".
        info: the metric, where a step is something else than one of a transformer.

    Returns:
        Per variant "median_ms" and "ratio_to_dense" (median over the rounds of its time by the baseline's in the same
        round) with distribution-free 95% intervals, "p50_ms" (the median again), "p90_ms", "p99_ms", and the raw times
        as samples "ms". A variant whose step raises a RuntimeError (out of memory, say) has failed and is left out of
        further rounds; when that is the baseline, no one has a ratio.

    Raises:
        FastFluxError: no baseline among the steps, no rounds, or a device that is not idle when it must be.
    """
    if baseline not in steps:
        raise FastFluxError(f"There is no step of the baseline {baseline!r} among {sorted(steps)}; add it.")
    require_rounds(rounds, warmup)  # before the look at the machine, which takes a moment
    watched: dict[str, JSON] = {}
    if require_idle or clock is None:
        found = other_work(device)
        if require_idle:
            found.require_idle()
        watched["other_work"] = str(found)
    name_of_clock, timer = step_timer(device, clock)

    def enough(times: Mapping[str, list[float]]) -> bool:
        others = [name for name in times if name != baseline]
        if not others or baseline not in times:
            return False
        intervals = [_interval(times[name], times[baseline]) for name in others]
        return all(high - low < precision or decided(low, high) for low, high in intervals)

    times, faults = interleave(steps, timer, warmup=warmup, rounds=rounds, seed=seed, enough=enough)
    rounds = max(map(len, times.values())) or rounds
    common: dict[str, JSON] = {
        **(settings or {}),
        "warmup": warmup,
        "rounds": rounds,
        **({"precision": precision} if precision else {}),
        "seed": seed,
        "baseline": baseline,
        "order": "all variants in each round, shuffled",
        "device_type": torch.device(device).type,
        "clock": name_of_clock,
        **watched,
    }
    reference = None if baseline in faults else times[baseline]
    return {
        name: Measurement.failed(info, faults[name], missing=rounds, settings=common)
        if name in faults
        else latency_of(info, times[name], reference, common)
        for name in steps
    }


def _interval(times: list[float], reference: list[float]) -> tuple[float, float]:
    """The 95% interval of the ratio; infinite where there is none yet."""
    found = median_interval([own / dense for own, dense in zip(times, reference, strict=True)] or [1.0]).interval
    return found or (-math.inf, math.inf)


def latency_of(
    info: MetricInfo, times: list[float], reference: list[float] | None, settings: Mapping[str, JSON]
) -> Measurement:
    """The measurement of a variant's milliseconds, with the baseline's of the same rounds as `reference`."""
    estimates = {"median_ms": median_interval(times)}
    if reference is not None:
        ratios = [own / dense for own, dense in zip(times, reference, strict=True)]
        estimates["ratio_to_dense"] = median_interval(ratios)
    return measured(info, len(times), {"ms": times}, estimates, settings, percentiles(times))


def with_value(measurement: Measurement, key: str, value: float) -> Measurement:
    """The measurement with one more value; a failed one stays without."""
    if measurement.status != "ok":
        return measurement
    return structs.replace(measurement, values={**measurement.values, key: value})


def measure_latency_batches(
    steps_of: Callable[[int], Mapping[str, Step]], batches: Sequence[int], **timing: Unpack[Timing]
) -> dict[str, Measurement]:
    """`measure_latency` at every batch size, one after the other.

    Args:
        steps_of: for a batch size, the step of every variant; called when its turn comes, so that the inputs of one
            size are held at a time.
        batches: numbers of images in a step.
        timing: options of `measure_latency`.

    Returns:
        Per variant the values of `measure_latency` as "batch4_median_ms" and so on, "batch4_per_image_ms", and the raw
        times as samples "batch4/ms". A size at which the variant's step raised a RuntimeError has no values and is
        named, with the reason, in the setting "failed"; failed as a whole when that is every size.

    Raises:
        FastFluxError: no sizes, one below 1 or twice, or as `measure_latency`.
    """
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise FastFluxError(f"The batch sizes are {list(batches)}; expected at least one, each from 1 and once.")
    found = {batch: measure_latency(steps_of(batch), info=LATENCY_BATCHES, **timing) for batch in batches}
    return {name: _joined({batch: found[batch][name] for batch in batches}) for name in found[batches[0]]}


def _joined(found: Mapping[int, Measurement]) -> Measurement:
    """One variant's measurements of all sizes as one."""
    ok = {
        batch: with_value(one, "per_image_ms", one.values["median_ms"] / batch)
        for batch, one in found.items()
        if one.status == "ok"
    }
    failed: dict[str, JSON] = {str(batch): one.reason for batch, one in found.items() if batch not in ok}
    settings: dict[str, JSON] = {**[*found.values()][-1].settings, "batches": list(found), "failed": failed}
    missing = sum(one.missing for one in found.values())
    if not ok:
        reason = "; ".join(f"batch {batch}: {why}" for batch, why in failed.items())
        return Measurement.failed(LATENCY_BATCHES, reason, missing=missing, settings=settings)
    return Measurement(
        LATENCY_BATCHES,
        "ok",
        values={f"batch{batch}_{key}": value for batch, one in ok.items() for key, value in one.values.items()},
        intervals={f"batch{batch}_{key}": pair for batch, one in ok.items() for key, pair in one.intervals.items()},
        scored=sum(one.scored for one in ok.values()),
        missing=missing,
        samples={f"batch{batch}/{key}": times for batch, one in ok.items() for key, times in one.samples.items()},
        settings=settings,
    )


LATENCY_COMPILED = metric_named("latency_compiled").info
#: Calls of a mode until it runs as it will: CUDA graphs are warmed up, recorded, and only then replayed.
MODES = {"default": 1, "reduce-overhead": 3, "max-autotune-no-cudagraphs": 1, "max-autotune": 3}


@dataclass(frozen=True)
class CompileSettings:
    """How a transformer is compiled: the arguments of `torch.compile`; `mode` is for the backend "inductor" alone.

    Raises:
        FastFluxError: no such mode or backend, or a mode for another backend.
    """

    mode: str = "default"
    backend: str = "inductor"
    fullgraph: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_name("compile mode", self.mode, list(MODES))
        known = torch.compiler.list_backends(exclude_tags=())
        if self.backend not in known:
            raise unknown_name("compile backend", self.backend, known)
        if self.backend != "inductor" and self.mode != "default":
            raise FastFluxError(f"The mode {self.mode!r} is inductor's, but the backend is {self.backend!r}.")

    @property
    def warmup(self) -> int:
        """The least untimed rounds."""
        return MODES[self.mode]

    @property
    def graphs(self) -> bool:
        """Whether CUDA graphs are recorded and replayed."""
        return MODES[self.mode] > 1

    def compile(self, transformer: nn.Module) -> nn.Module:
        """The transformer compiled at its first call; the given one stays eager, and both share their weights."""
        mode = self.mode if self.backend == "inductor" else None
        compiled: Any = torch.compile(transformer, mode=mode, backend=self.backend, fullgraph=self.fullgraph)
        return cast("nn.Module", compiled)

    def describe(self) -> dict[str, JSON]:
        """For the settings of a measurement."""
        return {"compiled": True} | {f"compile_{name}": value for name, value in asdict(self).items()}


def measure_compiled_latency(
    transformers: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    compile_settings: CompileSettings,
    **timing: Unpack[Timing],
) -> dict[str, Measurement]:
    """`measure_latency` of one compiled step of every transformer on the same inputs, without gradients.

    Returns:
        Its values and "first_call_ms", in which the model was compiled. Failed, with the compiler's reason, for a
        transformer that cannot be compiled.

    Raises:
        FastFluxError: fewer warm-up rounds than the mode needs, or as `measure_latency`.
    """
    if timing["warmup"] < compile_settings.warmup:
        raise FastFluxError(
            f"warmup is {timing['warmup']}, but compiled in mode {compile_settings.mode!r} a model needs at least "
            f"{compile_settings.warmup} untimed rounds."
        )
    steps = {
        name: _Step(compile_settings.compile(model), inputs, compile_settings.graphs)
        for name, model in transformers.items()
    }
    timing["settings"] = {**(timing.get("settings") or {}), **compile_settings.describe()}
    with many_compilations(len(steps)):
        found = measure_latency(steps, info=LATENCY_COMPILED, **timing)
    return {name: with_value(one, "first_call_ms", steps[name].first_ms) for name, one in found.items()}


def many_compilations(models: int) -> Any:
    """A context in which so many models of one class are each compiled: torch gives up after eight, and runs eager."""
    torch.compiler.reset()  # what was compiled before counts too
    dynamo: Any = torch._dynamo  # noqa: SLF001  # its settings have no other place
    return dynamo.config.patch(recompile_limit=8 * (models + 1))


@dataclass
class _Step:
    """One step without gradients, which keeps the time of its first call."""

    model: nn.Module
    inputs: Mapping[str, Any]
    graphs: bool
    first_ms: float = 0.0

    def __call__(self) -> None:
        began = time.perf_counter()
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()  # the outputs of the step before may go
        with torch.inference_mode():
            self.model(**self.inputs)
        if not self.first_ms:
            self.first_ms = (time.perf_counter() - began) * 1000
