"""Intervals and paired tests for benchmark scores; numpy only.

The images of one prompt are alike, so the prompt, not the image, is what is resampled (cluster bootstrap), within its
stratum (GenEval task, HPS style). Two variants share prompts and seeds, so they are compared prompt by prompt.
All results are functions of their arguments: `seed` fixes the resampling.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fastflux.errors import FastFluxError

Clusters: TypeAlias = Mapping[str, Sequence[float]]
"""Scores of the samples of each prompt, by prompt id."""
Strata: TypeAlias = Mapping[str, Clusters]
"""Clusters by stratum name; a metric without strata has the one stratum ``""``."""
Weighting: TypeAlias = Literal["images", "strata"]
"""What counts once in an overall mean: every image, or every stratum (GenEval's mean of task means)."""

FloatArray: TypeAlias = npt.NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


class StatisticsError(FastFluxError):
    """Scores that no statistic can be taken of."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval; None where the data cannot give one (a single prompt, too few timings)."""

    value: float
    interval: tuple[float, float] | None

    def signed(self, spec: str) -> str:
        """A difference as text: "+1.16 [+0.83, +1.51]"."""
        bounds = "" if self.interval is None else " [{}, {}]".format(*(format(at, f"+{spec}") for at in self.interval))
        return f"{self.value:+{spec}}{bounds}"


@dataclass(frozen=True)
class StratifiedEstimate:
    """The mean of each stratum and the overall mean."""

    strata: Mapping[str, Estimate]
    overall: Estimate


@dataclass(frozen=True)
class PairedDifference:
    """Candidate minus baseline over the same prompts and seeds.

    Args:
        difference: mean difference with its bootstrap interval.
        p_value: two-sided sign-flip permutation p-value of "no difference", flipping whole prompts.
        prompts: number of prompts compared.
    """

    difference: Estimate
    p_value: float
    prompts: int


def strata_of(samples: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Sequence[float]]]:
    """Strata from the ``"<stratum>/<prompt id>"`` keys of `Measurement.samples`; a key without "/" is in ``""``."""
    strata: dict[str, dict[str, Sequence[float]]] = {}
    for key, scores in samples.items():
        stratum, _, prompt = key.rpartition("/")
        strata.setdefault(stratum, {})[prompt] = scores
    return strata


def stratified_means(
    strata: Strata, *, weighting: Weighting, seed: int, resamples: int = RESAMPLES
) -> StratifiedEstimate:
    """Means with percentile intervals of the prompt-cluster bootstrap, resampled within each stratum.

    A stratum of equal scores has an interval of no width: the bootstrap cannot see what it has not drawn.

    Raises:
        StatisticsError: no strata, an empty one, a prompt without scores, or a score that is not finite.
    """
    tables = _tables(strata)
    drawn = {name: _resampled(table, seed, name, resamples) for name, table in tables.items()}
    estimates = {
        name: Estimate(_mean(table), _percentiles(drawn[name][0] / drawn[name][1]) if len(table) > 1 else None)
        for name, table in tables.items()
    }
    if weighting == "images":
        value = _mean(np.concatenate(list(tables.values())))
        resampled = sum(sums for sums, _ in drawn.values()) / sum(counts for _, counts in drawn.values())
    else:
        value = float(np.mean([estimate.value for estimate in estimates.values()]))
        resampled = np.mean([sums / counts for sums, counts in drawn.values()], axis=0)
    known = all(estimate.interval is not None for estimate in estimates.values())
    return StratifiedEstimate(estimates, Estimate(value, _percentiles(np.asarray(resampled)) if known else None))


