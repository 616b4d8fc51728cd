"""Linear fits of whole blocks, and orders in which to replace blocks, least important first.

The statistics of one calibration pass give both, so a ranking costs no further forward.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from fastflux.architectures import architecture_of
from fastflux.calibration import Statistics
from fastflux.errors import FastFluxError
from fastflux.least_squares import DEFAULT_RIDGE, LinearFit, LinearStatistics
from fastflux.names import unknown_name
from fastflux.plan import BlockRef

MEASURED_RANKINGS = ("residual_r2", "relative_output_error")
FIXED_RANKINGS = ("start2end", "end2start", "random")
RANKINGS = MEASURED_RANKINGS + FIXED_RANKINGS


@dataclass(frozen=True)
class BlockFit:
    """Linear layers for a block's residual branch, by stream, and how well they do (means over the streams read).

    In a joint block both streams hold the same layer. ``residual_r2`` is the share of the residual's variance that the
    layers explain; ``relative_output_error`` is the squared error over the energy of the block's output.
    """

    fits: Mapping[str, LinearFit]
    residual_r2: float
    relative_output_error: float


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
    return BlockFit(
        fits=fits,
        residual_r2=sum(streams[name].r2(fits[name]) for name in read) / len(read),
        relative_output_error=sum(streams[name].relative_output_error(fits[name]) for name in read) / len(read),
    )


def require_ranking(name: str) -> None:
    """Raise ``FastFluxError``, with a suggestion, unless ``name`` is one of `RANKINGS`."""
    if name not in RANKINGS:
        raise unknown_name("ranking", name, RANKINGS)


def rank_blocks(
    name: str, transformer: nn.Module, fits: Mapping[BlockRef, BlockFit] | None = None, *, seed: int = 0
) -> tuple[BlockRef, ...]:
    """All blocks of the transformer, least important first.

    ``residual_r2``: the residual branch that linear layers explain best comes first. ``relative_output_error``: the
    replacement that changes its block's output least comes first. ``start2end`` and ``end2start``: with and against the
    data flow (the paper's Table 5). ``random``: shuffled by ``seed``. Raises ``FastFluxError`` for another name and
    for a measured ranking without ``fits`` of all blocks.
    """
    require_ranking(name)
    blocks = architecture_of(transformer).blocks(transformer)
    if name == "start2end":
        return blocks
    if name == "end2start":
        return blocks[::-1]
    if name == "random":
        order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed))
        return tuple(blocks[index] for index in order)
    if fits is None or set(fits) != set(blocks):
        raise FastFluxError(f"The ranking {name!r} needs calibration statistics of all {len(blocks)} blocks.")
    scores = {block: _unimportance(name, fits[block]) for block in blocks}
    return tuple(sorted(blocks, key=lambda block: scores[block], reverse=True))


def _unimportance(ranking: str, fit: BlockFit) -> float:
    return fit.residual_r2 if ranking == "residual_r2" else -fit.relative_output_error
