"""L1-norm pruning: the paper's ratios at full size, and which heads and channels stay."""

from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm import L1NormConfig, choose_widths
from fastflux.models.architecture import example_inputs
from fastflux.models.pruned import parameter_count
from fastflux.plan import PruningPlan
from fastflux.pruning import apply_plan_, prune_
from tests.fastflux.conftest import make_tiny_flux, run

DENSE_PARAMETERS = 11_901_408_320


def flux_dev(**fewer: int) -> Any:
    """FLUX.1-dev at full size without storage."""
    with torch.device("meta"):
        return FluxTransformer2DModel(guidance_embeds=True, **fewer)


def test_flux_dev_at_the_papers_ratios() -> None:
    transformer = flux_dev()
    assert parameter_count(transformer) == DENSE_PARAMETERS
    for ratio, k in ((0.12, 4), (0.21, 7), (0.27, 9)):
        assert choose_widths(transformer, ratio) == (24 - k, 12288 * (24 - k) // 24)
    plan = prune_(transformer, L1NormConfig(0.21))
    assert plan.config.items() >= {"ratio": 0.21, "steps": 0, "heads": 17, "mlp_channels": 8704}.items()
    assert 100 * (1 - parameter_count(transformer) / DENSE_PARAMETERS) == pytest.approx(21.10, abs=0.005)


def test_a_sliced_flux_dev_runs() -> None:
    transformer = flux_dev(num_layers=2, num_single_layers=2)
    prune_(transformer, L1NormConfig(0.21))
    inputs = example_inputs(transformer, 1, 512, 512, 512, device="meta")
    assert transformer(**inputs).sample.shape == (1, 1024, 64)


@pytest.mark.parametrize("ratio", [0.0, 0.12, 0.21, 0.27, 0.5])
def test_four_heads_come_close_through_the_mlp(ratio: float) -> None:
    transformer = make_tiny_flux(num_attention_heads=4, attention_head_dim=16, axes_dims_rope=(4, 6, 6))
    before = parameter_count(transformer)
    plan = prune_(transformer, L1NormConfig(ratio))
    assert 1 - parameter_count(transformer) / before == pytest.approx(ratio, abs=0.002)
    if ratio == 0.0:
        assert plan.config["heads"] == 4
        assert plan.config["mlp_channels"] == 256


def silence_(tensor: Tensor, *index: Any) -> None:
    with torch.no_grad():
        tensor[index] = 0.0


def test_silent_heads_and_channels_go_first_and_cost_nothing() -> None:
    """Planted: head 0 and the first half of the MLP channels are zero in every block."""
    transformer = make_tiny_flux()
    half = slice(0, 32)
    for block in [*transformer.transformer_blocks, *transformer.single_transformer_blocks]:
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
            if hasattr(block.attn, name):
                silence_(getattr(block.attn, name).weight, slice(0, 8))
                silence_(getattr(block.attn, name).bias, slice(0, 8))
        single = hasattr(block, "proj_mlp")
        mlps = [block.proj_mlp] if single else [block.ff.net[0].proj, block.ff_context.net[0].proj]
        outputs = [block.proj_out] if single else [block.ff.net[2], block.ff_context.net[2]]
        for first, second in zip(mlps, outputs, strict=True):
            silence_(first.weight, half)
            silence_(first.bias, half)
            silence_(second.weight, slice(None), slice(16, 48) if single else half)
    expected = run(transformer)
    heads, channels = 1, 32
    share = 1 - _parameters_with(heads, channels) / parameter_count(transformer)
    plan = prune_(transformer, L1NormConfig(share))
    assert plan.config["heads"] == heads
    assert plan.config["mlp_channels"] == channels
    torch.testing.assert_close(run(transformer), expected, rtol=1e-5, atol=1e-6)


def _parameters_with(heads: int, channels: int) -> int:
    skeleton = make_tiny_flux()
    apply_plan_(skeleton, PruningPlan("", "", "l1_norm", {"heads": heads, "mlp_channels": channels}))
    return parameter_count(skeleton)


def test_sliced_blocks_know_their_widths(transformer: Any) -> None:
    apply_plan_(transformer, PruningPlan("", "", "l1_norm", {"heads": 1, "mlp_channels": 40}))
    single = transformer.single_transformer_blocks[0]
    assert single.attn.heads == 1
    assert single.attn.inner_dim == 8
    assert single.mlp_hidden_dim == 40
    assert single.proj_out.in_features == 48
    assert single.proj_out._tp_packed_row_blocks == [8, 40]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"heads": 3, "mlp_channels": 8}, "belongs to another model"),
        ({"heads": 1, "mlp_channels": 65}, "belongs to another model"),
        ({"heads": 1}, "holds the kept heads and mlp_channels"),
    ],
)
def test_plans_that_do_not_fit(transformer: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises(FastFluxError, match=message):
        apply_plan_(transformer, PruningPlan("", "", "l1_norm", config))