def mean_interval(clusters: Clusters, *, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """The mean over all images with its prompt-cluster bootstrap interval (`stratified_means` of one stratum)."""
    return stratified_means({"": clusters}, weighting="images", seed=seed, resamples=resamples).overall


def paired_difference(
    candidate: Strata, baseline: Strata, *, weighting: Weighting, seed: int, resamples: int = RESAMPLES
) -> PairedDifference:
    """How far the candidate's mean lies above the baseline's, pairing samples of the same prompt and number.

    The p-value is (1 + flips at least as extreme) / (1 + `resamples`), so it is never 0.

    Raises:
        StatisticsError: the two do not hold the same strata, prompts and numbers of samples.
    """
    if candidate.keys() != baseline.keys():
        raise StatisticsError(f"Strata {sorted(candidate)} cannot be paired with {sorted(baseline)}: score both alike.")
    differences: dict[str, dict[str, Sequence[float]]] = {}
    for name, clusters in candidate.items():
        other = baseline[name]
        if clusters.keys() != other.keys():
            unpaired = sorted(clusters.keys() ^ other.keys())
            raise StatisticsError(
                f"{len(unpaired)} prompts of {name!r} are in one variant only, e.g. {unpaired[0]!r}: score both alike."
            )
        for prompt, scores in clusters.items():
            if len(scores) != len(other[prompt]):
                raise StatisticsError(
                    f"Prompt {prompt!r} has {len(scores)} samples against {len(other[prompt])}: score both alike."
                )
        differences[name] = {
            prompt: [a - b for a, b in zip(scores, other[prompt], strict=True)] for prompt, scores in clusters.items()
        }
    estimate = stratified_means(differences, weighting=weighting, seed=seed, resamples=resamples).overall
    tables = _tables(differences)
    images = sum(float(table[:, 1].sum()) for table in tables.values())
    shares = [
        table[:, 0] / (images if weighting == "images" else table[:, 1].sum() * len(tables))
        for table in tables.values()
    ]
    terms = np.concatenate(shares)
    # The overall mean is the sum of the terms; under "no difference" each prompt's term is as likely with either sign.
    signs = np.random.default_rng([seed, 1]).integers(0, 2, size=(resamples, len(terms)), dtype=np.int8) * 2.0 - 1.0
    slack = 1e-12 * float(np.abs(terms).sum())  # rounding must not make equal sums differ
    extreme = int(np.count_nonzero(np.abs(signs @ terms) >= abs(float(terms.sum())) - slack))
    return PairedDifference(estimate, (1 + extreme) / (1 + resamples), len(terms))


def median_interval(values: Sequence[float], *, level: float = LEVEL) -> Estimate:
    """The median with the distribution-free interval between two order statistics of coverage at least `level`.

    Below 6 values no pair of order statistics covers 95%, and the interval is None.
    Source: H. A. David, H. N. Nagaraja, Order Statistics, section 7.1.

    Raises:
        StatisticsError: no values, or one that is not finite.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if ordered.size == 0 or not np.isfinite(ordered).all():
        raise StatisticsError(f"No median of {ordered.size} values, of which some may not be finite: measure again.")
    n = int(ordered.size)
    # Outside (x_k, x_{n+1-k}) lies the median with probability 2 P(Bin(n, 1/2) < k): take the largest k that allows.
    allowed, tail, rank = (1 - level) / 2, 0.0, 0
    while rank < n // 2:
        tail += math.exp(math.lgamma(n + 1) - math.lgamma(rank + 1) - math.lgamma(n - rank + 1) - n * math.log(2))
        if tail > allowed:
            break
        rank += 1
    interval = (float(ordered[rank - 1]), float(ordered[n - rank])) if rank else None
    return Estimate(float(np.median(ordered)), interval)


def median_change(
    values: Sequence[float], baseline: Sequence[float], *, seed: int, resamples: int = RESAMPLES
) -> Estimate:
    """The median of `values` by that of `baseline`, with the percentile interval of a bootstrap of both.

    Below 6 of either the interval is None, as in `median_interval`.

    Raises:
        StatisticsError: no values, or one that is not finite and above 0.
    """
    arrays = [np.asarray(series, dtype=np.float64) for series in (values, baseline)]
    if not all(array.size and np.isfinite(array).all() and (array > 0).all() for array in arrays):
        raise StatisticsError(f"No change between {len(values)} and {len(baseline)} values: expected numbers above 0.")
    value = float(np.median(arrays[0]) / np.median(arrays[1]))
    if min(array.size for array in arrays) < 6:
        return Estimate(value, None)
    generator = np.random.default_rng([seed, 2])
    drawn = [np.median(array[generator.integers(0, array.size, (resamples, array.size))], axis=1) for array in arrays]
    return Estimate(value, _percentiles(drawn[0] / drawn[1]))


def _tables(strata: Strata) -> dict[str, FloatArray]:
    """(prompts, 2) per stratum: sum and number of the prompt's scores; names and prompts sorted, so order is moot."""
    if not strata:
        raise StatisticsError("There are no scores: expected at least one stratum with one prompt.")
    tables: dict[str, FloatArray] = {}
    for name in sorted(strata):
        if not strata[name]:
            raise StatisticsError(f"Stratum {name!r} has no prompts: leave it out or score its images.")
        for prompt, scores in strata[name].items():
            if not len(scores) or not np.isfinite(scores).all():
                raise StatisticsError(f"Prompt {prompt!r} has the scores {list(scores)}: expected finite numbers.")
        rows = [(math.fsum(scores), float(len(scores))) for _, scores in sorted(strata[name].items())]
        tables[name] = np.asarray(rows, dtype=np.float64)
    return tables


def _mean(table: FloatArray) -> float:
    return math.fsum(table[:, 0]) / float(table[:, 1].sum())


def _resampled(table: FloatArray, seed: int, name: str, resamples: int) -> tuple[FloatArray, FloatArray]:
    """Sums and numbers of scores, (resamples,) each, of bootstrap draws of as many prompts as there are."""
    # A generator per stratum: adding a stratum does not move the others' intervals.
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    prompts = len(table)
    times = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(np.float64)
    sums, counts = (times @ table).T
    return sums, counts


def _percentiles(values: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
