"""Linear fits of whole blocks, and orders in which to replace blocks, least important first.

The statistics of one calibration pass give both, so a measured ranking costs no further forward. The paper's own
importance is made of what images lose when a block is removed (`importance_scores`); `python -m bench rank` measures
that, and its order can be given block by block.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import nn

from fastflux.calibration.least_squares import DEFAULT_RIDGE, LinearFit, LinearStatistics
from fastflux.calibration.statistics import Statistics
from fastflux.errors import FastFluxError, unknown_name
from fastflux.models.architecture import architecture_of
from fastflux.plan import BlockRef

MEASURED_RANKINGS = ("residual_r2", "relative_output_error", "output_mse", "block_influence")
FIXED_RANKINGS = ("start2end", "end2start", "random")
RANKINGS = MEASURED_RANKINGS + FIXED_RANKINGS
DEFAULT_RANKING = "block_influence"
"""Of those that cost one pass, the one that agrees most with the paper's importance: Spearman +.67 on FLUX-Shapes' 57
blocks, where relative_output_error has +.51 and residual_r2 -.41."""


@dataclass(frozen=True)
class BlockFit:
    """Linear layers for a block's residual branch, by stream, and how well they do (means over the streams read).

    In a joint block both streams hold the same layer. ``residual_r2`` is the share of the residual's variance that the
    layers explain; ``relative_output_error`` is the squared error over the energy of the block's output and
    ``output_mse`` the same error as it is, a mean over samples and channels; ``block_influence`` tells of the block
    itself, 1 - the mean cosine between its input and its output.
    """

    fits: Mapping[str, LinearFit]
    residual_r2: float
    relative_output_error: float
    output_mse: float
    block_influence: float

    @property
    def ridge(self) -> float:
        """The largest that a layer took; more than was asked for where rounding outweighed that (`solve`)."""
        return max(fit.ridge for fit in self.fits.values())


def fit_blocks(
    transformer: nn.Module, statistics: Statistics, *, ridge: float = DEFAULT_RIDGE
) -> dict[BlockRef, BlockFit]:
    """Fit every block in the statistics.

    Streams whose output nobody reads (text after the last block) do not count in the scores, nor, in a joint block,
    in the fit.
    """
    return {block: fit_block(transformer, block, streams, ridge=ridge) for block, streams in statistics.items()}


def fit_block(
    transformer: nn.Module, block: BlockRef, streams: dict[str, LinearStatistics], *, ridge: float = DEFAULT_RIDGE
) -> BlockFit:
    """Fit one block from the statistics of its streams; see `fit_blocks`."""
    architecture = architecture_of(transformer)
    read = architecture.streams_read(block, transformer)
    if architecture.stack(block).joint:
        pooled = streams[read[0]]
        for name in read[1:]:
            pooled = pooled.merge(streams[name])
        fits = dict.fromkeys(streams, pooled.solve(ridge))
    else:
        fits = {name: moments.solve(ridge) for name, moments in streams.items()}
    moments = [(streams[name], fits[name]) for name in read]
    return BlockFit(
        fits=fits,
        residual_r2=fmean(m.r2(fit) for m, fit in moments),
        relative_output_error=fmean(m.relative_output_error(fit) for m, fit in moments),
        output_mse=fmean(m.squared_error(fit) / (m.count * len(m.mean_y)) for m, fit in moments),
        block_influence=fmean(m.influence() for m, _ in moments),
    )


def importance_scores(
    fid: Mapping[BlockRef, float], clip: Mapping[BlockRef, float], *, alpha: float = 0.5, beta: float = 0.5
) -> dict[BlockRef, float]:
    """The paper's importance of every block from FID and CLIP score of the images drawn without it (section 3.2).

    Equation 2: s = -(alpha (1 - FID) + beta CLIP), both normalised to [0, 1] over the blocks. Removing a block that
    matters raises FID and lowers CLIP and so raises s: low s means that the block is replaced early. (Algorithm 1
    prints s = alpha FID + beta CLIP, by which a block would matter less the worse the images follow their prompts
    without it; its text sorts as equation 2 does.) Raises ``FastFluxError`` unless both hold the same blocks.
    """
    if not fid or set(fid) != set(clip):
        raise FastFluxError(f"FID of {len(fid)} blocks and CLIP scores of {len(clip)}: both are needed of every block.")
    distance, agreement = _normalised(fid), _normalised(clip)
    return {block: -(alpha * (1 - distance[block]) + beta * agreement[block]) for block in fid}


def _normalised(values: Mapping[BlockRef, float]) -> dict[BlockRef, float]:
    """To [0, 1] by minimum and maximum; 0 where all are equal."""
    low, high = min(values.values()), max(values.values())
    return {block: (value - low) / (high - low) if high > low else 0.0 for block, value in values.items()}


def require_ranking(ranking: str) -> None:
    """Raise ``FastFluxError``, with a suggestion, unless ``ranking`` is one of `RANKINGS` or block names."""
    if ranking in RANKINGS:
        return
    if "." not in ranking:
        raise unknown_name("ranking", ranking, RANKINGS)
    listed_blocks(ranking)


def listed_blocks(ranking: str) -> tuple[BlockRef, ...]:
    """The blocks of a ranking given block by block; raises ``FastFluxError`` for what names no block, or one twice."""
    blocks = tuple(BlockRef.parse(name.strip()) for name in ranking.split(","))
    if twice := sorted({str(block) for block in blocks if blocks.count(block) > 1}):
        raise FastFluxError(f"The ranking names {twice[0]} twice: list every block once, least important first.")
    return blocks


def require_ranking_of(ranking: str, transformer: nn.Module) -> None:
    """Raise ``FastFluxError`` for a ranking given block by block that is not of this transformer's blocks."""
    if ranking not in RANKINGS:
        rank_blocks(ranking, transformer)


