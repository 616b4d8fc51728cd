"""Linear layers in the place of a block's attention or MLP: what they compute, and what diffusers can do with them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from fastflux.calibration.sublayers import BlockStatistics, SublayerObserver
from fastflux.io.checkpoint import load_transformer, save_transformer
from fastflux.models.architecture import STREAMS, architecture_of, example_inputs
from fastflux.models.pruned import attach_plan_
from fastflux.models.sublayers import HALVES, HALVES_OF, add_fits_, mlps_of, sublayer_kind
from fastflux.models.surgery import get_block, replace_block_
from fastflux.plan import SUBLAYER_KINDS, BlockRef, PruningPlan, Replacement
from tests.fastflux import families
from tests.fastflux.conftest import Make, run, tiny_inputs

KINDS = ("linear_attention", "linear_mlp", "linear_attention", "linear_mlp", "linear_halves")


def make_halved(make: Make, kinds: tuple[str, ...] = KINDS) -> Any:
    """A tiny model whose first blocks have random linear layers in the halves that ``kinds`` name."""
    transformer = make()
    replacements = tuple(
        Replacement(block, kind)
        for block, kind in zip(architecture_of(transformer).blocks(transformer), kinds, strict=False)
    )
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    for item in replacements:
        block = replace_block_(transformer, item)
        add_fits_(block, item.kind, {f"{h}.{s}": (draw(16, 16), draw(16)) for h in HALVES for s in STREAMS})
    attach_plan_(transformer, PruningPlan("tiny", "r1", "linear_replacement", {"blocks": 5}, replacements))
    return transformer


def make_linear_(block: Any, *, attention: bool, mlp: bool) -> None:
    """Let halves of a dense block be linear layers."""
    attn, single = block.attn, not hasattr(block, "norm1_context") and not hasattr(block, "txt_mlp")
    if mlp and not single:
        for part in mlps_of(block):
            layers = getattr(block, part)
            if hasattr(layers, "linear_in"):
                layers.linear_in, layers.act_fn = (
                    torch.nn.Linear(16, layers.linear_out.in_features),
                    torch.nn.Identity(),
                )
            else:
                layers.net[0] = torch.nn.Linear(16, 64)
    elif mlp and hasattr(attn, "mlp_act_fn"):
        attn.mlp_act_fn = Half()
    elif mlp:
        block.act_mlp = torch.nn.Identity()
    if attention and not single:
        attn.forward = lambda hidden_states, encoder_hidden_states, **_: (
            attn.to_out[0](hidden_states),
            attn.to_add_out(encoder_hidden_states),
        )
    elif attention and hasattr(attn, "mlp_act_fn"):

        def forward(hidden_states: Tensor, **_: Any) -> Any:
            value, mlp = attn.to_qkv_mlp_proj(hidden_states)[..., 32:].tensor_split([16], dim=-1)
            return attn.to_out(torch.cat([value, attn.mlp_act_fn(mlp)], dim=-1))

        attn.forward = forward
    elif attention:
        attn.forward = lambda hidden_states, **_: attn.to_v(hidden_states)


class Half(torch.nn.Module):
    """In SwiGLU's place: its second half as it comes."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states.chunk(2, dim=-1)[1]


@pytest.mark.parametrize(
    ("name", "stack"),
    [
        ("FLUX.1-dev", "transformer_blocks"),
        ("FLUX.1-dev", "single_transformer_blocks"),
        ("FLUX.2-klein", "transformer_blocks"),
        ("FLUX.2-klein", "single_transformer_blocks"),
        ("Qwen-Image", "transformer_blocks"),
    ],
)
@pytest.mark.parametrize("kind", SUBLAYER_KINDS)
def test_a_half_that_is_linear_is_replaced_exactly(name: str, stack: str, kind: str) -> None:
    """Halves that are linear layers already are found by least squares, and nothing changes."""
    transformer = families.make(name)
    block: Any = get_block(transformer, BlockRef(stack, 0))
    attention, mlp = ("attention" in HALVES_OF[kind]), ("mlp" in HALVES_OF[kind])
    with torch.no_grad():
        make_linear_(block, attention=attention, mlp=mlp)
    expected = run(transformer)
    observer, statistics = SublayerObserver(block), BlockStatistics()
    for seed in range(8):
        run(transformer, tiny_inputs(transformer, seed, batch=8))
        seen = observer.take()
        statistics.add(seen, seen)
    observer.close()
    if attention:
        del block.attn.forward
    assert not attention or not torch.allclose(run(transformer), expected)
    new = replace_block_(transformer, Replacement(BlockRef(stack, 0), kind))
    assert not torch.allclose(run(transformer), expected)
    add_fits_(new, kind, statistics.layers(1e-12))
    torch.testing.assert_close(run(transformer), expected, rtol=1e-4, atol=1e-5)
    assert sublayer_kind(new) == kind


def test_it_saves_and_loads_with_its_plan(make: Make, folder: Path) -> None:
    halved = make_halved(make)
    save_transformer(halved, folder)
    again: Any = load_transformer(folder)
    assert torch.equal(run(again), run(halved))
    found = [sublayer_kind(get_block(again, block)) for block in architecture_of(again).chain(again)]
    assert found[:5] == list(KINDS)
    assert found[5:] == [None] * (len(found) - 5)


@pytest.mark.slow
def test_it_compiles_without_a_graph_break(make: Make) -> None:
    halved = make_halved(make)
    expected = run(halved)
    torch._dynamo.reset()
    halved.compile(fullgraph=True, backend="eager")
    torch.testing.assert_close(run(halved), expected)
    torch._dynamo.reset()


def test_it_runs_at_other_sizes_with_controlnet_and_a_gradient(make: Make) -> None:
    halved = make_halved(make)
    inputs = example_inputs(halved, 1, 64, 32, 7, torch.Generator().manual_seed(0))
    plain = run(halved, inputs)
    assert plain.shape[0] == 1
    if isinstance(halved, FluxTransformer2DModel):
        residuals = [torch.ones(1, 1, 1)]
        names = ("controlnet_block_samples", "controlnet_single_block_samples")
        assert not torch.equal(run(halved, {**inputs, **dict.fromkeys(names, residuals)}), plain)
    halved.enable_gradient_checkpointing()
    halved(**inputs, return_dict=False)[0].square().sum().backward()
    grown = [name for name, parameter in halved.named_parameters() if "linear" in name and parameter.grad is None]
    assert grown == []
