"""Streamed linear regression: moments of (x, y) are accumulated, samples are never stored.

Fits the paper's min over W, b of ||f(X) - (W X + b)||^2 (section 3.1, equation 1) from centred normal equations with a
relative ridge. Moments are kept about the running means and merged with the pairwise update of Chan, Golub and LeVeque
(https://doi.org/10.2307/2683386), so large means, as the massive activations of FLUX have, do not cancel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fastflux.errors import FastFluxError

ROWS = 4096
"""The most terms of one product's sums: see `float32_product`."""


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """As ``torch.nn.functional.cosine_similarity`` of a float32 matrix's rows and another's, in three sums.

    That divides both by their rows' sizes first: ten passes over a matrix instead of six.
    """
    one, two = (torch.linalg.vector_norm(v, dim=1, dtype=torch.float32).clamp_min(1e-8) for v in (first, second))
    found: Tensor = (first * second).sum(dim=1) / (one * two)
    return found


def float32_product(left: Tensor, right: Tensor) -> Tensor:
    """The product of two bfloat16 matrices, each entry's terms exact and summed in float32.

    At most `ROWS` terms at once: tensor cores cut off what a sum's lower bits do not hold, so that within one
    product the error grows with the terms, not with their root.
    """

    def multiply(part: slice) -> Tensor:
        if left.is_cuda:
            return torch.mm(left[:, part], right[part], out_dtype=torch.float32)
        return left[:, part].float() @ right[part].float()

    product = multiply(slice(0, ROWS))
    for start in range(ROWS, len(right), ROWS):
        product += multiply(slice(start, start + ROWS))
    return product


DEFAULT_RIDGE = 1e-6
LARGEST_RIDGE = 1e-3
"""Up to which the rounding of reduced products may raise the ridge."""


@dataclass(frozen=True)
class LinearFit:
    """``y = weight x + bias``: weight ``(outputs, features)``, bias ``(outputs,)``; ``ridge`` is the one it took."""

    weight: Tensor
    bias: Tensor
    ridge: float


