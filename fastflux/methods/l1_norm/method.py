"""L1-norm structured pruning of attention heads and MLP channels, the paper's FLUX-Pruning baseline.

Hidden size, modulation, embedders, head width and rotary embedding stay; every block keeps the same number of heads and
of MLP channels, those with the largest L1 norm. The two streams of a double block share their heads. SD3's last
block, whose text half ends before the attention's output, is sliced like the others.
"""

from dataclasses import dataclass
from time import monotonic
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastflux.block_counts import require_fraction
from fastflux.calibration.recording import RecordedInputs
from fastflux.calibration.statistics import Calibration
from fastflux.cost import PruningCost
from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm.finetuning import FinetuningSettings, finetune_, outputs_of
from fastflux.methods.registry import Pruned, register_pruning_method
from fastflux.models.architecture import architecture_of
from fastflux.models.memory import PeakMemory
from fastflux.models.surgery import get_block, slice_linear_
from fastflux.plan import BlockRef, PruningPlan

MLP_STEPS = 192
"""MLP channels go in 192nds: 64 of FLUX.1-dev's 12288, since GPU kernels want such multiples."""


@dataclass(frozen=True)
class L1NormConfig:
    """Remove about the fraction ``ratio`` of all parameters, as near as whole heads and MLP steps allow.

    With ``steps`` the sliced model is then fine-tuned as a whole: ``samples`` recorded from the dense model, drawn by
    ``seed``, the rest as in `FinetuningSettings`.
    """

    method: ClassVar[str] = "l1_norm"

    ratio: float
    seed: int = 0
    samples: int = 512
    steps: int = 0
    batch: int = 8
    lr: float = 1e-4

    def __post_init__(self) -> None:
        require_fraction("The pruning ratio", self.ratio)
        _ = self.settings  # which checks itself

    @property
    def needs_statistics(self) -> bool:
        """Only fine-tuning runs the model: weights alone decide what is sliced."""
        return self.steps > 0

    @property
    def settings(self) -> FinetuningSettings:
        """How the sliced model is fine-tuned."""
        return FinetuningSettings(self.steps, self.batch, self.lr)


def rebuild_(transformer: nn.Module, plan: PruningPlan) -> None:
    """Give a dense transformer the shapes of a plan; which heads and channels are kept does not matter here."""
    heads, channels = plan.config.get("heads"), plan.config.get("mlp_channels")
    if not isinstance(heads, int) or not isinstance(channels, int):
        raise FastFluxError(
            "A plan of l1_norm holds the kept heads and mlp_channels as integers, but this one does not."
        )
    for block in _blocks(transformer):
        _require_within(heads, channels, block)
        device = block.attention.to_q.weight.device
        block.keep_heads_(torch.arange(heads, device=device))
        for mlp in block.mlps:
            mlp.keep_channels_(torch.arange(channels, device=device))


@register_pruning_method(L1NormConfig, rebuild_=rebuild_)
def slice_by_l1_norm_(transformer: nn.Module, config: L1NormConfig, calibration: Calibration) -> Pruned:
    """Drop the heads and MLP channels of least L1 norm in every block, then fine-tune if that is asked for."""
    heads, channels = choose_widths(transformer, config.ratio)
    # While the model is still dense.
    inputs = calibration.inputs(transformer, config.samples, config.seed) if config.needs_statistics else None
    began, memory = monotonic(), PeakMemory(next(transformer.parameters()).device)
    recorded: tuple[RecordedInputs, Tensor] | None = None
    if inputs is not None:
        recorded = inputs, outputs_of(transformer, inputs, calibration.at_once(transformer, inputs))
    for block in _blocks(transformer):
        block.keep_heads_(_largest(block.head_norms(), heads))
        for mlp in block.mlps:
            mlp.keep_channels_(_largest(mlp.channel_norms(), channels))
    cost = PruningCost()
    if recorded is not None:
        finetune_(transformer, *recorded, config.settings, seed=config.seed)
        blocks = len(architecture_of(transformer).chain(transformer))
        cost = PruningCost(
            block_forwards=len(recorded[0]) * blocks,
            block_trainings=config.steps * config.batch * blocks,
            training_steps=config.steps,
            trainable_parameters=sum(parameter.numel() for parameter in transformer.parameters()),
            activation_bytes=recorded[0].nbytes + recorded[1].nbytes,
        )
    cost += PruningCost(seconds=monotonic() - began, peak_memory_bytes=memory.read())
    return Pruned(skeleton={"heads": heads, "mlp_channels": channels}, cost=cost)


