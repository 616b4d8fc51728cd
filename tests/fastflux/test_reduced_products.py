"""Products kept in float32: the ridge that their rounding needs, cosines, long products, looks at a device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from fastflux.calibration import least_squares as bfloat16_sums
from fastflux.calibration.importance import fit_block
from fastflux.calibration.least_squares import DEFAULT_RIDGE, LARGEST_RIDGE, LinearStatistics
from fastflux.calibration.recording import record_inputs
from fastflux.calibration.statistics import collect_recorded, collect_statistics
from fastflux.errors import FastFluxError
from fastflux.plan import BlockRef
from tests.fastflux.conftest import Drive, make_tiny_flux

EPS = torch.finfo(torch.float32).eps


def reduced(statistics: LinearStatistics) -> LinearStatistics:
    """The same with products in float32."""
    parts = {name: getattr(statistics, name) for name in ("count", "mean_x", "mean_y", "yy", "cosine")}
    return LinearStatistics(xx=statistics.xx.float(), xy=statistics.xy.float(), **parts)


@pytest.fixture(scope="module")
def embedded() -> tuple[LinearStatistics, LinearStatistics]:
    """What enters FLUX's first block, smaller: few channels in many features; exact, and in many reduced updates."""
    width, channels, tokens = 512, 8, 16
    generator = torch.Generator().manual_seed(0)
    embedder = (torch.randn(channels, width, generator=generator) / channels**0.5).bfloat16()
    exact, small = LinearStatistics.empty(width, width), LinearStatistics.empty(width, width, products=torch.float32)
    for _ in range(60):
        x = torch.randn(10 * tokens, channels, generator=generator).bfloat16() @ embedder
        output = (x.float() + 0.3 * torch.tanh(x.float().roll(1, -1))).bfloat16()
        exact.update(x.double(), output.double() - x.double())
        for rows in torch.arange(len(x)).split(tokens):
            small.update_in_bfloat16(x[rows], output[rows])
    return exact, small


def test_rounding_of_the_sums_raises_the_ridge_instead_of_an_error(
    embedded: tuple[LinearStatistics, LinearStatistics],
) -> None:
    exact, small = embedded
    variance = float(small.xx.diagonal().double().mean())
    assert torch.linalg.eigvalsh(small.xx.double())[0] < -DEFAULT_RIDGE * variance, "what the default does not lift"
    assert torch.linalg.eigvalsh(exact.xx)[0] > 0
    fit, reference = small.solve(), exact.solve()
    assert reference.ridge == DEFAULT_RIDGE
    assert fit.ridge in (1e-5, 1e-4), "no more than needed"
    assert exact.r2(fit) == pytest.approx(exact.r2(exact.solve(fit.ridge)), abs=1e-3)
    assert exact.r2(fit) == pytest.approx(exact.r2(reference), abs=5e-3)
    assert small.r2(fit) == pytest.approx(exact.r2(fit), abs=2e-3), "R² is that of this fit"
    # One that is there already is taken as it is.
    assert small.solve(1e-3).ridge == 1e-3
    assert exact.r2(small.solve(1e-3)) < exact.r2(fit)
    # What is told of a block is the ridge of its layers.
    block = BlockRef("transformer_blocks", 0)
    streams = {"hidden_states": small, "encoder_hidden_states": reduced(exact)}
    found = fit_block(make_tiny_flux(), block, streams)
    assert found.ridge == max(each.ridge for each in found.fits.values()) >= fit.ridge


