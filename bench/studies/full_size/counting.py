"""Stage of FLOPs and parameters at full size: exact, counted on the meta device, on any machine."""

from collections.abc import Iterator, Sequence

from bench.metrics.cost.flops import flux_flops, measure_parameters
from bench.metrics.cost.flops_by_block import FLOPS_BY_BLOCK, measure_flops_by_block
from bench.records.results import Measurement
from bench.records.variant_id import DENSE
from bench.run.units import Results, Unit
from bench.studies.full_size.variants import FullSizeVariant, build, kept_widths
from bench.studies.full_size.workbench import Need, Workbench, piece
from fastflux.errors import FastFluxError
from fastflux.models.pruned import parameter_count

TOKEN_PIXELS = 16


def units(bench: Workbench) -> list[str]:
    """Every variant but those that are found by measuring, whose search counts them."""
    return list(bench.planned)


def pieces(bench: Workbench, left: Sequence[str]) -> Iterator[Unit]:
    """One for each variant."""
    for name in left:
        yield piece((name,), (name,), FLOPS_BY_BLOCK, lambda name=name: _count(bench, name))  # type: ignore[misc]


def _count(bench: Workbench, name: str) -> Results:
    return {name: counts(bench, bench.planned[name])}


def counts(bench: Workbench, variant: FullSizeVariant) -> list[Measurement]:
    """FLOPs by kind of block at every resolution, and parameters.

    Raises:
        FastFluxError: torch's counter and the formula by hand disagree.
    """
    dense = bench.dense_flops
    model = build(variant, bench.outline, bench.sizes)
    flops = measure_flops_by_block(model, list(dense), text_tokens=bench.sizes.text_tokens, dense=dense)
    for height, width in dense:
        require_agreement(bench, variant, height, flops.values[f"{height}x{width}.forward"])
    total = None if variant.id == DENSE else float(parameter_count(bench.outline))
    return [flops, measure_parameters(model, dense_total=total)]


def require_agreement(bench: Workbench, variant: FullSizeVariant, pixels: int, counted: float) -> None:
    """Raise FastFluxError unless the counter agrees with the formula, where that knows the variant."""
    doubles = sum(block.stack == "transformer_blocks" for block in variant.replaced)
    if variant.adapters or variant.kind != "linear":
        return
    singles = len(variant.replaced) - doubles
    removed = singles - 1 if variant.folded else 0  # a run of neighbours becomes one
    widths = kept_widths(variant, bench.sizes)
    kept = {} if widths is None else {"heads": widths[0], "mlp_dim": widths[1]}
    expected = flux_flops(
        bench.sizes.transformer_config,
        image_tokens=(pixels // TOKEN_PIXELS) ** 2,
        text_tokens=bench.sizes.text_tokens,
        linear=singles - removed,
        linear_doubles=doubles,
        removed=removed,
        **kept,
    )
    if counted != expected:
        raise FastFluxError(
            f"{variant.id} at {pixels}x{pixels} has {counted:.0f} FLOPs by torch's counter and {expected} by hand: "
            "one of the two is wrong; report it with the versions of torch and diffusers."
        )


def need(_bench: Workbench) -> Need:
    """Nothing."""
    return Need()
