"""Direct removal of whole blocks: the baseline that leaves only shortcuts (the paper's figure 6)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fastflux.calibration.importance import (
    DEFAULT_RANKING,
    MEASURED_RANKINGS,
    fit_blocks,
    rank_blocks,
    require_ranking,
    require_ranking_of,
)
from fastflux.calibration.statistics import Calibration
from fastflux.methods.registry import Pruned, amount, register_pruning_method, require_amount
from fastflux.models.surgery import replace_block_
from fastflux.plan import Replacement


@dataclass(frozen=True)
class BlockRemovalConfig:
    """Remove the least important blocks, chosen as `LinearReplacementConfig` chooses them."""

    method: ClassVar[str] = "block_removal"

    ratio: float | None = None
    blocks: int | None = None
    ranking: str = DEFAULT_RANKING
    seed: int = 0

    def __post_init__(self) -> None:
        require_amount(self.method, self.ratio, self.blocks)
        require_ranking(self.ranking)

    @property
    def needs_statistics(self) -> bool:
        """Only measured rankings need them."""
        return self.ranking in MEASURED_RANKINGS

    def require_fits(self, transformer: nn.Module) -> None:
        """Raise ``FastFluxError`` where this transformer has fewer blocks, or other ones than the ranking lists."""
        amount(transformer, self.ratio, self.blocks)
        require_ranking_of(self.ranking, transformer)


@register_pruning_method(BlockRemovalConfig)
def remove_blocks_(transformer: nn.Module, config: BlockRemovalConfig, calibration: Calibration) -> Pruned:
    """Remove the least important blocks."""
    count = amount(transformer, config.ratio, config.blocks)
    fits = fit_blocks(transformer, calibration.statistics(transformer)) if config.needs_statistics else None
    chosen = rank_blocks(config.ranking, transformer, fits, seed=config.seed)[:count]
    replacements = tuple(Replacement(block, "removed") for block in chosen)
    for replacement in replacements:
        replace_block_(transformer, replacement)
    return Pruned(replacements)
