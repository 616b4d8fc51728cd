"""Orders in which to replace blocks, against formulas written out."""

from collections.abc import Callable
from typing import Any

import pytest

from fastflux.calibration.importance import (
    FIXED_RANKINGS,
    MEASURED_RANKINGS,
    fit_blocks,
    importance_scores,
    rank_blocks,
)
from fastflux.calibration.statistics import Statistics, collect_statistics
from fastflux.errors import FastFluxError
from fastflux.methods.block_removal import BlockRemovalConfig
from fastflux.models.architecture import architecture_of
from fastflux.plan import BlockRef
from fastflux.pruning import prune_
from tests.fastflux.conftest import Make, make_tiny_flux
from tests.fastflux.test_linear_replacement import DOUBLE, SINGLE, Drive, recorded


@pytest.mark.parametrize("ranking", [*MEASURED_RANKINGS, *FIXED_RANKINGS])
def test_rankings_are_permutations(
    ranking: str, family: str, make: Make, statistics_of: Callable[[str], Statistics]
) -> None:
    transformer = make()
    order = rank_blocks(ranking, transformer, fit_blocks(transformer, statistics_of(family)))
    assert set(order) == set(architecture_of(transformer).blocks(transformer))
    assert len(order) == 6


def test_measured_rankings_follow_their_scores(transformer: Any, statistics: Statistics) -> None:
    fits = fit_blocks(transformer, statistics)
    r2 = [fits[block].residual_r2 for block in rank_blocks("residual_r2", transformer, fits)]
    assert r2 == sorted(r2, reverse=True)
    for name in ("relative_output_error", "output_mse", "block_influence"):
        errors = [getattr(fits[block], name) for block in rank_blocks(name, transformer, fits)]
        assert errors == sorted(errors)


def test_block_influence_and_output_mse_are_what_they_say(transformer: Any, drive: Drive) -> None:
    x, y = recorded(transformer, DOUBLE, drive(transformer))["hidden_states"]
    moments = collect_statistics(transformer, drive(transformer), blocks=[DOUBLE])[DOUBLE]["hidden_states"]
    cosines = (x * (x + y)).sum(dim=1) / (x.norm(dim=1) * (x + y).norm(dim=1))
    assert moments.influence() == pytest.approx(1 - float(cosines.mean()), rel=1e-6)
    fit = moments.solve()
    error = (x @ fit.weight.T + fit.bias - y).square().mean()
    assert moments.squared_error(fit) / (moments.count * x.shape[1]) == pytest.approx(float(error), rel=1e-6)


def test_the_importance_of_the_paper_by_hand() -> None:
    blocks = [BlockRef("single_transformer_blocks", index) for index in range(3)]
    fid = dict(zip(blocks, (10.0, 30.0, 20.0), strict=True))
    clip = dict(zip(blocks, (26.0, 25.0, 27.0), strict=True))
    # Normalised: FID 0, 1, 0.5; CLIP 0.5, 0, 1. Without the second block images are worst, so it matters most.
    expected = (-(0.5 * 1 + 0.5 * 0.5), 0.0, -(0.5 * 0.5 + 0.5 * 1))
    assert importance_scores(fid, clip) == pytest.approx(dict(zip(blocks, expected, strict=True)))
    assert importance_scores(fid, clip, alpha=1, beta=0)[blocks[2]] == pytest.approx(-0.5)
    assert list(importance_scores(dict.fromkeys(blocks, 1.0), clip).values()) == pytest.approx([-0.75, -0.5, -1.0])
    with pytest.raises(FastFluxError, match="needed of every block"):
        importance_scores(fid, {blocks[0]: 1.0})


def test_an_order_can_be_given_block_by_block(transformer: Any) -> None:
    blocks = architecture_of(transformer).blocks(transformer)
    order = (blocks[3], *blocks[4:], *blocks[:3])
    listed = ",".join(map(str, order))
    assert rank_blocks(listed, transformer) == order
    plan = prune_(transformer, BlockRemovalConfig(blocks=2, ranking=listed))
    assert [replacement.block for replacement in plan.replacements] == list(order[:2])
    other = make_tiny_flux()
    with pytest.raises(FastFluxError, match="lists 5 blocks and the transformer has 6"):
        rank_blocks(",".join(map(str, order[:-1])), other)
    with pytest.raises(FastFluxError, match="twice"):
        BlockRemovalConfig(blocks=2, ranking=f"{blocks[0]},{blocks[0]}")
    with pytest.raises(FastFluxError, match="names no block"):
        BlockRemovalConfig(blocks=2, ranking="transformer_blocks.x")


def test_random_ranking_is_seeded(transformer: Any) -> None:
    orders = [rank_blocks("random", transformer, seed=seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_measured_rankings_need_all_blocks(transformer: Any, statistics: Statistics) -> None:
    fits = fit_blocks(transformer, statistics)
    del fits[SINGLE]
    for given in (None, fits):
        with pytest.raises(FastFluxError, match="needs calibration statistics of all 6 blocks"):
            rank_blocks("residual_r2", transformer, given)
