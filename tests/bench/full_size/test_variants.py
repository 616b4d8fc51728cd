"""Random weights and views of one dense model: the sizes of FLUX.1-dev, shared memory, shapes of pruned models."""

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from bench.profiles.profile import load_profile
from bench.run.units import Budget, Store
from bench.studies.full_size import calibrating, counting, equal, latency, pruning
from bench.studies.full_size.random_weights import (
    Sizes,
    random_text_encoders,
    random_transformer,
    random_vae,
    sizes_of,
    skeleton,
)
from bench.studies.full_size.variants import (
    HALVES,
    FullSizeVariant,
    build,
    full_size_variants,
    groups,
    kept_widths,
    own_bytes,
    plan_for,
    spread,
    view_of,
)
from bench.studies.full_size.workbench import Workbench
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.models.architecture import example_inputs
from fastflux.models.flux import FLUX
from fastflux.models.pruned import parameter_count
from fastflux.models.sublayers import LinearReplacementBlock, RemovedBlock, replaced_layers
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef
from fastflux.pruning import prune_
from tests.bench.metrics.flops_by_hand import flux_flops

SMALL = Sizes(
    heads=24, head_dim=4, axes=(0, 2, 2), double_blocks=2, single_blocks=8, in_channels=16, t5_width=16, t5_heads=2,
    t5_head_dim=8, clip_width=16, clip_heads=2, text_tokens=8, resolutions=(32,),
)  # fmt: skip
DEEP = Sizes(
    heads=2, head_dim=16, axes=(4, 6, 6), in_channels=16, t5_width=16, clip_width=16, text_tokens=8
)  # 19 + 38 blocks


@pytest.fixture(scope="module")
def dense() -> torch.nn.Module:
    return random_transformer(SMALL, "cpu", torch.float32)


def run(transformer: torch.nn.Module) -> Tensor:
    inputs = example_inputs(
        transformer, 1, 32, 32, 8, torch.Generator().manual_seed(0), dtype=next(transformer.parameters()).dtype
    )
    with torch.no_grad():
        found: Tensor = transformer(**inputs, return_dict=False)[0]
    return found


def test_the_defaults_are_flux_1_devs() -> None:
    sizes = sizes_of(load_profile("flux-dev-random"))
    assert sizes == Sizes()
    assert parameter_count(skeleton(sizes)) == 11_901_408_320
    assert [parameter_count(model) for model in random_text_encoders(sizes, "meta", torch.bfloat16)] == [
        123_060_480, 4_762_310_656,
    ]  # fmt: skip
    assert parameter_count(random_vae(sizes, "meta", torch.bfloat16)) == 83_819_683


def test_all_57_blocks_stay_finite_in_bfloat16_and_do_something() -> None:
    transformer = random_transformer(DEEP, "cpu", torch.bfloat16)
    out = run(transformer)
    assert out.dtype == torch.bfloat16
    assert torch.isfinite(out).all()
    assert 0.01 < float(out.float().std()) < 100
    removed = view_of(transformer)
    removed.single_transformer_blocks[20] = RemovedBlock()
    assert not torch.equal(run(removed), out)


def test_the_seed_decides_the_weights_whatever_is_made_before() -> None:
    def weight(sizes: Sizes) -> Tensor:
        return random_transformer(sizes, "cpu", torch.bfloat16).transformer_blocks[1].attn.to_q.weight

    first = weight(DEEP)
    torch.rand(3)
    assert torch.equal(weight(DEEP), first)
    assert not torch.equal(weight(replace(DEEP, seed=1)), first)
    assert float(first.float().std()) == pytest.approx(0.5 / 32**0.5, rel=0.1)


@pytest.mark.parametrize("variant", full_size_variants(SMALL), ids=lambda variant: variant.id)
def test_a_variant_shares_the_dense_weights_and_leaves_them_alone(
    dense: torch.nn.Module, variant: FullSizeVariant
) -> None:
    before = run(dense)
    storages = {parameter.data_ptr() for parameter in dense.parameters()}
    twin = build(variant, dense, SMALL)
    own = [parameter for parameter in twin.parameters() if parameter.data_ptr() not in storages]
    assert sum(parameter.nbytes for parameter in own) == own_bytes(variant, skeleton(SMALL), SMALL, torch.float32)
    assert torch.isfinite(run(twin)).all()
    assert torch.equal(run(dense), before)
    assert all(type(block).__name__.startswith("Flux") for block in dense.single_transformer_blocks)


def test_parameters_are_those_of_models_that_were_really_pruned(dense: torch.nn.Module) -> None:
    for variant in full_size_variants(SMALL):
        plan = plan_for(variant, SMALL)
        if plan is None or variant.folded or variant.adapters or variant.kind != "linear":
            continue
        real = copy.deepcopy(dense)
        if variant.sliced:
            share = 1 - parameter_count(build(variant, dense, SMALL)) / parameter_count(dense)
            found = prune_(real, L1NormConfig(share))
            assert (found.config["heads"], found.config["mlp_channels"]) == (
                plan.config["heads"], plan.config["mlp_channels"],
            )  # fmt: skip
        else:
            first = [item.block for item in plan.replacements]
            order = ",".join(str(block) for block in (*first, *sorted(set(FLUX.chain(real)) - set(first))))
            prune_(real, _linear(order, len(plan.replacements)), lambda real=real: _once(real))  # type: ignore[misc]
        assert parameter_count(build(variant, dense, SMALL)) == parameter_count(real), variant.id


