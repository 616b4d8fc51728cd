"""Stage of L1-norm pruning at equal latency: the ratios whose step takes as long as that of a FastFLUX model.

Found with eager steps at the largest resolution. Later stages time the models found in every way, beside their targets.
"""

from collections.abc import Mapping
from typing import Any

from bench.metrics.cost.latency import measure_latency
from bench.metrics.cost.latency_search import GRID, EqualLatency, Reading, search_equal_latency
from bench.metrics.cost.timing import Step
from bench.records.results import Measurement
from bench.records.variant_id import DENSE
from bench.run.evaluation import ModelStep
from bench.run.units import Results
from bench.studies.full_size.counting import counts
from bench.studies.full_size.latency import latency_need
from bench.studies.full_size.variants import EQUAL_LATENCY, build, equal_id, equal_variant, widths_at
from bench.studies.full_size.workbench import Need, Workbench, one_each, release
from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm import largest_ratio

#: Within 2 %, as the tables have it; fewer rounds than there, since a step at full size varies less.
SEARCH: Mapping[str, Any] = {"tolerance": 0.02, "rounds": 10, "final_rounds": 30, "candidates": 6}


def units(bench: Workbench) -> list[str]:
    """FastFLUX models of single blocks whose latency is to be met."""
    return [f"fastflux-{100 * ratio:02.0f}" for ratio in bench.sizes.equal_ratios]


def _search(bench: Workbench, target: str) -> Results:
    name, pixels = equal_id(target), max(bench.sizes.resolutions)
    inputs = bench.inputs(pixels)
    fast = ModelStep(build(bench.planned[target], bench.dense, bench.sizes), inputs)

    def measure(ratio: float, rounds: int) -> Reading:
        heads, channels = widths_at(ratio, bench.outline)
        sliced = equal_variant(bench.planned[target], heads, channels, ratio) if ratio else bench.planned[DENSE]
        steps: dict[str, Step] = {name: ModelStep(build(sliced, bench.dense, bench.sizes), inputs), target: fast}
        found = measure_latency(
            steps, warmup=bench.profile.latency.warmup, rounds=rounds, seed=bench.sizes.seed, baseline=target,
            device=bench.device,
        )  # fmt: skip
        steps.clear()
        release(bench.device)
        return Reading.of(found[name], found[target], ratio, (heads, channels))

    try:
        equal = search_equal_latency(
            measure, lambda ratio: widths_at(ratio, bench.outline), largest=largest_ratio(bench.outline), **SEARCH
        )
    except FastFluxError as error:
        return {name: [Measurement.failed(EQUAL_LATENCY, str(error))]}
    bench.store.forget_variant(name)  # of an earlier search, which may have ended with other widths
    sliced = equal_variant(bench.planned[target], equal.heads, equal.mlp_channels, equal.ratio)
    flops, parameters = counts(bench, sliced)
    share = flops.values[f"{pixels}x{pixels}.ratio_to_dense"]
    return {name: [_measurement(bench, equal, target, pixels, share), flops, parameters]}


def _measurement(bench: Workbench, equal: EqualLatency, target: str, pixels: int, share: float) -> Measurement:
    return Measurement(
        EQUAL_LATENCY,
        "ok",
        values={
            "ratio": equal.ratio, "heads": equal.heads, "mlp_channels": equal.mlp_channels,
            "ratio_to_target": equal.latency_ratio, "flops_ratio_to_dense": share,
        },
        intervals={} if equal.interval is None else {"ratio_to_target": equal.interval},
        scored=equal.rounds,
        samples={"ms": list(equal.candidate_ms), "target_ms": list(equal.target_ms)},
        settings={
            **bench.conditions(pixels), **SEARCH, "target": target, "met": equal.met, "grid": GRID,
            "tried": [[reading.ratio, reading.latency_ratio] for reading in equal.tried],
        },
    )  # fmt: skip


pieces = one_each(_search, lambda _: EQUAL_LATENCY, equal_id)


def need(bench: Workbench) -> Need:
    """The dense model, a FastFLUX one, and beside them one that may be sliced by next to nothing."""
    return Need(
        device=latency_need(bench).device + bench.weight_bytes,
        remedy="take a GPU with more, or leave this stage away with --stages",
    )