@given(
    seed=st.integers(0, 10_000), features=st.integers(2, 8), scale=st.sampled_from([1e-2, 1.0, 3.0]),
    ridge=st.sampled_from([0.0, 1e-9, DEFAULT_RIDGE, 1e-2]),
)  # fmt: skip
def test_no_rounding_of_dependent_features_is_an_error(seed: int, features: int, scale: float, ridge: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, features, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(features, 2, generator=generator, dtype=torch.float64) + torch.randn(50, 2, generator=generator)
    x[:, 0] = scale * x[:, 1:].sum(dim=1)
    exact = LinearStatistics.empty(features, 2)
    exact.update(x, y)
    with pytest.raises(FastFluxError, match=r"are singular at ridge 0\.0: "):
        exact.solve(0.0)
    fit = reduced(exact).solve(ridge)
    assert (ridge or EPS) <= fit.ridge <= max(ridge, 1e-5)
    assert exact.squared_error(fit) == pytest.approx(exact.squared_error(exact.solve(fit.ridge)), rel=1e-3)


@pytest.mark.parametrize(("lost", "ridge"), [(0.4, 1e-6), (0.9, 1e-5), (4.0, 1e-5), (6.0, 1e-4)])
def test_rounding_makes_up_at_most_half_of_the_ridge(lost: float, ridge: float) -> None:
    """A direction that rounding brought just short of singular would else take weights of noise over nothing."""
    statistics = LinearStatistics.empty(4, 4, products=torch.float32)
    statistics.count = 50
    statistics.xx += torch.tensor([2.0, 1.0, 1.0, -lost * 1e-6]).diag()
    fit = statistics.solve()
    assert fit.ridge == ridge
    exact = LinearStatistics(**{**vars(statistics), "xx": statistics.xx.double()})
    if lost < 1:
        assert exact.solve().ridge == DEFAULT_RIDGE, "which float64 takes as it is"


def test_what_no_rounding_explains_stays_an_error() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    statistics = LinearStatistics.empty(4, 4)
    statistics.update(x, x)
    statistics = reduced(statistics)
    assert statistics.solve(0.0).ridge == pytest.approx(EPS), "the dtype's own precision is the least"
    statistics.xx[0, 0] = -0.01 * statistics.xx[1, 1]
    with pytest.raises(
        FastFluxError, match=r"50 samples in 4 dimensions are singular at ridge 0\.001: raise the ridge"
    ):
        statistics.solve()
    with pytest.raises(FastFluxError, match=r"singular at ridge 0\.002: "):
        statistics.solve(2 * LARGEST_RIDGE)
    assert statistics.solve(0.1).ridge == 0.1


@given(
    seed=st.integers(0, 10_000), features=st.integers(1, 40), zeros=st.sampled_from(["", "x", "output", "both"]),
    size=st.sampled_from([1e-12, 1e-3, 1.0, 1e4]), dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)  # fmt: skip
def test_cosines_are_those_of_torch(seed: int, features: int, zeros: str, size: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (size * torch.randn(9, features, generator=generator)).to(dtype)
    output = (x + torch.randn(9, features, generator=generator).to(dtype)).to(dtype)
    if zeros in ("x", "both"):
        x[3] = 0
    if zeros in ("output", "both"):
        output[3:5] = 0
    statistics = LinearStatistics.empty(features, features)
    statistics.update_in_bfloat16(x, output)
    expected = torch.nn.functional.cosine_similarity(x.double(), output.double()).sum()
    assert float(statistics.cosine) == pytest.approx(float(expected), abs=1e-5)
    # A tenth sample that is nothing has no cosine, and is no NaN.
    statistics.update_in_bfloat16(torch.zeros(1, features, dtype=dtype), torch.zeros(1, features, dtype=dtype))
    assert float(statistics.cosine) == pytest.approx(float(expected), abs=1e-5)


class Calls(TorchFunctionMode):
    """Notes every call of torch that ``wanted`` names, with what it was given."""

    def __init__(self, *wanted: str) -> None:
        super().__init__()
        self.wanted, self.found = wanted, list[tuple[Any, ...]]()

    def __torch_function__(
        self, function: Callable[..., Any], _types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Of torch's protocol."""
        if getattr(function, "__name__", "") in self.wanted:
            self.found.append(args)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
def test_long_products_are_summed_in_pieces(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16_sums, "ROWS", 64)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(rows, width, generator=generator).bfloat16() for width in (3, 5))
    with Calls("matmul", "__matmul__", "mm") as calls:
        found = bfloat16_sums.float32_product(left.T, right)
    torch.testing.assert_close(found, (left.double().T @ right.double()).float())
    terms = [first.shape[1] for first, _ in calls.found]
    assert (sum(terms), max(terms)) == (rows, min(rows, 64))


@pytest.mark.parametrize("exact", [True, False])
def test_the_device_is_waited_for_once_in_a_forward(drive: Drive, exact: bool) -> None:
    transformer = make_tiny_flux()
    run = drive(transformer)
    looks = "tolist", "item", "__bool__", "__float__", "__int__"
    with Calls(*looks) as plain:
        run()
    assert not plain.found
    forwards: list[object] = []
    transformer.register_forward_pre_hook(lambda *_: forwards.append(1))
    with Calls(*looks, "isfinite") as observed:
        collect_statistics(transformer, run, exact=exact)
    assert len(forwards) > 1
    assert len(observed.found) == 2 * len(forwards), "a test and a look for each forward, and no more"
    inputs = record_inputs(transformer, run, samples=8)
    with Calls("isfinite") as recorded:
        collect_recorded(transformer, inputs, 4)
    assert len(recorded.found) == 2, "the same for each batch of recorded samples"
