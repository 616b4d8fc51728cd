"""Width pruning with closed-form compensation: heads and MLP channels go that the others can best stand in for.

A layer that reads heads or an MLP's channels is fitted anew to what stays. The error that is left when columns go is
known beforehand (optimal brain surgeon, https://doi.org/10.1109/ICNN.1993.298572), and decides which.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastflux.calibration.least_squares import DEFAULT_RIDGE, LinearStatistics
from fastflux.calibration.recording import BlockStates, RecordedInputs
from fastflux.calibration.statistics import Calibration
from fastflux.cost import PruningCost
from fastflux.methods.l1_norm import L1NormConfig, prune_widths_, rebuild_
from fastflux.methods.l1_norm.slicing import SlicedBlock, sliced_blocks
from fastflux.methods.registry import Pruned, register_pruning_method
from fastflux.plan import require_ridge


@dataclass(frozen=True)
class WidthPruningConfig(L1NormConfig):
    """As `L1NormConfig`; the ``samples`` decide what goes, and fit what stays with a relative ``ridge``."""

    method: ClassVar[str] = "width_pruning"

    ridge: float = DEFAULT_RIDGE

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ridge(self.ridge)

    @property
    def needs_statistics(self) -> bool:
        """The dense model's activations decide."""
        return True


@register_pruning_method(WidthPruningConfig, rebuild_=rebuild_)
def prune_and_compensate_(transformer: nn.Module, config: WidthPruningConfig, calibration: Calibration) -> Pruned:
    """Drop the heads and channels whose loss is least, fit the layers behind them, fine-tune if that is asked for."""

    def slice_(inputs: RecordedInputs | None, heads: int, channels: int) -> PruningCost:
        assert inputs is not None, "recorded wherever a config needs statistics"  # noqa: S101  # for mypy
        with calibration.store() as store:
            states = BlockStates(transformer, inputs, calibration.at_once(transformer, inputs), keep=0, store=store)
            run = states.before(states.blocks[0])
            for name, block in zip(states.blocks, sliced_blocks(transformer), strict=True):
                moments: dict[nn.Linear, LinearStatistics] = {}
                handles = [layer.register_forward_hook(_relate(moments)) for layer in block.readers]
                try:
                    run = states.through(run, [name])  # before it is sliced: all that is read is the dense model's
                finally:
                    for handle in handles:
                        handle.remove()
                _slice_and_fit_(block, moments, heads, channels, config.ridge)
        return PruningCost(block_forwards=states.block_forwards, activation_bytes=inputs.nbytes + store.peak_bytes)

    return prune_widths_(transformer, config, calibration, slice_)


def _relate(moments: dict[nn.Linear, LinearStatistics]) -> Callable[..., None]:
    """A hook that adds a layer's inputs to its moments."""

    def hook(layer: Any, args: tuple[Tensor], _output: Tensor) -> None:
        x = args[0]
        if layer.bias is None:  # of mean 0 with their negatives: nothing is asked of an offset
            x = torch.cat([x, -x])
        if layer not in moments:
            moments[layer] = LinearStatistics.empty(layer.in_features, 1, device=x.device)
        moments[layer].update(x, x[..., :1])  # of which the inputs alone are read

    return hook


@torch.no_grad()
def _slice_and_fit_(
    block: SlicedBlock, moments: dict[nn.Linear, LinearStatistics], heads: int, channels: int, ridge: float
) -> None:
    readers = {layer: _Reader.of(layer, found, ridge) for layer, found in moments.items()}
    width, device = block.head_dim, block.inputs[0].weight.device
    of_heads = [torch.arange(at * width, (at + 1) * width) for at in range(block.attention.heads)]
    staying = _drop_([readers[layer] for layer in block.outputs], of_heads, heads).to(device)
    of_mlps = []
    for mlp in block.mlps:
        columns = torch.arange(mlp.offset, mlp.offset + mlp.channels)
        of_mlps.append(_drop_([readers[mlp.second]], [*columns[:, None]], channels).to(device))
    kept = block.kept_columns(staying, of_mlps)
    block.keep_(staying, of_mlps)
    for layer, columns in kept.items():
        readers[layer].fill_(layer, columns)


def _drop_(readers: Sequence["_Reader"], groups: Sequence[Tensor], count: int) -> Tensor:
    """Take columns out, of the least loss over all readers first, until so many groups are left: which, ascending."""
    left = list(range(len(groups)))
    while len(left) > count:
        losses = torch.stack([reader.losses([groups[at] for at in left]) for reader in readers]).sum(dim=0)
        out = left.pop(int(losses.argmin()))
        for reader in readers:
            reader.drop_(groups[out])
    return torch.tensor(left)


@dataclass
class _Reader:
    """A layer's weights ``(outputs, columns)`` while columns are taken from it, the others taking over what they did.

    ``inverse`` is that of the inputs' covariance ``(columns, columns)``, ``mean`` their mean, ``offset`` what the bias
    is to be besides the weights times that, ``variance`` that of the outputs, by which losses are told.
    """

    weight: Tensor
    inverse: Tensor
    mean: Tensor
    offset: Tensor
    variance: Tensor

    @classmethod
    def of(cls, layer: Any, moments: LinearStatistics, ridge: float) -> "_Reader":
        covariance, weight = moments.xx / moments.count, layer.weight.to(moments.xx)
        variance = (weight @ covariance * weight).sum().clamp(min=torch.finfo(weight.dtype).tiny)
        offset = weight @ moments.mean_x + (0.0 if layer.bias is None else layer.bias.to(weight))
        covariance.diagonal().add_(max(ridge, DEFAULT_RIDGE) * covariance.diagonal().mean().clamp(min=1e-30))
        return cls(weight, torch.linalg.inv(covariance), moments.mean_x, offset, variance)

    def losses(self, groups: Sequence[Tensor]) -> Tensor:
        """By how much the outputs' squared error grows without each group of columns, as a share of their variance."""
        columns = torch.stack([*groups]).to(self.weight.device)  # (groups, width)
        if columns.shape[1] == 1:  # FLUX.1-dev's 12,288 channels are asked for thousands of times
            weights, single = self.weight[:, columns[:, 0]], self.inverse.diagonal()[columns[:, 0]]
            return (weights / single * weights).sum(dim=0) / self.variance
        parts = self.inverse[columns[:, :, None], columns[:, None, :]]  # (groups, width, width)
        weights = self.weight.T[columns]  # (groups, width, outputs)
        losses: Tensor = (torch.linalg.solve(parts, weights) * weights).sum(dim=(1, 2)) / self.variance
        return losses

    def drop_(self, columns: Tensor) -> None:
        """Take these columns out."""
        columns = columns.to(self.weight.device)
        share = torch.linalg.solve(self.inverse[columns][:, columns], self.inverse[columns])  # (width, columns)
        self.weight -= self.weight[:, columns] @ share
        self.inverse -= self.inverse[:, columns] @ share

    def fill_(self, layer: Any, columns: Tensor) -> None:
        """Give a layer that only these columns are left of the weights and the bias."""
        layer.weight.copy_(weight := self.weight[:, columns.to(self.weight.device)])
        if layer.bias is not None:
            layer.bias.copy_(self.offset - weight @ self.mean[columns.to(self.mean.device)])
