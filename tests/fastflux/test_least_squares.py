"""Streamed statistics against torch.linalg.lstsq in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastflux.calibration.least_squares import LinearStatistics
from fastflux.errors import FastFluxError


def samples(seed: int, count: int, features: int, outputs: int, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=generator, dtype=torch.float64) + offset
    noise = torch.randn(count, outputs, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(features, outputs, generator=generator, dtype=torch.float64) + noise + 3.0
    return x, y


def statistics_of(x: Tensor, y: Tensor, pieces: int = 1) -> LinearStatistics:
    statistics = LinearStatistics.empty(x.shape[-1], y.shape[-1])
    for x_piece, y_piece in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
        statistics.update(x_piece, y_piece)
    return statistics


@given(
    seed=st.integers(0, 10_000), features=st.integers(1, 8), outputs=st.integers(1, 8), spare=st.integers(2, 40),
    pieces=st.integers(1, 5), offset=st.sampled_from([0.0, 1.0, 1e4]),
)  # fmt: skip
def test_agrees_with_lstsq(seed: int, features: int, outputs: int, spare: int, pieces: int, offset: float) -> None:
    x, y = samples(seed, features + 1 + spare, features, outputs, offset)
    statistics = statistics_of(x, y, pieces)
    fit = statistics.solve(ridge=0.0)
    # Centred, so that lstsq itself stays accurate under the large offset.
    weight = torch.linalg.lstsq(x - x.mean(0), y - y.mean(0)).solution.T
    bias = y.mean(0) - weight @ x.mean(0)
    torch.testing.assert_close(fit.weight, weight, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(fit.bias, bias, rtol=1e-6, atol=1e-7 * (1 + offset))
    error = (y - x @ weight.T - bias).square().sum().item()
    total = (y - y.mean(0)).square().sum().item()
    assert statistics.squared_error(fit) == pytest.approx(error, rel=1e-6, abs=1e-9 * total)
    assert statistics.r2(fit) == pytest.approx(1 - error / total, abs=1e-6)


@given(seed=st.integers(0, 10_000), split=st.integers(0, 30), offset=st.sampled_from([0.0, 1e3]))
def test_merging_equals_seeing_all_samples(seed: int, split: int, offset: float) -> None:
    x, y = samples(seed, 30, 4, 3, offset)
    merged = statistics_of(x[:split], y[:split]).merge(statistics_of(x[split:], y[split:]))
    whole = statistics_of(x, y)
    assert merged.count == whole.count
    for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name), rtol=1e-9, atol=1e-8)


def test_merging_leaves_the_operands_alone() -> None:
    x, y = samples(0, 10, 2, 2)
    first, second = statistics_of(x[:5], y[:5]), statistics_of(x[5:], y[5:])
    before = first.xx.clone(), second.xx.clone(), first.mean_x.clone()
    first.merge(second)
    assert torch.equal(first.xx, before[0])
    assert torch.equal(second.xx, before[1])
    assert torch.equal(first.mean_x, before[2])


def test_leading_dimensions_are_samples() -> None:
    x, y = samples(0, 24, 3, 2)
    batched = LinearStatistics.empty(3, 2)
    batched.update(x.reshape(2, 12, 3), y.reshape(2, 12, 2))
    torch.testing.assert_close(batched.xx, statistics_of(x, y).xx)


def test_unpaired_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="pair sample by sample"):
        LinearStatistics.empty(2, 2).update(torch.zeros(3, 2), torch.zeros(4, 2))


def test_constant_features_get_no_weight() -> None:
    x, y = samples(0, 50, 3, 2)
    x[:, 1] = 7.0
    fit = statistics_of(x, y).solve()
    assert torch.count_nonzero(fit.weight[:, 1]) == 0
    torch.testing.assert_close((x @ fit.weight.T + fit.bias).mean(0), y.mean(0))


def test_constant_outputs_are_fully_explained() -> None:
    x, _ = samples(0, 20, 3, 2)
    statistics = statistics_of(x, torch.full((20, 2), 4.0, dtype=torch.float64))
    assert statistics.r2(statistics.solve()) == 1.0


def test_fewer_samples_than_features_needs_the_ridge() -> None:
    x, y = samples(0, 4, 10, 2)
    statistics = statistics_of(x, y)
    fit = statistics.solve(ridge=1e-6)
    assert torch.isfinite(fit.weight).all()
    assert statistics.r2(fit) == pytest.approx(1.0, abs=1e-4)
    x[:, 0] = 0.0  # exactly singular, whatever the rounding
    with pytest.raises(FastFluxError, match=r"4 samples in 10 dimensions are singular at ridge 0.0: raise the ridge"):
        statistics_of(x, y).solve(ridge=0.0)


@given(seed=st.integers(0, 10_000), features=st.integers(2, 8), scale=st.sampled_from([1e-2, 1.0, 3.0]))
def test_features_that_depend_on_each_other_need_the_ridge(seed: int, features: int, scale: float) -> None:
    x, y = samples(seed, 50, features, 2)
    x[:, 0] = scale * x[:, 1:].sum(dim=1)
    statistics = statistics_of(x, y)
    with pytest.raises(FastFluxError, match="are singular at ridge"):
        statistics.solve(ridge=0.0)
    fit = statistics.solve()
    assert torch.isfinite(fit.weight).all()
    least = statistics_of(x[:, 1:], y)
    assert statistics.squared_error(fit) == pytest.approx(least.squared_error(least.solve(ridge=0.0)), rel=1e-3)


def test_no_samples_and_values_that_are_not_finite_are_errors() -> None:
    with pytest.raises(FastFluxError, match="no samples"):
        LinearStatistics.empty(2, 2).solve()
    with pytest.raises(FastFluxError, match="not finite"):
        statistics_of(torch.tensor([[1.0, float("inf")]] * 3), torch.ones(3, 2)).solve()
    with pytest.raises(FastFluxError, match="must not be negative"):
        statistics_of(*samples(0, 9, 2, 2)).solve(ridge=-1.0)


def test_relative_output_error() -> None:
    x, y = samples(0, 60, 3, 3)
    statistics = statistics_of(x, y)
    fit = statistics.solve()
    output = x + y
    energy = (output - output.mean(0)).square().sum()
    error = (y - x @ fit.weight.T - fit.bias).square().sum()
    assert statistics.relative_output_error(fit) == pytest.approx(float(error / energy), rel=1e-6)