@dataclass
class LinearStatistics:
    """Moments of paired samples x ``(features,)`` and y ``(outputs,)``.

    ``xx`` ``(features, features)``, ``xy`` ``(features, outputs)`` and ``yy`` (a scalar, the trace) are sums over the
    samples of centred products, of which the matrices may be kept in a smaller dtype than the rest; ``mean_x`` and
    ``mean_y`` are the means; ``count`` is the number of samples.
    ``cosine`` is the sum of the cosines between x and x + y, a block's input and output where y is its residual; 0
    where x and y differ in size.
    """

    count: int
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor
    cosine: Tensor

    @classmethod
    def empty(
        cls,
        features: int,
        outputs: int,
        *,
        dtype: torch.dtype = torch.float64,
        products: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Statistics of no samples; ``products`` is the dtype of ``xx`` and ``xy``, ``dtype`` unless given."""

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        square, cross = (zeros(features, size, dtype=products or dtype) for size in (features, outputs))
        return cls(0, zeros(features), zeros(outputs), square, cross, zeros(), zeros())

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> None:
        """Add samples x ``(..., features)`` and y ``(..., outputs)``, in place."""
        if x.shape[:-1] != y.shape[:-1]:
            raise ValueError(
                f"x and y pair sample by sample, but their shapes are {tuple(x.shape)} and {tuple(y.shape)}"
            )
        x = x.reshape(-1, x.shape[-1]).to(self.mean_x)  # (samples, features)
        y = y.reshape(-1, y.shape[-1]).to(self.mean_x)  # (samples, outputs)
        if len(x) == 0:
            return
        if x.shape == y.shape:
            self.cosine += torch.nn.functional.cosine_similarity(x, x + y).sum()
        mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
        x, y = x - mean_x, y - mean_y
        self.yy += y.square().sum()
        x, y = x.to(self.xx), y.to(self.xx)
        self.xx.addmm_(x.T, x)
        self.xy.addmm_(x.T, y)
        self._shift(len(x), mean_x, mean_y)

    @torch.no_grad()
    def update_in_bfloat16(self, x: Tensor, output: Tensor) -> None:
        """As ``update(x, output - x)``, with the products of centred values rounded to bfloat16, summed in float32.

        Tensor cores do this in a fraction of the time that float64 takes. Rounding adds noise of at most 2^-18 / 3 of
        each feature's own variance to the diagonal of ``xx``, about as much as the default ridge. Sums of some hundred
        batches that are kept in float32 lose less, of thousands more: `solve` sees to that. Means, sizes and cosines
        are taken of what is not rounded, in float32. Large means do not matter: they go before the rounding.
        """
        x, output = (values.reshape(-1, values.shape[-1]) for values in (x, output))  # (samples, features)
        if len(x) == 0:
            return
        if x.element_size() > 2:
            x, output = x.float(), output.float()
        # Written so that a GPU reads and writes the samples as seldom as it can: in sums and differences it widens
        # bfloat16 as it reads, but a sum in float64 makes a copy of all first.
        wide = x.float()
        self.cosine += cosines(wide, output).sum(dtype=self.cosine.dtype)
        y = output - wide
        mean_x, mean_y = wide.mean(dim=0), y.mean(dim=0)
        y -= mean_y
        self.yy += torch.linalg.vector_norm(y, dim=1).to(self.yy).square().sum()
        rounded_x = torch.sub(x, mean_x, out=torch.empty_like(x, dtype=torch.bfloat16))
        rounded_y = y.bfloat16()
        self.xx += float32_product(rounded_x.T, rounded_x)
        self.xy += float32_product(rounded_x.T, rounded_y)
        mean_x, mean_y = mean_x.to(self.mean_x), mean_y.to(self.mean_y)
        self._shift(len(x), mean_x, mean_y)

    @torch.no_grad()
    def merge(self, other: "LinearStatistics") -> "LinearStatistics":
        """The statistics of both sets of samples; neither operand changes."""
        both = LinearStatistics(
            self.count,
            self.mean_x.clone(),
            self.mean_y.clone(),
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
            self.cosine + other.cosine,
        )
        if other.count:
            both._shift(other.count, other.mean_x, other.mean_y)
        return both

    def _shift(self, count: int, mean_x: Tensor, mean_y: Tensor) -> None:
        """Account for the distance between the means of the samples so far and of ``count`` more."""
        total = self.count + count
        shift_x, shift_y = mean_x - self.mean_x, mean_y - self.mean_y
        weight = self.count * count / total
        first, second = shift_x.to(self.xx), shift_y.to(self.xx)
        self.xx.addr_(first, first, alpha=weight)
        self.xy.addr_(first, second, alpha=weight)
        self.yy += weight * shift_y.square().sum()
        self.mean_x += shift_x * (count / total)
        self.mean_y += shift_y * (count / total)
        self.count = total

    @torch.no_grad()
    def solve(self, ridge: float = DEFAULT_RIDGE) -> LinearFit:
        """The least-squares fit of y on x with bias.

        ``ridge`` is relative to the mean variance of the features; it settles constant features (weight 0) and fewer
        samples than features. Where the products are kept in a smaller dtype, their rounding can outweigh it, as in
        what enters FLUX's first block (64 latent channels in 3072 features): there it is raised tenfold, up to
        `LARGEST_RIDGE`, until the rounding makes up at most half of it, starting from the dtype's precision for a ridge
        of 0. The fit tells the ridge that it took. Raises ``FastFluxError`` for no samples, samples that are not
        finite, a negative ridge, or normal equations that stay singular (then the ridge is too small).
        """
        if ridge < 0:
            raise FastFluxError(f"The ridge is {ridge}, but it must not be negative: use for example {DEFAULT_RIDGE}.")
        self._require_samples()
        xx, xy = self._products()
        scale = float(xx.diagonal().mean())
        if scale == 0:  # every feature is constant: the bias is all there is to fit
            return LinearFit(torch.zeros_like(xy.T), self.mean_y.clone(), ridge)
        reduced = self.xx.dtype != self.mean_x.dtype
        for step in _ridges(ridge, torch.finfo(self.xx.dtype).eps) if reduced else (ridge,):
            # With half the ridge to spare, no direction is amplified more than twice for what rounding took from it.
            if reduced and _cholesky(xx, step / 2 * scale) is None:
                continue
            factor = _cholesky(xx, step * scale)
            if factor is not None:
                weight = torch.cholesky_solve(xy, factor).T
                return LinearFit(weight, self.mean_y - weight @ self.mean_x, step)
        raise FastFluxError(
            f"The normal equations of {self.count} samples in {len(xx)} dimensions are singular at ridge {step}: "
            f"raise the ridge (for example to {max(DEFAULT_RIDGE, 10 * step):g}) or calibrate on more prompts."
        )

    @torch.no_grad()
    def squared_error(self, fit: LinearFit) -> float:
        """Sum over the samples of ||y - weight x - bias||^2, never below 0."""
        self._require_samples()
        xx, xy = self._products()
        weight = fit.weight.to(xx)
        offset = self.mean_y - weight @ self.mean_x - fit.bias.to(xx)
        centred = self.yy - 2 * (weight.T * xy).sum() + (weight @ xx * weight).sum()
        return max(0.0, float(centred + self.count * offset.square().sum()))

    def r2(self, fit: LinearFit) -> float:
        """The share of y's variance that the fit explains; 1 when y is constant and met, at most 1."""
        error, total = self.squared_error(fit), float(self.yy)
        return (
            1.0 - error / total
            if total > 0
            else float(error == 0 or error <= 1e-12 * float(self.mean_y.square().sum()))
        )

    def relative_output_error(self, fit: LinearFit) -> float:
        """Squared error over the centred energy of x + y: the error of a block's output where y is its residual.

        Needs as many outputs as features.
        """
        energy = float(self.xx.trace() + 2 * self.xy.trace() + self.yy)
        error = self.squared_error(fit)
        return error / energy if energy > 0 else error

    def influence(self) -> float:
        """1 - the mean cosine between x and x + y: ShortGPT's block influence (arXiv 2403.03853)."""
        self._require_samples()
        return 1.0 - float(self.cosine) / self.count

    def _products(self) -> tuple[Tensor, Tensor]:
        """``xx`` and ``xy`` in the dtype that everything else is worked out in."""
        return self.xx.to(self.mean_x.dtype), self.xy.to(self.mean_x.dtype)

    def _require_samples(self) -> None:
        if self.count == 0:
            raise FastFluxError("There are no samples to fit: run the calibration on at least one prompt.")
        if not all(bool(torch.isfinite(moment).all()) for moment in (self.xx, self.xy, self.yy)):
            raise FastFluxError("The calibration met values that are not finite: check the model's weights and dtype.")


def _ridges(asked: float, precision: float) -> Iterator[float]:
    """The ridge asked for, or the precision instead of 0, and tenfold ones up to `LARGEST_RIDGE`."""
    ridge = asked or precision
    yield ridge
    while (ridge := float(f"{10 * ridge:.6g}")) <= LARGEST_RIDGE:  # 1e-05, not 9.999999999999999e-06
        yield ridge


def _cholesky(matrix: Tensor, damping: float) -> Tensor | None:
    """The factor of a float64 matrix with ``damping`` added to its diagonal; None where that is singular."""
    damped = matrix.clone()
    damped.diagonal().add_(damping)
    factor, info = torch.linalg.cholesky_ex(damped)
    # A feature that the others determine leaves nothing of its variance, or rounding errors.
    left = factor.diagonal().square() / damped.diagonal()
    sound = info.item() == 0 and float(left.min()) >= 100 * len(matrix) * torch.finfo(torch.float64).eps
    return factor if sound else None
