"""What stands in a pruned block's place, or in that of its attention or MLP, inside the block's own norms and gates.

Where a half is replaced, what is left is diffusers' own block: only that half is another module. LoRA, ControlNet
residuals and caches of the base model find the other half under the names that they know. Arguments behind the streams
have each family's own names; nothing here reads them (`fastflux.models.architecture.BlockStack`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock
from diffusers.models.transformers.transformer_flux2 import Flux2ParallelSelfAttention, Flux2SingleTransformerBlock
from torch import Tensor, nn

from fastflux.models.architecture import STREAMS
from fastflux.plan import SUBLAYER_KINDS

FLOAT16_MAX = 65504.0


class NoProcessor:
    """What a block without attention has for an attention processor."""


class WithoutAttention(nn.Module):
    """Keeps the block's place among the attention processors.

    Diffusers numbers IP-Adapter's weights and scales by that place: without it those of the later blocks would shift.
    """

    context_pre_only = False
    """SD3 adds ControlNet residuals behind blocks that say so: all that may be pruned give text."""

    def __init__(self) -> None:
        super().__init__()
        self._processor = NoProcessor()

    def get_processor(self) -> NoProcessor:
        """The stand-in; diffusers sets a scale on it, which nothing reads."""
        return self._processor

    def set_processor(self, processor: object) -> None:
        """Let the processor go, weights and all: there is no attention that it could serve."""


class LinearReplacementBlock(WithoutAttention):
    """A block whose residual branch is one linear layer: ``y = x + W x + b`` (paper section 3.1).

    With ``joint`` (FLUX's single blocks) the one layer serves text and image tokens, otherwise (double blocks) each
    stream has its own: ``linear`` for the image, ``linear_context`` for the text. Starts as the identity.
    """

    def __init__(
        self, dim: int, *, joint: bool, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.linear_context = None if joint else nn.Linear(dim, dim, device=device, dtype=dtype)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add the linear residual to both streams, each ``(batch, tokens, dim)``; text stands first in the result."""
        # Two products with one weight cost less than joining the streams and splitting them again.
        context = self.linear if self.linear_context is None else self.linear_context
        encoder_hidden_states = encoder_hidden_states + context(encoder_hidden_states)  # (batch, text tokens, dim)
        hidden_states = hidden_states + self.linear(hidden_states)  # (batch, image tokens, dim)
        if hidden_states.dtype == torch.float16:  # as diffusers' own blocks do
            encoder_hidden_states = encoder_hidden_states.clip(-FLOAT16_MAX, FLOAT16_MAX)
            hidden_states = hidden_states.clip(-FLOAT16_MAX, FLOAT16_MAX)
        return encoder_hidden_states, hidden_states


class RemovedBlock(WithoutAttention):
    """A block of which only the shortcut is left."""

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Return both streams as they came, text first."""
        return encoder_hidden_states, hidden_states


class JoinedLinearReplacementBlock(LinearReplacementBlock):
    """`LinearReplacementBlock` where text and image come as one tensor and leave as one."""

    def forward(self, hidden_states: Tensor, *_args: object, **_kwargs: object) -> Tensor:  # type: ignore[override]
        """Add the linear residual to all tokens, ``(batch, tokens, dim)``."""
        hidden_states = hidden_states + self.linear(hidden_states)
        return hidden_states.clip(-FLOAT16_MAX, FLOAT16_MAX) if hidden_states.dtype == torch.float16 else hidden_states


class JoinedRemovedBlock(RemovedBlock):
    """`RemovedBlock` where text and image come as one tensor and leave as one."""

    def forward(self, hidden_states: Tensor, *_args: object, **_kwargs: object) -> Tensor:  # type: ignore[override]
        """Return the tokens as they came."""
        return hidden_states


LINEAR_BLOCKS = {False: LinearReplacementBlock, True: JoinedLinearReplacementBlock}
REMOVED_BLOCKS = {False: RemovedBlock, True: JoinedRemovedBlock}
"""By whether the stack is joined."""

# Diffusers' caches (FirstBlockCache among them) look blocks up by their exact class.
for _classes in (LINEAR_BLOCKS, REMOVED_BLOCKS):
    for _joined, _block_class in _classes.items():
        _places = (0, None) if _joined else (1, 0)
        TransformerBlockRegistry.register(_block_class, TransformerBlockMetadata(*_places))


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


class ParallelWithoutAttention(WithoutAttention):
    """FLUX.2's attention and MLP in one, without attention: ``linear`` takes [normed tokens | MLP channels]."""

    linear: nn.Linear

    def __init__(self, mlp_proj: nn.Linear, mlp_act_fn: nn.Module) -> None:
        super().__init__()
        self.mlp_proj, self.mlp_act_fn = mlp_proj, mlp_act_fn

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """The residual before its gate."""
        packed = torch.cat([hidden_states, self.mlp_act_fn(self.mlp_proj(hidden_states))], dim=-1)
        residual: Tensor = self.linear(packed)
        return residual


class ParallelWithoutMlp(Flux2ParallelSelfAttention):  # type: ignore[misc]  # untyped in diffusers
    """FLUX.2's attention and MLP in one, without MLP: ``linear`` takes [heads | normed tokens].

    Its processors are the dense one's. Layers have other names than there: a LoRA of those has other rows and columns.
    """

    def to_qkv_mlp_proj(self, hidden_states: Tensor) -> Tensor:
        """Query, key and value, and the normed tokens as they came."""
        return torch.cat([self.qkv(hidden_states), hidden_states], dim=-1)

    def mlp_act_fn(self, hidden_states: Tensor) -> Tensor:
        """Nothing bends them."""
        return hidden_states

    def to_out(self, packed: Tensor) -> Tensor:
        """The residual before its gate."""
        residual: Tensor = self.linear(packed)
        return residual


class ParallelLinear(WithoutAttention):
    """``linear`` takes the normed tokens alone, for FLUX.2's attention and MLP together."""

    linear: nn.Linear

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """The residual before its gate."""
        residual: Tensor = self.linear(hidden_states)
        return residual


_PARALLEL = dict(zip(SUBLAYER_KINDS, (ParallelWithoutAttention, ParallelWithoutMlp, ParallelLinear), strict=True))
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

    if isinstance(block, FluxSingleTransformerBlock | Flux2SingleTransformerBlock):
        replace_ = _replace_in_single_ if isinstance(block, FluxSingleTransformerBlock) else _replace_in_parallel_
        replace_(block, kind, dim, linear)
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
    block.linear = _output_layer(block.proj_out, block.mlp_hidden_dim, kind, dim, linear)
    del block.proj_out
    if kind != "linear_mlp":
        block.attn = PassedOn()
    if kind != "linear_attention":
        del block.proj_mlp, block.act_mlp
    block.__class__ = _SINGLE_BLOCKS[kind]


def _replace_in_parallel_(block: Any, kind: str, dim: int, linear: Callable[[int], nn.Linear]) -> None:
    dense, at = block.attn, 3 * block.attn.inner_dim
    layer = _output_layer(dense.to_out, dense.mlp_hidden_dim, kind, dim, linear)
    if kind == "linear_attention":
        block.attn = ParallelWithoutAttention(_rows(dense.to_qkv_mlp_proj, slice(at, None)), dense.mlp_act_fn)
    elif kind == "linear_mlp":
        dense.qkv = _rows(dense.to_qkv_mlp_proj, slice(at))
        del dense.to_qkv_mlp_proj, dense.mlp_act_fn, dense.to_out
        dense.mlp_hidden_dim, dense.mlp_mult_factor = dim, 1
        dense.__class__ = ParallelWithoutMlp
    else:
        block.attn = ParallelLinear()
    block.attn.linear = layer


def _output_layer(
    dense: nn.Linear, channels: int, kind: str, dim: int, linear: Callable[[int], nn.Linear]
) -> nn.Linear:
    """The columns that are left of a layer over [heads | MLP channels], beside zeros for the normed tokens."""
    with torch.no_grad():
        if kind == "linear_halves":
            layer = linear(dim)
        elif kind == "linear_mlp":
            layer = linear(dense.in_features - channels + dim)
            layer.weight[:, :-dim] = dense.weight[:, :-channels]
        else:
            layer = linear(dim + channels)
            layer.weight[:, dim:] = dense.weight[:, -channels:]
        if dense.bias is not None:
            layer.bias.copy_(dense.bias)
    return layer.requires_grad_(dense.weight.requires_grad)


def _rows(dense: nn.Linear, rows: slice) -> nn.Linear:
    """A layer of some of another's outputs; FLUX.2's have no bias."""
    weight = dense.weight[rows].detach().clone()
    layer = nn.Linear(weight.shape[1], len(weight), bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=dense.weight.requires_grad)
    return layer


def _single(block: Any) -> Any:
    """What of a single block has the one output layer, ``linear``; None of any other block."""
    attention = getattr(block, "attn", None)
    return next((part for part in (block, attention) if isinstance(part, (_SingleBlock, *_PARALLEL.values()))), None)


def sublayer_kind(block: Any) -> str | None:
    """Which of its halves are replaced, as a plan says it; None where there are none."""
    single = _single(block)
    for kind in SUBLAYER_KINDS:
        if type(single) in (_SINGLE_BLOCKS[kind], _PARALLEL[kind]):
            return kind
    attention = isinstance(getattr(block, "attn", None), LinearAttention)
    mlp = any(isinstance(getattr(block, image, None), nn.Linear) for image, _ in MLPS)
    return {(True, False): SUBLAYER_KINDS[0], (False, True): SUBLAYER_KINDS[1], (True, True): SUBLAYER_KINDS[2]}.get(
        (attention, mlp)
    )


def replaced_layers(block: Any) -> list[nn.Linear]:
    """The linear layers that stand in the place of the block or of halves of it."""
    if isinstance(block, LinearReplacementBlock):
        layers = [block.linear, block.linear_context]
    elif (single := _single(block)) is not None:
        layers = [single.linear]
    else:
        halves = HALVES_OF.get(sublayer_kind(block) or "", ())
        layers = [block.attn.linear, block.attn.linear_context] if "attention" in halves else []
        layers += [getattr(block, name) for name in mlps_of(block)] if "mlp" in halves else []
    return [layer for layer in layers if layer is not None]


def add_fits_(block: Any, kind: str, fits: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Add (weight, bias) of the replaced halves' layers, by the names of `fastflux.calibration.block_runs`."""
    single = _single(block)
    for half in HALVES_OF[kind]:
        for stream in STREAMS if single is None else STREAMS[:1]:
            weight, bias = fits[f"{half}.{stream}"]
            context = stream != STREAMS[0]
            if single is not None:
                layer = single.linear
            elif half == "attention":
                layer = block.attn.linear_context if context else block.attn.linear
            else:
                layer = getattr(block, mlps_of(block)[context])
            columns = slice(0, len(bias)) if half == "attention" else slice(-len(bias), None)
            with torch.no_grad():
                layer.weight[:, columns] += weight.to(layer.weight)
                layer.bias += bias.to(layer.bias)
