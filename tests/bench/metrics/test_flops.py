"""FLOPs on the meta device against the hand formulas and against known figures of FLUX.1-dev and SD3-medium."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from torch import Tensor, nn

from bench.metrics.cost.flops import count_flops, measure_flops, measure_parameters
from fastflux.errors import FastFluxError
from fastflux.models.architecture import example_inputs
from tests.bench.metrics.flops_by_hand import sd3_flops
from tests.fastflux.conftest import make_tiny_flux

FLUX_DEV: dict[str, Any] = {
    "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
    "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True, "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
SD3_MEDIUM: dict[str, Any] = {
    "sample_size": 128, "in_channels": 16, "out_channels": 16, "num_layers": 24, "attention_head_dim": 64,
    "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "pos_embed_max_size": 192, "patch_size": 2,
}  # fmt: skip
TINY_SD3: dict[str, Any] = SD3_MEDIUM | {
    "sample_size": 16, "in_channels": 8, "out_channels": 8, "num_layers": 4, "attention_head_dim": 16,
    "num_attention_heads": 4, "joint_attention_dim": 24, "caption_projection_dim": 64, "pooled_projection_dim": 20,
    "pos_embed_max_size": 16,
}  # fmt: skip


def sd3(config: dict[str, Any]) -> nn.Module:
    """On the meta device."""
    model: Any = SD3Transformer2DModel
    with torch.device("meta"):
        built: nn.Module = model(**config)
    return built


def inputs(model: nn.Module, size: int, text_tokens: int) -> dict[str, Tensor]:
    return example_inputs(model, 1, size, size, text_tokens, device="meta")


def flux(config: dict[str, Any]) -> nn.Module:
    model: Any = FluxTransformer2DModel
    built: nn.Module = model(**config)
    return built


@pytest.fixture
def tiny() -> nn.Module:
    model: nn.Module = make_tiny_flux()
    return model


@pytest.mark.parametrize("config", [TINY_SD3, {**TINY_SD3, "dual_attention_layers": (0, 2)}])
@pytest.mark.parametrize(("size", "text_tokens"), [(64, 5), (128, 333)])
def test_the_counter_and_the_formula_agree_on_sd3(config: dict[str, Any], size: int, text_tokens: int) -> None:
    model = sd3(config)
    by_hand = sd3_flops(config, image_tokens=(size // 16) ** 2, text_tokens=text_tokens)
    assert count_flops(model, inputs(model, size, text_tokens)) == pytest.approx(by_hand, rel=1e-3)


def test_counting_leaves_the_module_as_it_was(tiny: nn.Module) -> None:
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    pointers = [parameter.data_ptr() for parameter in tiny.parameters()]
    count_flops(tiny, inputs(tiny, 64, 12))
    assert [parameter.data_ptr() for parameter in tiny.parameters()] == pointers
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in tiny.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())


def test_measurements_hold_ratios_only_when_the_dense_figure_is_given(tiny: nn.Module, tmp_path: Path) -> None:
    found = measure_flops(tiny, inputs(tiny, 64, 12))
    assert found.values.keys() == {"forward"}
    forward = found.values["forward"]
    assert measure_flops(tiny, inputs(tiny, 64, 12), dense_forward=2 * forward).values["ratio_to_dense"] == 0.5
    total = sum(parameter.numel() for parameter in tiny.parameters())
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    parameters = measure_parameters(tiny, dense_total=2.0 * total, checkpoint=tmp_path)
    assert parameters.values == {"total": float(total), "ratio_to_dense": 0.5}
    assert parameters.settings == {"checkpoint_bytes": 5}
    with pytest.raises(FastFluxError, match="holds no"):
        measure_parameters(tiny, checkpoint=tmp_path / "absent")


def test_nothing_counted_is_an_error_not_a_zero() -> None:
    class Nothing(nn.Module):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return hidden_states

    with pytest.raises(FastFluxError, match="No FLOPs were counted in Nothing"):
        count_flops(Nothing(), {"hidden_states": torch.zeros(1)})
