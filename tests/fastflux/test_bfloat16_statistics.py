"""Statistics with products in bfloat16, as GPUs take them: near float64, also with massive activations."""

import pytest
import torch
from torch import Tensor

from fastflux.calibration import statistics as calibration
from fastflux.calibration.least_squares import LinearStatistics
from fastflux.calibration.statistics import collect_statistics, observe_residual
from fastflux.plan import BlockRef
from tests.fastflux.conftest import Drive, make_tiny_flux

WIDTH = 64


def activations(offset: float) -> tuple[Tensor, Tensor]:
    """Correlated inputs, one of them far from 0 and one of great variance, and a block's outputs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6000, WIDTH, generator=generator) @ (
        torch.randn(WIDTH, WIDTH, generator=generator) * torch.logspace(0, -2, WIDTH)
    )
    x[:, 3] += offset
    x[:, 7] *= 50
    rounded = x.bfloat16()
    weight = torch.randn(WIDTH, WIDTH, generator=generator) * 0.3 / WIDTH**0.5
    residual = torch.tanh(rounded.float() @ weight) + 0.1 * torch.randn(6000, WIDTH, generator=generator)
    return rounded, (rounded.float() + residual).bfloat16()


def both(offset: float) -> tuple[LinearStatistics, LinearStatistics, Tensor]:
    x, output = activations(offset)
    exact, reduced = (LinearStatistics.empty(WIDTH, WIDTH) for _ in range(2))
    for rows in torch.arange(len(x)).split(1700):
        exact.update(x[rows].double(), output[rows].double() - x[rows].double())
        reduced.update_in_bfloat16(x[rows], output[rows])
    return exact, reduced, x.double()


@pytest.mark.parametrize("offset", [0.0, 800.0])
def test_the_fit_is_as_good_as_that_of_float64(offset: float) -> None:
    exact, reduced, x = both(offset)
    first, second = exact.solve(), reduced.solve()
    # Both fits judged by the exact moments.
    assert exact.r2(second) == pytest.approx(exact.r2(first), abs=1e-5)
    difference = x @ (first.weight - second.weight).T + first.bias - second.bias
    assert float(difference.square().mean().sqrt()) < 3e-3 * float(exact.yy / exact.count / WIDTH) ** 0.5
    assert reduced.count == exact.count
    assert torch.allclose(reduced.mean_x, exact.mean_x, rtol=1e-6)
    assert float(reduced.yy) == pytest.approx(float(exact.yy), rel=1e-5)
    assert float(reduced.cosine) == pytest.approx(float(exact.cosine), rel=1e-4)
    assert torch.allclose(reduced.xx.diagonal(), exact.xx.diagonal(), rtol=2e-3)


def test_without_centring_a_large_mean_would_drown_the_rest() -> None:
    """The fault that the centring prevents: products of values that were not centred lose the variance."""
    exact, reduced, x = both(800.0)
    mean = x.float().mean(dim=0)
    uncentred = (x.T.float() @ x.float() - len(x) * mean.outer(mean)).double()

    def wrong(moments: Tensor) -> float:
        return float((moments[3, 3] / exact.xx[3, 3] - 1).abs())

    assert wrong(uncentred) > 4 * wrong(reduced.xx)


def test_nothing_given_is_changed_and_nothing_is_no_sample() -> None:
    x, output = torch.randn(5, 4), torch.randn(5, 4)
    before = x.clone(), output.clone()
    statistics = LinearStatistics.empty(4, 4)
    statistics.update_in_bfloat16(x, output)
    assert torch.equal(x, before[0])
    assert torch.equal(output, before[1])
    statistics.update_in_bfloat16(x[:0], output[:0])
    assert statistics.count == 5


def test_on_a_cpu_the_products_are_float64_unless_asked_otherwise() -> None:
    x, output = (values[:200, None].transpose(0, 1) for values in activations(0.0))
    found: dict[str | bool, dict[str, LinearStatistics]] = {"default": {}, True: {}, False: {}}
    for key, streams in found.items():
        options = {} if key == "default" else {"exact": key}
        observe_residual(BlockRef("transformer_blocks", 0), streams, (x, x), (output, output), **options)  # type: ignore[arg-type]
    moments = {key: streams["hidden_states"].xy for key, streams in found.items()}
    assert [moments[key].dtype for key in found] == [torch.float64, torch.float64, torch.float32]
    assert torch.equal(moments["default"], moments[True])
    assert not torch.equal(moments[True], moments[False])


def test_a_pass_in_parts_is_the_pass_in_one_go(drive: Drive) -> None:
    transformer = make_tiny_flux()
    run = drive(transformer)

    def twice() -> None:
        run()
        run()

    whole = collect_statistics(transformer, twice)
    parts = collect_statistics(transformer, run)
    again = collect_statistics(transformer, run, into=parts)
    assert again is parts
    for block, streams in whole.items():
        for name, moments in streams.items():
            assert torch.equal(moments.xx, parts[block][name].xx)
            assert moments.count == parts[block][name].count
    assert calibration.Calibration(collected=parts).statistics(transformer) is parts


@pytest.mark.parametrize("offset", [0.0, 800.0])
def test_products_kept_in_float32_fit_as_well_as_those_kept_in_float64(offset: float) -> None:
    x, output = activations(offset)
    exact, _, _ = both(offset)
    wide, small = (LinearStatistics.empty(WIDTH, WIDTH, products=dtype) for dtype in (torch.float64, torch.float32))
    for rows in torch.arange(len(x)).split(30):  # 200 batches
        for statistics in (wide, small):
            statistics.update_in_bfloat16(x[rows], output[rows])
    assert (small.xx.dtype, small.mean_x.dtype, small.solve().weight.dtype) == (
        torch.float32, torch.float64, torch.float64,
    )  # fmt: skip
    assert torch.allclose(small.xx.double(), wide.xx, rtol=1e-5, atol=1e-6 * float(wide.xx.diagonal().mean()))
    assert exact.r2(small.solve()) == pytest.approx(exact.r2(wide.solve()), abs=1e-6)
    assert small.r2(small.solve()) == pytest.approx(wide.r2(wide.solve()), abs=1e-5)
    merged = small.merge(LinearStatistics.empty(WIDTH, WIDTH, products=torch.float32))
    assert merged.xx.dtype == torch.float32
    # Exact samples may follow, and are then kept like the rest.
    small.update(x[:10], output[:10] - x[:10])
    assert small.count == len(x) + 10


@pytest.mark.gpu
def test_a_gpu_sums_in_float32_too() -> None:
    x, output = activations(800.0)
    here, there = LinearStatistics.empty(WIDTH, WIDTH), LinearStatistics.empty(WIDTH, WIDTH, device="cuda")
    here.update_in_bfloat16(x, output)
    there.update_in_bfloat16(x.cuda(), output.cuda())
    assert torch.allclose(there.xx.cpu(), here.xx, rtol=1e-3, atol=1e-4 * float(here.xx.diagonal().mean()))
    assert there.count == here.count
