"""Block-wise replacement with linear layers, the paper's BRLL (section 3.1)."""

from dataclasses import dataclass
from time import monotonic
from typing import ClassVar, cast

import torch
from torch import nn

from fastflux.calibration.importance import (
    DEFAULT_RANKING,
    BlockFit,
    fit_blocks,
    rank_blocks,
    require_ranking,
    require_ranking_of,
)
from fastflux.calibration.least_squares import DEFAULT_RIDGE, LinearFit
from fastflux.calibration.statistics import Calibration
from fastflux.cost import PeakMemory, PruningCost
from fastflux.errors import FastFluxError
from fastflux.methods.registry import Pruned, amount, register_pruning_method, require_amount
from fastflux.models.architecture import IMAGE_STREAM, TEXT_STREAM
from fastflux.models.sublayers import LinearReplacementBlock
from fastflux.models.surgery import hidden_size, replace_block_
from fastflux.plan import Replacement, require_ridge


@dataclass(frozen=True)
class LinearReplacementConfig:
    """Replace the residual branches of the least important blocks with least-squares linear layers.

    ``ratio`` (in [0, 1], counted as in `fastflux.plan.block_count`) or ``blocks`` says how many;
    ``ranking`` in which order (`fastflux.calibration.importance.rank_blocks`), ``seed`` serving the random one;
    ``ridge`` is the regression's relative ridge.

    Raises:
        FastFluxError: A value that cannot be meant.

    Example:
        >>> fastflux.LinearReplacementConfig(ratio=1.5)
        Traceback (most recent call last):
        fastflux.errors.FastFluxError: The pruning ratio is 1.5, but it must lie between 0 and 1: 0.2 stands for 20 %.
    """

    method: ClassVar[str] = "linear_replacement"

    ratio: float | None = None
    blocks: int | None = None
    ranking: str = DEFAULT_RANKING
    ridge: float = DEFAULT_RIDGE
    seed: int = 0

    def __post_init__(self) -> None:
        require_amount(self.method, self.ratio, self.blocks)
        require_ranking(self.ranking)
        require_ridge(self.ridge)

    @property
    def needs_statistics(self) -> bool:
        """The fit always needs them."""
        return True

    def require_fits(self, transformer: nn.Module) -> None:
        """Raise ``FastFluxError`` where this transformer has fewer blocks, or other ones than the ranking lists."""
        amount(transformer, self.ratio, self.blocks)
        require_ranking_of(self.ranking, transformer)


@register_pruning_method(LinearReplacementConfig)
def replace_with_linear_layers_(
    transformer: nn.Module, config: LinearReplacementConfig, calibration: Calibration
) -> Pruned:
    """Replace the least important blocks; all statistics come from the dense model, so one pass serves every ratio."""
    count = amount(transformer, config.ratio, config.blocks)
    statistics = calibration.statistics(transformer)
    began, memory = monotonic(), PeakMemory(next(transformer.parameters()).device)
    fits = fit_blocks(transformer, statistics, ridge=config.ridge)
    chosen = rank_blocks(config.ranking, transformer, fits, seed=config.seed)[:count]
    if missing := [str(block) for block in chosen if block not in fits]:
        raise FastFluxError(f"There are no calibration statistics of {missing[0]}: collect them on this transformer.")
    width = hidden_size(transformer)
    for block in chosen:
        for stream, fit in fits[block].fits.items():
            if (found := len(fit.bias)) != width:
                raise FastFluxError(
                    f"The calibration statistics of {block} ({stream}) have {found} features, but the transformer's "
                    f"width is {width}: collect them on this transformer."
                )
    replacements = tuple(Replacement(block, "linear") for block in chosen)
    for replacement in replacements:
        new = cast("LinearReplacementBlock", replace_block_(transformer, replacement))
        copy_fit_(new, fits[replacement.block])
    return Pruned(replacements, cost=PruningCost(seconds=monotonic() - began, peak_memory_bytes=memory.read()))


def copy_fit_(block: LinearReplacementBlock, fit: BlockFit) -> None:
    """Fill a replacement block with its fit, cast to the block's dtype."""
    _copy(block.linear, fit.fits[IMAGE_STREAM])
    if block.linear_context is not None:
        _copy(block.linear_context, fit.fits[TEXT_STREAM])


def _copy(linear: nn.Linear, fit: LinearFit) -> None:
    with torch.no_grad():
        linear.weight.copy_(fit.weight)
        linear.bias.copy_(fit.bias)
