"""All stages of the full-size measurement, in the order in which they run."""

from bench.studies.full_size import (
    calibrating,
    counting,
    equal,
    latency,
    pruning,
    replacement,
    scorers,
)
from bench.studies.full_size.sizes import Sizes
from bench.studies.full_size.workbench import EQUAL_STAGE, Stage, nothing

COUNTED = "flops"
"""The stage that needs no device."""


def stages_of(sizes: Sizes) -> dict[str, Stage]:
    """All stages in the order in which they run."""
    weights = latency.latency_need
    eager = [
        Stage(
            f"latency-{pixels}",
            f"eager steps at {pixels}x{pixels}, and their memory",
            latency.variant_units,
            latency.eager_pieces(lambda _bench, pixels=pixels: pixels),  # type: ignore[misc]
            weights,
        )
        for pixels in sizes.resolutions
    ]
    every = [
        Stage(COUNTED, "FLOPs and parameters, exact, on no device", counting.units, counting.pieces, nothing),
        Stage(
            "replacement", "a replaced block in several ways", replacement.units, replacement.pieces, replacement.need
        ),
        # Before the stages that time what it finds.
        Stage(EQUAL_STAGE, "L1-norm ratios of equal latency", equal.units, equal.pieces, equal.need),
        *eager,
        Stage(
            "compiled",
            "steps with every block compiled",
            latency.sized_units,
            latency.way_pieces(latency.COMPILED),
            weights,
        ),
        Stage(
            "cuda-graphs",
            "steps as one CUDA graph, eager and compiled",
            latency.graph_units,
            latency.way_pieces(latency.GRAPHS, latency.COMPILED_GRAPHS),
            weights,
        ),
        Stage(
            "step-profile", "where the time of a step goes, by block and operation", latency.profiled_units,
            latency.profiled_pieces,
            weights,
        ),
        Stage(
            "end-to-end", "whole pipeline calls and their memory", latency.call_units, latency.call_pieces,
            latency.call_need,
        ),
        Stage(
            calibrating.STAGE,
            "statistics of all blocks in one pass, beside plain forwards",
            calibrating.units,
            calibrating.pieces,
            calibrating.need,
        ),
        Stage(
            pruning.STAGE, "20 % with Sandwich Training", pruning.units, pruning.pieces, pruning.need,
        ),
        Stage("scorers", "images a second of every scorer", scorers.units, scorers.pieces, scorers.need),
    ]  # fmt: skip
    return {stage.name: stage for stage in every}
