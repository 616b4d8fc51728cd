"""How many heads and MLP channels every block keeps at a ratio."""

from dataclasses import dataclass

from torch import nn

from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm.slicing import sliced_blocks

MLP_STEPS = 192
"""MLP channels go in 192nds: 64 of FLUX.1-dev's 12288, since GPU kernels want such multiples."""


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
    blocks = sliced_blocks(transformer)
    total = sum(parameter.numel() for parameter in transformer.parameters())
    return _Widths(
        heads=blocks[0].attention.heads,
        channels=blocks[0].mlps[0].channels,
        per_head=sum(block.parameters_per_head for block in blocks) / total,
        per_channel=sum(mlp.parameters_per_channel for block in blocks for mlp in block.mlps) / total,
    )