@pytest.mark.parametrize("family", HALVES)
def test_a_variant_of_halves_keeps_the_other_half_of_each_block(dense: torch.nn.Module, family: str) -> None:
    variant = next(found for found in full_size_variants(SMALL) if found.id.startswith(family))
    w, square = SMALL.width, SMALL.width**2
    gone = {  # by hand: projections with their biases, norms of queries and keys; less the layers put in their place
        ("attention", True): 8 * (square + w) + 4 * SMALL.head_dim - 2 * (square + w),
        ("attention", False): 3 * (square + w) + 2 * SMALL.head_dim,
        ("mlp", True): 2 * (8 * square + 5 * w - (square + w)),
        ("mlp", False): 4 * square + 4 * w + 3 * square,
    }
    taken = sum(gone[family, block.stack == "transformer_blocks"] for block in variant.replaced)
    assert {block.stack for block in variant.replaced} == {"transformer_blocks", "single_transformer_blocks"}
    twin = build(variant, dense, SMALL)
    assert parameter_count(dense) - parameter_count(twin) == taken
    layers = [layer for block in variant.replaced for layer in replaced_layers(get_block(twin, block))]
    assert all(layer.weight.std() > 0 for layer in layers), "zeros would be multiplied at less power"


def _once(transformer: torch.nn.Module) -> None:
    run(transformer)


def _linear(order: str, blocks: int) -> object:
    from fastflux.methods.linear_replacement import LinearReplacementConfig

    return LinearReplacementConfig(blocks=blocks, ranking=order, ridge=1e-2)


def test_blocks_are_spread_evenly_and_doubles_have_their_share() -> None:
    variants = {variant.id: variant for variant in full_size_variants(Sizes())}
    singles, mixed = variants["fastflux-20"].replaced, variants["mix-20"].replaced
    assert len(singles) == len(mixed) == 11
    assert [block.index for block in singles] == [1, 5, 8, 12, 15, 19, 22, 25, 29, 32, 36]
    assert sum(block.stack == "transformer_blocks" for block in mixed) == 4
    with_neighbours = {(a, b) for a, b in pairwise(singles) if b.index == a.index + 1}
    assert not with_neighbours, "nothing to fold among them"
    assert spread([BlockRef("x", i) for i in range(4)], 4) == tuple(BlockRef("x", i) for i in range(4))


def test_the_run_of_neighbours_folds_into_one_and_its_lora_is_extra(dense: torch.nn.Module) -> None:
    variants = {variant.id: variant for variant in full_size_variants(SMALL)}
    folded = build(variants["run_folded-20"], dense, SMALL)
    kinds = [type(get_block(folded, block)) for block in FLUX.chain(folded)]
    assert (kinds.count(LinearReplacementBlock), kinds.count(RemovedBlock)) == (1, 1)
    lora = build(variants["run_lora-20"], dense, SMALL)
    names = {name.split(".")[1] for name, _ in lora.named_parameters() if "lora_A" in name}
    assert names == {"4", "7"}, "the blocks on either side of 5 and 6"


def test_models_are_grouped_by_what_fits() -> None:
    variants = [FullSizeVariant(name, name) for name in "abcd"]

    def bytes_of(variant: FullSizeVariant) -> int:
        return {"a": 1, "b": 4, "c": 4, "d": 99}[variant.id]

    assert [[item.id for item in group] for group in groups(variants, bytes_of, 8)] == [["a", "b"], ["c"], ["d"]]
    assert [[item.id for item in group] for group in groups(variants, bytes_of, 999)] == [["a", "b", "c", "d"]]


@pytest.mark.parametrize("name", ["fastflux-20", "mix-20", "run_folded-20", "l1-4of24"])
def test_what_is_counted_is_what_the_formula_gives(tmp_path: Path, name: str) -> None:
    bench = Workbench(load_profile("flux-dev-random"), SMALL, "cpu", torch.float32, Store(tmp_path), Budget(None))
    variant = bench.planned[name]
    doubles = sum(block.stack == "transformer_blocks" for block in variant.replaced)
    removed = len(variant.replaced) - doubles - 1 if variant.folded else 0  # a run of neighbours becomes one
    layers = {"linear": len(variant.replaced) - doubles - removed, "linear_doubles": doubles, "removed": removed}
    heads, mlp_dim = kept_widths(variant, SMALL) or (None, None)
    (piece,) = counting.pieces(bench, [name])
    counted = piece.make()[name][0].values
    for pixels in SMALL.resolutions:
        tokens = {"image_tokens": (pixels // 16) ** 2, "text_tokens": SMALL.text_tokens}
        expected = flux_flops(SMALL.transformer_config, **tokens, **layers, heads=heads, mlp_dim=mlp_dim)
        assert counted[f"{pixels}x{pixels}.forward"] == expected


def test_needs_count_all_that_a_stage_holds_at_once(tmp_path: Path) -> None:
    profile = load_profile("flux-dev-random")

    def bench(device: str, *, offload: bool) -> Workbench:
        return Workbench(profile, Sizes(), device, torch.bfloat16, Store(tmp_path), Budget(None), offload)

    gpu, offloaded, cpu = bench("cuda", offload=False), bench("cuda", offload=True), bench("cpu", offload=False)
    statistics = calibrating.statistics_bytes(gpu)
    assert calibrating.need(gpu).host == gpu.recorded_bytes + statistics, "they are copied there to be written"
    assert calibrating.need(cpu).host == cpu.recorded_bytes, "on the CPU they are there already"
    sliced = gpu.own_bytes(gpu.planned["l1-4of24"])
    assert equal.need(gpu).device >= gpu.weight_bytes + sliced > latency.latency_need(gpu).device
    # Offloaded, the ranking of all blocks takes more than the pruning: 76 matrices of fits in float64.
    assert pruning.need(offloaded).device >= statistics + 76 * 8 * 3072**2
    assert pruning.need(gpu).device > gpu.weight_bytes
