"""FLOPs by kind of block, counted on the meta device, against the hand formulas; dense models at two resolutions."""

from itertools import product
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn

from bench.metrics.cost.flops import flops_by_block, has_unmerged_lora, measure_flops_by_block
from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.models.surgery import replace_block_
from fastflux.plan import SUBLAYER_KINDS, BlockRef, Replacement
from fastflux.pruning import prune_
from tests.bench.metrics.flops_by_hand import block_flops, flux_flops, lora_flops, sd3_flops
from tests.bench.metrics.test_flops import FLUX_DEV, SD3_MEDIUM, TINY_SD3, flux, sd3
from tests.fastflux.conftest import TINY, make_tiny_flux

SIZE = 1024
DIM = 3072
SD3_DIM = 1536
TEXT, SD3_TEXT = 512, 333
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


#: Its blocks are all alike: where they are not counted, four of a kind do.
SHORT = {**FLUX_DEV, "num_layers": 4, "num_single_layers": 4}


def flux_dev(config: dict[str, Any] = FLUX_DEV) -> nn.Module:
    with torch.device("meta"):
        return flux(config)


def by_hand(
    kind: Any, size: int = SIZE, dim: int = DIM, text: int = TEXT, heads: float = 1.0, mlp: int | None = None
) -> int:
    """One block; `heads` is the share that is left."""
    tokens = (size // 16) ** 2 + text
    return block_flops(kind, dim=dim, tokens=tokens, attention_dim=round(dim * heads), mlp_dim=mlp or 4 * dim)


@pytest.mark.parametrize(("size", "config"), [(512, SHORT), (1024, FLUX_DEV)])
def test_flux_dev_dense_is_what_the_formulas_say(size: int, config: dict[str, Any]) -> None:
    table = flops_by_block(flux_dev(config), size, size)
    assert table.each == {kind: by_hand(kind, size) for kind in ("double", "single")}
    assert table.counts == {"double": config["num_layers"], "single": config["num_single_layers"]}
    assert table.forward == flux_flops(config, image_tokens=(size // 16) ** 2, text_tokens=TEXT)
    assert 0 < table.rest < 0.01 * table.forward
    assert table.text_tokens == TEXT, "FluxPipeline's own"
    if config is FLUX_DEV:
        assert table.forward / 1e12 == pytest.approx(74.385, abs=5e-4), "as it is known to cost"
    assert by_hand("linear") / by_hand("single") == pytest.approx(1 / 13, rel=0.2)


def test_flux_dev_pruned_is_the_sum_of_its_blocks() -> None:
    model = flux_dev(SHORT)
    dense = flops_by_block(model, SIZE, SIZE)
    for stack, index, kind in (
        ("transformer_blocks", 3, "linear"),
        ("single_transformer_blocks", 1, "linear"),
        ("single_transformer_blocks", 2, "linear"),
        ("single_transformer_blocks", 3, "removed"),
    ):
        replace_block_(model, Replacement(BlockRef(stack, index), kind))  # type: ignore[arg-type]
    table = flops_by_block(model, SIZE, SIZE)
    assert table.each == {kind: by_hand(kind) for kind in ("double", "linear", "single", "removed")}
    assert table.counts == {"double": 3, "linear": 3, "single": 1, "removed": 1}
    assert table.rest == dense.rest
    saved = by_hand("double") + 3 * by_hand("single") - 3 * by_hand("linear")
    assert dense.forward - table.forward == saved


def test_flux_dev_with_linear_layers_inside_its_blocks() -> None:
    model = flux_dev(SHORT)
    stacks = {"double": "transformer_blocks", "single": "single_transformer_blocks"}
    for (_, stack), (index, kind) in product(stacks.items(), enumerate(SUBLAYER_KINDS)):
        replace_block_(model, Replacement(BlockRef(stack, index), kind))
    table = flops_by_block(model, 1024, 1024)
    shape = {"dim": DIM, "tokens": 64 * 64 + TEXT, "attention_dim": DIM, "mlp_dim": 4 * DIM}
    for block, kind in product(stacks, SUBLAYER_KINDS):
        by_formula = block_flops(block, **shape, sublayers=kind)  # type: ignore[arg-type]
        assert table.each[f"{block}_{kind}"] == by_formula < table.each[block]


def test_flux_dev_sliced_by_l1_norm() -> None:
    model = flux_dev(SHORT)
    config = prune_(model, L1NormConfig(0.21)).config
    heads, mlp = int(str(config["heads"])), int(str(config["mlp_channels"]))
    assert heads < 24
    table = flops_by_block(model, SIZE, SIZE)
    assert table.each == {kind: by_hand(kind, heads=heads / 24, mlp=mlp) for kind in ("double", "single")}
    shape = {"image_tokens": (SIZE // 16) ** 2, "text_tokens": TEXT}
    assert table.forward == flux_flops(SHORT, **shape, heads=heads, mlp_dim=mlp)


def test_sd3_medium_dense_and_pruned() -> None:
    model = sd3(SD3_MEDIUM)
    shape = {"image_tokens": (SIZE // 16) ** 2, "text_tokens": SD3_TEXT}
    joint, linear = by_hand("double", SIZE, SD3_DIM, SD3_TEXT), by_hand("linear", SIZE, SD3_DIM, SD3_TEXT)
    dense = flops_by_block(model, SIZE, SIZE)
    assert (dense.each["joint"], dense.forward) == (joint, sd3_flops(SD3_MEDIUM, **shape))
    assert dense.each["joint_last"] < joint, "it ends before the text's half"
    assert dense.counts == {"joint": 23, "joint_last": 1}
    for index in (2, 9):
        replace_block_(model, Replacement(BlockRef("transformer_blocks", index), "linear"))
    pruned = flops_by_block(model, SIZE, SIZE)
    assert pruned.each == {**dense.each, "linear": linear}
    assert pruned.forward == sd3_flops(SD3_MEDIUM, **shape, linear=2)


def test_sd3_medium_sliced_by_l1_norm() -> None:
    short = {**SD3_MEDIUM, "num_layers": 4}
    model = sd3(short)
    config = prune_(model, L1NormConfig(0.12)).config
    heads, mlp = int(str(config["heads"])), int(str(config["mlp_channels"]))
    table = flops_by_block(model, SIZE, SIZE)
    assert table.each["joint"] == by_hand("double", SIZE, SD3_DIM, SD3_TEXT, heads / 24, mlp)
    shape = {"image_tokens": (SIZE // 16) ** 2, "text_tokens": SD3_TEXT}
    assert table.forward == sd3_flops(short, **shape, heads=heads, mlp_dim=mlp)


def test_a_second_attention_is_a_kind_of_its_own() -> None:
    table = flops_by_block(sd3({**TINY_SD3, "dual_attention_layers": (0, 2)}), 64, 64, 5)
    assert table.counts == {"joint_dual": 2, "joint": 1, "joint_last": 1}
    assert table.each["joint_dual"] > table.each["joint"] > table.each["joint_last"]


def test_lora_on_flux_dev_counts_until_it_is_merged() -> None:
    with torch.device("meta"):
        model: Any = flux({**FLUX_DEV, "num_layers": 1, "num_single_layers": 2})  # its blocks are all alike
    dense = flops_by_block(model, SIZE, SIZE)
    rank, image = 16, (SIZE // 16) ** 2
    with torch.device("meta"):
        model.add_adapter(LoraConfig(r=rank, target_modules=ATTENTION))
    unmerged = flops_by_block(model, SIZE, SIZE)
    layer = {"rank": rank, "in_features": DIM, "out_features": DIM}
    # In double blocks the four names are the image's layers; single blocks have no to_out.
    double = 4 * lora_flops(rows=image, **layer)
    single = 3 * lora_flops(rows=image + TEXT, **layer)
    assert unmerged.each == {"double+lora": dense.each["double"] + double, "single+lora": dense.each["single"] + single}
    assert unmerged.forward == dense.forward + double + 2 * single
    model.fuse_lora()
    assert flops_by_block(model, SIZE, SIZE) == dense
    model.unfuse_lora()
    assert flops_by_block(model, SIZE, SIZE) == unmerged
    model.disable_lora()
    assert flops_by_block(model, SIZE, SIZE) == dense


def test_adapters_on_some_blocks_and_of_two_ranks_are_told_apart() -> None:
    model = make_tiny_flux()
    assert not has_unmerged_lora(model)
    names = [f"single_transformer_blocks.{index}.attn.to_q" for index in (0, 1, 2)]
    model.add_adapter(LoraConfig(r=2, rank_pattern={names[2]: 4}, target_modules=names))
    table = flops_by_block(model, 32, 32, 3)
    assert table.counts == {"double": 2, "single+lora": 2, "single+lora_2": 1, "single": 1}
    dim, rows = TINY["num_attention_heads"] * TINY["attention_head_dim"], 4 + 3
    added = lora_flops(rows=rows, rank=2, in_features=dim, out_features=dim)
    single = table.each["single"]
    assert (table.each["single+lora"], table.each["single+lora_2"]) == (single + added, single + 2 * added)


def test_a_measurement_holds_every_size_and_the_ratio_to_dense() -> None:
    model = make_tiny_flux()
    sizes = [(32, 32), (64, 32)]
    dense = {size: flops_by_block(model, *size, 3) for size in sizes}
    replace_block_(model, Replacement(BlockRef("single_transformer_blocks", 1), "linear"))
    found = measure_flops_by_block(model, sizes, text_tokens=3, dense=dense)
    kinds = {"forward", "rest", "double", "single", "linear", "ratio_to_dense"}
    assert found.values.keys() == {f"{size}.{kind}" for size in ("32x32", "64x32") for kind in kinds}
    assert found.values["64x32.forward"] > found.values["32x32.forward"]
    assert found.values["32x32.ratio_to_dense"] < 1
    assert found.settings == {"blocks": {"double": 2, "single": 3, "linear": 1}, "text_tokens": 3, "batch": 1}
    assert "32x32.ratio_to_dense" not in measure_flops_by_block(model, sizes, text_tokens=3).values


def test_sizes_that_cannot_be_counted_are_refused() -> None:
    model = make_tiny_flux()
    with pytest.raises(FastFluxError, match="no sizes"):
        measure_flops_by_block(model, [])
    with pytest.raises(FastFluxError, match="multiple of 16"):
        flops_by_block(model, 40, 32, 3)
    with pytest.raises(FastFluxError, match="text_tokens is 0"):
        flops_by_block(model, 32, 32, 0)
    with pytest.raises(FastFluxError, match="supported transformers"):
        flops_by_block(nn.Linear(2, 2), 32, 32, 3)
