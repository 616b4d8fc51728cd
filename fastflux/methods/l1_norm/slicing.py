"""The parts of a block that lose heads and channels, their L1 norms, and how both are cut."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastflux.errors import FastFluxError
from fastflux.models.architecture import architecture_of
from fastflux.models.surgery import get_block, slice_linear_
from fastflux.plan import BlockRef


@dataclass(frozen=True)
class Mlp:
    """One MLP: its first layer, its second and the second's input columns before the channels."""

    owner: Any
    first: Any
    second: Any

    @property
    def channels(self) -> int:
        """Its width."""
        return int(self.first.out_features)

    @property
    def offset(self) -> int:
        """Input columns of the second layer before the channels."""
        return int(self.second.in_features) - self.channels

    @property
    def parameters_per_channel(self) -> int:
        """Weights and biases that go with one channel."""
        return int(self.first.in_features + (self.first.bias is not None) + self.second.out_features)

    def channel_norms(self) -> Tensor:
        """L1 norm of each channel's row and column, ``(channels,)``."""
        columns: Tensor = self.second.weight[:, self.offset :].abs().sum(dim=0, dtype=torch.float32)
        return _row_norms(self.first) + columns

    def keep_channels_(self, kept: Tensor) -> None:
        """Keep only the channels of these indices, ascending."""
        offset = self.offset
        before = torch.arange(offset, device=kept.device)
        slice_linear_(self.second, columns=torch.cat([before, kept + offset]))
        slice_linear_(self.first, rows=kept)
        if hasattr(self.owner, "mlp_hidden_dim"):  # single blocks know their MLP's width
            self.owner.mlp_hidden_dim = self.channels
        _update_packing(self.second, offset)


@dataclass(frozen=True)
class SlicedBlock:
    """The parts of a block that are sliced. A joint block's output layer takes [heads | MLP channels]."""

    attention: Any
    outputs: tuple[Any, ...]
    mlps: tuple[Mlp, ...]

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The attention's input projections, of all streams."""
        names = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
        return tuple(getattr(self.attention, name) for name in names if hasattr(self.attention, name))

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return int(self.attention.to_q.out_features // self.attention.heads)

    @property
    def parameters_per_head(self) -> int:
        """Weights and biases that go with one head."""
        rows = sum(linear.in_features + (linear.bias is not None) for linear in self.inputs)
        return int(self.head_dim * (rows + sum(linear.out_features for linear in self.outputs)))

    def head_norms(self) -> Tensor:
        """L1 norm of each head's rows over all streams, ``(heads,)``."""
        rows = torch.stack([_row_norms(linear) for linear in self.inputs]).sum(dim=0)
        return rows.reshape(self.attention.heads, self.head_dim).sum(dim=1)

    def keep_heads_(self, kept: Tensor) -> None:
        """Keep only the heads of these indices, ascending."""
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


def sliced_blocks(transformer: nn.Module) -> list[SlicedBlock]:
    """All blocks; raises ``FastFluxError`` for blocks with a second attention, which SD3.5 has."""
    architecture = architecture_of(transformer)
    return [
        _joint_block(get_block(transformer, block))
        if architecture.stack(block).joint
        else _double_block(get_block(transformer, block), block)
        for block in architecture.chain(transformer)
    ]


def _joint_block(block: Any) -> SlicedBlock:
    return SlicedBlock(block.attn, (block.proj_out,), (Mlp(block, block.proj_mlp, block.proj_out),))


def _double_block(block: Any, name: BlockRef) -> SlicedBlock:
    if getattr(block, "attn2", None) is not None:
        raise FastFluxError(f"l1_norm cannot slice {name}, which has a second attention: use another method.")
    # The text's half ends early in SD3's last block.
    outputs = (block.attn.to_out[0], block.attn.to_add_out)
    mlps = tuple(Mlp(block, ff.net[0].proj, ff.net[2]) for ff in (block.ff, block.ff_context) if ff is not None)
    return SlicedBlock(block.attn, tuple(linear for linear in outputs if linear is not None), mlps)


def _row_norms(linear: nn.Linear) -> Tensor:
    norms = linear.weight.abs().sum(dim=1, dtype=torch.float32)
    return norms if linear.bias is None else norms + linear.bias.abs().float()


def largest(norms: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest norms, ascending."""
    return norms.detach().topk(count).indices.sort().values


def _update_packing(linear: Any, first: int) -> None:
    """Tell diffusers' tensor parallelism the widths of [heads | MLP channels]."""
    if hasattr(linear, "_tp_packed_row_blocks"):
        linear._tp_packed_row_blocks = [first, linear.in_features - first]  # noqa: SLF001  # diffusers keeps it there