def choose_widths(transformer: nn.Module, ratio: float) -> tuple[int, int]:
    """Heads and MLP channels to keep in every block so that about ``ratio`` of all parameters go.

    For each number of heads the number of channels is the one that meets the ratio best; among the pairs within one
    step of the ratio, the one that drops heads and channels in the most equal shares wins. Raises ``FastFluxError``
    when more is asked for than heads and MLPs hold.
    """
    widths = _widths_of(transformer)
    pairs = []
    for heads in range(1, widths.heads + 1):
        left = ratio - (widths.heads - heads) * widths.per_head
        dropped = min(max(0, round(left / widths.per_channel / widths.step) * widths.step), widths.most_channels)
        error = abs(left - dropped * widths.per_channel)
        imbalance = abs((widths.heads - heads) / widths.heads - dropped / widths.channels)
        pairs.append((error, imbalance, heads, widths.channels - dropped))
    reachable = [pair for pair in pairs if pair[0] <= widths.step * widths.per_channel]
    if not reachable:
        raise FastFluxError(
            f"Cannot remove {ratio:.1%} of the parameters: one head and {widths.step} MLP channels in every block are "
            f"the least that can stay, which removes {widths.largest_ratio:.1%}."
        )
    _, _, heads, channels = min(reachable, key=lambda pair: (pair[1], pair[0]))
    return heads, channels


def largest_ratio(transformer: nn.Module) -> float:
    """The highest ratio that `choose_widths` can meet: one head and one step of MLP channels stay in every block."""
    return _widths_of(transformer).largest_ratio


