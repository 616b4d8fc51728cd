"""Stage of FLOPs and parameters at full size: exact, counted on the meta device, on any machine."""

from bench.metrics.cost.flops import FLOPS_BY_BLOCK, measure_flops_by_block, measure_parameters
from bench.records.results import Measurement
from bench.records.variant_id import DENSE
from bench.studies.full_size.variants import FullSizeVariant, build
from bench.studies.full_size.workbench import Workbench, one_each
from fastflux.models.pruned import parameter_count


def units(bench: Workbench) -> list[str]:
    """Every variant but those that are found by measuring, whose search counts them."""
    return list(bench.planned)


def counts(bench: Workbench, variant: FullSizeVariant) -> list[Measurement]:
    """FLOPs by kind of block at every resolution, and parameters."""
    dense = bench.dense_flops
    model = build(variant, bench.outline, bench.sizes)
    flops = measure_flops_by_block(model, list(dense), text_tokens=bench.sizes.text_tokens, dense=dense)
    total = None if variant.id == DENSE else float(parameter_count(bench.outline))
    return [flops, measure_parameters(model, dense_total=total)]


pieces = one_each(lambda bench, name: {name: counts(bench, bench.planned[name])}, lambda _: FLOPS_BY_BLOCK)