def rank_blocks(
    ranking: str, transformer: nn.Module, fits: Mapping[BlockRef, BlockFit] | None = None, *, seed: int = 0
) -> tuple[BlockRef, ...]:
    """All blocks of the transformer, least important first.

    ``residual_r2``: the residual branch that linear layers explain best comes first. ``relative_output_error`` and
    ``output_mse``: the replacement that changes its block's output least comes first. ``block_influence``: the block
    whose output points most nearly where its input does comes first (ShortGPT, arXiv 2403.03853). ``start2end`` and
    ``end2start``: with and against the data flow (the paper's Table 5). ``random``: shuffled by ``seed``. Anything else
    lists all blocks by name, separated by commas.

    Args:
        ranking: One of these names, or the list.
        transformer: Dense.
        fits: Of all its blocks (`fit_blocks`), for a measured ranking.
        seed: Of the random ranking.

    Raises:
        FastFluxError: Another name, a list that is not of the transformer's blocks, or a measured ranking without fits.

    Example:
        >>> transformer = fastflux.load_transformer(f"{folder}/transformer")
        >>> str(fastflux.rank_blocks("end2start", transformer)[0])
        'single_transformer_blocks.3'
    """
    require_ranking(ranking)
    blocks = architecture_of(transformer).blocks(transformer)
    if ranking not in RANKINGS:
        listed = listed_blocks(ranking)
        if wrong := sorted(str(block) for block in set(listed) ^ set(blocks)):
            raise FastFluxError(
                f"The ranking lists {len(listed)} blocks and the transformer has {len(blocks)}; they differ in "
                f"{wrong[0]}: rank this model."
            )
        return listed
    if ranking == "start2end":
        return blocks
    if ranking == "end2start":
        return blocks[::-1]
    if ranking == "random":
        order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed))
        return tuple(blocks[index] for index in order)
    if fits is None or set(fits) != set(blocks):
        raise FastFluxError(f"The ranking {ranking!r} needs calibration statistics of all {len(blocks)} blocks.")
    return tuple(sorted(blocks, key=lambda block: unimportance(ranking, fits[block]), reverse=True))


def unimportance(ranking: str, fit: BlockFit) -> float:
    """By how much a measured ranking prefers to replace the block."""
    value: float = getattr(fit, ranking)
    return value if ranking == "residual_r2" else -value