@dataclass(frozen=True)
class _Widths:
    """Heads and MLP channels of every block, and the share of all parameters that one of each has in all blocks."""

    heads: int
    channels: int
    per_head: float
    per_channel: float

    @property
    def step(self) -> int:
        return max(1, self.channels // MLP_STEPS)

    @property
    def most_channels(self) -> int:
        """How many can be dropped."""
        return self.channels - self.step

    @property
    def largest_ratio(self) -> float:
        return (self.heads - 1) * self.per_head + self.most_channels * self.per_channel


def _widths_of(transformer: nn.Module) -> _Widths:
    blocks = _blocks(transformer)
    total = sum(parameter.numel() for parameter in transformer.parameters())
    return _Widths(
        heads=blocks[0].attention.heads,
        channels=blocks[0].mlps[0].channels,
        per_head=sum(block.parameters_per_head for block in blocks) / total,
        per_channel=sum(mlp.parameters_per_channel for block in blocks for mlp in block.mlps) / total,
    )


@dataclass(frozen=True)
class _Mlp:
    """One MLP: its first layer, its second and the second's input columns before the channels."""

    owner: Any
    first: Any
    second: Any

    @property
    def channels(self) -> int:
        return int(self.first.out_features)

    @property
    def offset(self) -> int:
        return int(self.second.in_features) - self.channels

    @property
    def parameters_per_channel(self) -> int:
        return int(self.first.in_features + (self.first.bias is not None) + self.second.out_features)

    def channel_norms(self) -> Tensor:
        """L1 norm of each channel's row and column, ``(channels,)``."""
        columns: Tensor = self.second.weight[:, self.offset :].abs().sum(dim=0, dtype=torch.float32)
        return _row_norms(self.first) + columns

    def keep_channels_(self, kept: Tensor) -> None:
        offset = self.offset
        before = torch.arange(offset, device=kept.device)
        slice_linear_(self.second, columns=torch.cat([before, kept + offset]))
        slice_linear_(self.first, rows=kept)
        if hasattr(self.owner, "mlp_hidden_dim"):  # single blocks know their MLP's width
            self.owner.mlp_hidden_dim = self.channels
        _update_packing(self.second, offset)


@dataclass(frozen=True)
class _Block:
    """The parts of a block that are sliced. A joint block's output layer takes [heads | MLP channels]."""

    attention: Any
    outputs: tuple[Any, ...]
    mlps: tuple[_Mlp, ...]

    @property
    def inputs(self) -> tuple[Any, ...]:
        names = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
        return tuple(getattr(self.attention, name) for name in names if hasattr(self.attention, name))

    @property
    def head_dim(self) -> int:
        return int(self.attention.to_q.out_features // self.attention.heads)

    @property
    def parameters_per_head(self) -> int:
        rows = sum(linear.in_features + (linear.bias is not None) for linear in self.inputs)
        return int(self.head_dim * (rows + sum(linear.out_features for linear in self.outputs)))

    def head_norms(self) -> Tensor:
        """L1 norm of each head's rows over all streams, ``(heads,)``."""
        rows = torch.stack([_row_norms(linear) for linear in self.inputs]).sum(dim=0)
        return rows.reshape(self.attention.heads, self.head_dim).sum(dim=1)

    def keep_heads_(self, kept: Tensor) -> None:
        width = self.head_dim
        inner = self.attention.heads * width
        rows = (kept[:, None] * width + torch.arange(width, device=kept.device)).flatten()
        for linear in self.inputs:
            slice_linear_(linear, rows=rows)
        for linear in self.outputs:
            after = torch.arange(inner, linear.in_features, device=kept.device)
            slice_linear_(linear, columns=torch.cat([rows, after]))
            _update_packing(linear, len(rows))
        self.attention.heads = len(kept)
        self.attention.inner_dim = len(rows)
        if hasattr(self.attention, "inner_kv_dim"):  # SD3's attention tells it apart
            self.attention.inner_kv_dim = len(rows)


def _blocks(transformer: nn.Module) -> list[_Block]:
    """All blocks; raises ``FastFluxError`` for blocks with a second attention, which SD3.5 has."""
    architecture = architecture_of(transformer)
    return [
        _joint_block(get_block(transformer, block))
        if architecture.stack(block).joint
        else _double_block(get_block(transformer, block), block)
        for block in architecture.chain(transformer)
    ]


def _joint_block(block: Any) -> _Block:
    return _Block(block.attn, (block.proj_out,), (_Mlp(block, block.proj_mlp, block.proj_out),))


def _double_block(block: Any, name: BlockRef) -> _Block:
    if getattr(block, "attn2", None) is not None:
        raise FastFluxError(f"l1_norm cannot slice {name}, which has a second attention: use another method.")
    # The text's half ends early in SD3's last block.
    outputs = (block.attn.to_out[0], block.attn.to_add_out)
    mlps = tuple(_Mlp(block, ff.net[0].proj, ff.net[2]) for ff in (block.ff, block.ff_context) if ff is not None)
    return _Block(block.attn, tuple(linear for linear in outputs if linear is not None), mlps)


def _row_norms(linear: nn.Linear) -> Tensor:
    norms = linear.weight.abs().sum(dim=1, dtype=torch.float32)
    return norms if linear.bias is None else norms + linear.bias.abs().float()


def _largest(norms: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest norms, ascending."""
    return norms.detach().topk(count).indices.sort().values


def _update_packing(linear: Any, first: int) -> None:
    """Tell diffusers' tensor parallelism the widths of [heads | MLP channels]."""
    if hasattr(linear, "_tp_packed_row_blocks"):
        linear._tp_packed_row_blocks = [first, linear.in_features - first]  # noqa: SLF001  # diffusers keeps it there


def _require_within(heads: int, channels: int, block: _Block) -> None:
    if not (1 <= heads <= block.attention.heads and 1 <= channels <= block.mlps[0].channels):
        raise FastFluxError(
            f"The plan keeps {heads} heads and {channels} MLP channels, but the model's blocks have "
            f"{block.attention.heads} and {block.mlps[0].channels}: it belongs to another model."
        )
