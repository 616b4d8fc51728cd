"""Linear layers in the place of a block's attention or MLP, inside the block's own norms and gates.

What is left is diffusers' own block: only the replaced half is another module. LoRA, ControlNet residuals and caches of
the base model find the other half under the names that they know.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock
from torch import Tensor, nn

from fastflux.models.architecture import STREAMS
from fastflux.models.blocks import LinearReplacementBlock, WithoutAttention
from fastflux.plan import SUBLAYER_KINDS

HALVES = ("attention", "mlp")
MLPS = (("ff", "ff_context"), ("img_mlp", "txt_mlp"))
"""Names that double blocks have for the MLPs of image and text."""
HALVES_OF = dict(zip(SUBLAYER_KINDS, (HALVES[:1], HALVES[1:], HALVES), strict=True))


class LinearAttention(WithoutAttention):
    """A double block's attention without attending: a linear layer on the normed tokens of each stream."""

    def __init__(self, linear: nn.Linear, linear_context: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.linear_context = linear_context

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        """What is to be gated, of both streams ``(batch, tokens, dim)``."""
        return self.linear(hidden_states), self.linear_context(encoder_hidden_states)


class PassedOn(WithoutAttention):
    """A single block's attention of which the block's output layer takes the normed tokens themselves."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """The normed tokens as they came."""
        return hidden_states


class _SingleBlock(FluxSingleTransformerBlock):  # type: ignore[misc]  # untyped in diffusers
    """A single block with one output layer, ``linear``, over what is left of [attention | MLP channels].

    The layer has another name than the dense block's ``proj_out``: a LoRA of that has other columns.
    """

    def proj_out(self, packed: Tensor) -> Tensor:
        """The residual before its gate."""
        residual: Tensor = self.linear(packed)
        return residual


class LinearAttentionSingleBlock(_SingleBlock):
    """``linear`` takes [normed tokens | MLP channels]."""


class LinearMlpSingleBlock(_SingleBlock):
    """``linear`` takes [heads | normed tokens]."""

    def proj_mlp(self, hidden_states: Tensor) -> Tensor:
        """The normed tokens as they came."""
        return hidden_states

    def act_mlp(self, hidden_states: Tensor) -> Tensor:
        """Nothing bends them."""
        return hidden_states


class LinearHalvesSingleBlock(LinearMlpSingleBlock):
    """``linear`` takes the normed tokens alone, for attention and MLP together."""

    def proj_mlp(self, hidden_states: Tensor) -> Tensor:
        """No channels."""
        return hidden_states[..., :0]


_SINGLE_BLOCKS = dict(
    zip(SUBLAYER_KINDS, (LinearAttentionSingleBlock, LinearMlpSingleBlock, LinearHalvesSingleBlock), strict=True)
)
BLOCK_CLASSES = tuple(_SINGLE_BLOCKS.values())

for _block_class in BLOCK_CLASSES:
    TransformerBlockRegistry.register(
        _block_class, TransformerBlockMetadata(return_hidden_states_index=1, return_encoder_hidden_states_index=0)
    )


def replace_sublayers_(block: Any, kind: str, dim: int) -> None:
    """Put linear layers that give 0 in the places that ``kind`` names; what is left of the block stays as it is."""
    like = next(block.parameters())

    def linear(inputs: int) -> nn.Linear:
        layer = nn.Linear(inputs, dim, device=like.device, dtype=like.dtype)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    if isinstance(block, FluxSingleTransformerBlock):
        _replace_in_single_(block, kind, dim, linear)
        return
    if kind != "linear_mlp":
        block.attn = LinearAttention(linear(dim), linear(dim))
    if kind != "linear_attention":
        for name in mlps_of(block):
            setattr(block, name, linear(dim))


def mlps_of(block: Any) -> tuple[str, str]:
    """The names of a double block's MLPs, of image and text."""
    return next(names for names in MLPS if hasattr(block, names[0]))


def _replace_in_single_(block: Any, kind: str, dim: int, linear: Callable[[int], nn.Linear]) -> None:
    dense = block.proj_out
    heads, channels = dense.weight[:, : -block.mlp_hidden_dim], dense.weight[:, -block.mlp_hidden_dim :]
    del block.proj_out
    if kind != "linear_mlp":
        block.attn = PassedOn()
    if kind != "linear_attention":
        del block.proj_mlp, block.act_mlp
    with torch.no_grad():
        if kind == "linear_halves":
            block.linear = linear(dim)
        elif kind == "linear_mlp":
            block.linear = linear(heads.shape[1] + dim)
            block.linear.weight[:, :-dim] = heads
        else:
            block.linear = linear(dim + channels.shape[1])
            block.linear.weight[:, dim:] = channels
        block.linear.bias.copy_(dense.bias)
    block.linear.requires_grad_(dense.weight.requires_grad)
    block.__class__ = _SINGLE_BLOCKS[kind]


def sublayer_kind(block: Any) -> str | None:
    """Which of its halves are replaced, as a plan says it; None where there are none."""
    for kind, cls in _SINGLE_BLOCKS.items():
        if type(block) is cls:
            return kind
    attention = isinstance(getattr(block, "attn", None), LinearAttention)
    mlp = any(isinstance(getattr(block, image, None), nn.Linear) for image, _ in MLPS)
    return {(True, False): SUBLAYER_KINDS[0], (False, True): SUBLAYER_KINDS[1], (True, True): SUBLAYER_KINDS[2]}.get(
        (attention, mlp)
    )


def replaced_layers(block: Any) -> list[nn.Linear]:
    """The linear layers that stand in the place of the block or of halves of it."""
    if isinstance(block, LinearReplacementBlock | _SingleBlock):
        layers = [block.linear, getattr(block, "linear_context", None)]
    else:
        halves = HALVES_OF.get(sublayer_kind(block) or "", ())
        layers = [block.attn.linear, block.attn.linear_context] if "attention" in halves else []
        layers += [getattr(block, name) for name in mlps_of(block)] if "mlp" in halves else []
    return [layer for layer in layers if layer is not None]


def add_fits_(block: Any, kind: str, fits: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Add (weight, bias) of the replaced halves' layers, by the names of `fastflux.calibration.sublayers`."""
    single = isinstance(block, _SingleBlock)
    for half in HALVES_OF[kind]:
        for stream in STREAMS[:1] if single else STREAMS:
            weight, bias = fits[f"{half}.{stream}"]
            context = stream != STREAMS[0]
            if single:
                layer = block.linear
            elif half == "attention":
                layer = block.attn.linear_context if context else block.attn.linear
            else:
                layer = getattr(block, mlps_of(block)[context])
            columns = slice(0, len(bias)) if half == "attention" else slice(-len(bias), None)
            with torch.no_grad():
                layer.weight[:, columns] += weight.to(layer.weight)
                layer.bias += bias.to(layer.bias)
