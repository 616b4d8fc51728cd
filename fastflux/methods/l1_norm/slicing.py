"""The parts of a block that lose heads and channels, their L1 norms, and how both are cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastflux.errors import FastFluxError
from fastflux.models.architecture import SlicedLayers, architecture_of
from fastflux.models.surgery import get_block, slice_linear_
from fastflux.plan import BlockRef


@dataclass(frozen=True)
class Mlp:
    """One MLP: its first layers, its second, and the owner, among the attention and the block, that knows its width.

    Where the attention shares a layer with it, the attention's part comes first.
    """

    attention: Any
    owner: Any
    firsts: tuple[Any, ...]
    second: Any
    shares_second: bool
    shares_first: bool

    @property
    def channels(self) -> int:
        """Its width."""
        return int(self.second.in_features) - self.offset

    @property
    def offset(self) -> int:
        """Input columns of the second layer before the channels."""
        return int(self.attention.inner_dim) if self.shares_second else 0

    @property
    def parameters_per_channel(self) -> int:
        """Weights and biases that go with one channel."""
        rows = sum(len(parts) * (linear.in_features + (linear.bias is not None)) for linear, parts in self._parts())
        return int(rows + self.second.out_features)

    def channel_norms(self) -> Tensor:
        """L1 norm of each channel's row, both where it is gated, and column, ``(channels,)``."""
        norms: Tensor = self.second.weight[:, self.offset :].abs().sum(dim=0, dtype=torch.float32)
        for linear, parts in self._parts():
            rows = _row_norms(linear)
            for start in parts:
                norms = rows[start : start + self.channels] + norms
        return norms

    def keep_channels_(self, kept: Tensor) -> None:
        """Keep only the channels of these indices, ascending."""
        offset = self.offset
        before = torch.arange(offset, device=kept.device)
        for linear, parts in self._parts():
            own = torch.arange(parts.start, device=kept.device)
            slice_linear_(linear, rows=torch.cat([own, *(kept + start for start in parts)]))
            _update_packing(linear, "col", [parts.start // 3] * 3 + [len(kept)] * len(parts))
        slice_linear_(self.second, columns=torch.cat([before, kept + offset]))
        if hasattr(self.owner, "mlp_hidden_dim"):  # single blocks know their MLP's width
            self.owner.mlp_hidden_dim = len(kept)
        _update_packing(self.second, "row", [offset, len(kept)])

    def _parts(self) -> list[tuple[Any, range]]:
        """The first layers, and where in their rows the channels start: in two places where a layer is gated."""
        own = 3 * int(self.attention.inner_dim) if self.shares_first else 0  # query, key and value
        return [(linear, range(own, linear.out_features, self.channels)) for linear in self.firsts]


@dataclass(frozen=True)
class SlicedBlock:
    """The parts of a block that are sliced; an input layer holds ``packed`` projections one behind the other."""

    attention: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    mlps: tuple[Mlp, ...]
    packed: int

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return int(self.attention.inner_dim // self.attention.heads)

    @property
    def parameters_per_head(self) -> int:
        """Weights and biases that go with one head."""
        rows = sum(self.packed * (linear.in_features + (linear.bias is not None)) for linear in self.inputs)
        return int(self.head_dim * (rows + sum(linear.out_features for linear in self.outputs)))

    def head_norms(self) -> Tensor:
        """L1 norm of each head's rows over all streams, ``(heads,)``."""
        inner = self.attention.inner_dim
        rows = [part for linear in self.inputs for part in _row_norms(linear)[: self.packed * inner].split(inner)]
        return torch.stack(rows).sum(dim=0).reshape(self.attention.heads, self.head_dim).sum(dim=1)

    @property
    def readers(self) -> tuple[Any, ...]:
        """The layers that read heads or an MLP's channels, each once."""
        return tuple(dict.fromkeys((*self.outputs, *(mlp.second for mlp in self.mlps))))

    def kept_columns(self, heads: Tensor, channels: Sequence[Tensor]) -> dict[Any, Tensor]:
        """Which input columns of the `readers` stay with the heads and, of each MLP, the channels that are kept."""
        rows = self._rows(heads)
        columns = dict.fromkeys(self.outputs, rows)
        for mlp, kept in zip(self.mlps, channels, strict=True):
            columns[mlp.second] = torch.cat([columns.get(mlp.second, rows[:0]), kept + mlp.offset])
        return columns

    def keep_(self, heads: Tensor, channels: Sequence[Tensor]) -> None:
        """Keep only the heads of these indices and, of each MLP, these channels, all ascending."""
        self.keep_heads_(heads)
        for mlp, kept in zip(self.mlps, channels, strict=True):
            mlp.keep_channels_(kept)

    def _rows(self, heads: Tensor) -> Tensor:
        return (heads[:, None] * self.head_dim + torch.arange(self.head_dim, device=heads.device)).flatten()

    def keep_heads_(self, kept: Tensor) -> None:
        """Keep only the heads of these indices, ascending."""
        inner = self.attention.heads * self.head_dim
        rows = self._rows(kept)
        for linear in self.inputs:
            after = torch.arange(self.packed * inner, linear.out_features, device=kept.device)
            slice_linear_(linear, rows=torch.cat([*(rows + part * inner for part in range(self.packed)), after]))
        for linear in self.outputs:
            after = torch.arange(inner, linear.in_features, device=kept.device)
            slice_linear_(linear, columns=torch.cat([rows, after]))
            _update_packing(linear, "row", [len(rows), len(after)])
        self.attention.heads = len(kept)
        self.attention.inner_dim = len(rows)
        if hasattr(self.attention, "inner_kv_dim"):  # SD3's attention tells it apart
            self.attention.inner_kv_dim = len(rows)


def sliced_blocks(transformer: nn.Module) -> list[SlicedBlock]:
    """All blocks; raises ``FastFluxError`` for blocks with a second attention, which SD3.5 has."""
    architecture = architecture_of(transformer)
    return [
        _sliced_block(get_block(transformer, block), block, architecture.stack(block).sliced)
        for block in architecture.chain(transformer)
    ]


def _sliced_block(block: Any, name: BlockRef, layers: SlicedLayers) -> SlicedBlock:
    if getattr(block, "attn2", None) is not None:
        raise FastFluxError(f"l1_norm cannot slice {name}, which has a second attention: use another method.")
    attention = block.get_submodule(layers.attention)
    inputs, outputs = _named(block, layers.inputs), _named(block, layers.outputs)
    mlps = []
    for names in layers.mlps:
        found = _named(block, names)
        if len(found) < len(names):
            continue
        owner = attention if hasattr(attention, "mlp_hidden_dim") else block
        shared = [any(linear is other for other in inputs + outputs) for linear in found]
        mlps.append(Mlp(attention, owner, found[:-1], found[-1], shared[-1], shared[0]))
    return SlicedBlock(attention, inputs, outputs, tuple(mlps), 3 if mlps[0].shares_first else 1)


def _named(block: nn.Module, names: tuple[str, ...]) -> tuple[Any, ...]:
    """Those of the layers that there are: the text's half ends early in SD3's last block."""
    modules = dict(block.named_modules())
    return tuple(modules[name] for name in names if name in modules)


def _row_norms(linear: nn.Linear) -> Tensor:
    norms = linear.weight.abs().sum(dim=1, dtype=torch.float32)
    return norms if linear.bias is None else norms + linear.bias.abs().float()


def largest(norms: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest norms, ascending."""
    return norms.detach().topk(count).indices.sort().values


def _update_packing(linear: Any, side: str, widths: list[int]) -> None:
    """Tell diffusers' tensor parallelism the widths of what stands side by side in a layer's rows or columns."""
    if hasattr(linear, f"_tp_packed_{side}_blocks"):
        setattr(linear, f"_tp_packed_{side}_blocks", widths)
