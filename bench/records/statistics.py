"""Intervals and paired tests for benchmark scores; numpy only.

The images of one prompt are alike, so the prompt, not the image, is what is resampled (cluster bootstrap), within its
stratum (GenEval task, HPS style). Two variants share prompts and seeds, so they are compared prompt by prompt, and
their interval and p-value come from one test. All results are functions of their arguments: `seed` fixes the draws.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from bench.records.results import Measurement
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
FLIPS = 100_000
"""Random sign flips of a paired test."""
_EXACT = 17
"""Up to so many prompts all of their at most 65,536 different flips are taken."""
_ERRORS = 3
"""Nothing is decided within so many standard errors of a p-value from random flips."""


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
        difference: mean difference with its interval.
        p_value: two-sided, of a difference of `null`.
        p_error: standard error of `p_value` by the number of random flips, 0 where all were taken.
        prompts: number of prompts compared.
        null: the difference that `p_value` is of.
    """

    difference: Estimate
    p_value: float
    p_error: float
    prompts: int
    null: float = 0.0

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below `null`, else 0; just then is p below 0.05 beyond its error."""
        if self.difference.interval is None:
            return 0
        low, high = self.difference.interval
        return int(low > self.null) - int(high < self.null)

    @property
    def p_bound(self) -> float:
        """What `p_value` is at most, random flips allowed for."""
        return min(1.0, self.p_value + _ERRORS * self.p_error)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number. Source: S. Holm, Scandinavian Journal of Statistics 6 (1979), 65-70."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


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
    candidate: Sequence[Strata],
    baseline: Sequence[Strata],
    *,
    weighting: Weighting,
    seed: int,
    null: float = 0.0,
    flips: int = FLIPS,
) -> PairedDifference:
    """How far the candidate's mean lies above the baseline's, pairing samples of the same prompt and number.

    Each side is one pruning or several, of which the mean is compared. The p-value of a difference of d is that of a
    sign-flip test of whole prompts: if d were all there is between the two, each prompt's share of the rest would be as
    likely with either sign. All flips are taken for up to 17 prompts, else `flips` random ones, when p is
    (1 + flips at least as extreme) / (1 + `flips`). Where a side has k > 1 prunings, each flip also draws k - 1 of them
    anew: draws of k - 1 have just the variance of a mean of k (J. N. K. Rao, C. F. J. Wu, JASA 83 (1988), 231-241).

    The interval holds every d that this same test does not reject at 5% beyond its Monte-Carlo error (test inversion:
    P. H. Garthwaite, Biometrics 52 (1996), 1387-1393), so that interval and p-value never contradict each other. Unlike
    a percentile bootstrap the test is exact where few prompts differ: four of four in favour are no proof (p = 0.125).
    Strata that differ in their differences widen the interval: it holds at least what it says.

    Raises:
        StatisticsError: the two do not hold the same strata, prompts and numbers of samples.
    """
    sides = [[_tables(strata) for strata in side] for side in (candidate, baseline)]
    for other in (*candidate, *baseline)[1:]:
        _require_pairs(candidate[0], other)
    tables = sides[0][0]
    images = sum(float(table[:, 1].sum()) for table in tables.values())
    wholes = {
        name: images if weighting == "images" else float(table[:, 1].sum()) * len(tables)
        for name, table in tables.items()
    }
    # The overall mean is the sum of the prompts' terms; one of `weights` is how a term falls when d rises by 1.
    weights = np.concatenate([table[:, 1] / wholes[name] for name, table in tables.items()])
    terms = [
        np.array([np.concatenate([table[:, 0] / wholes[name] for name, table in one.items()]) for one in side])
        for side in sides
    ]  # (prunings, prompts) each
    means = [side.sum(axis=1) for side in terms]
    term = terms[0].mean(axis=0) - terms[1].mean(axis=0)
    value, slack = math.fsum(term), 1e-12 * float(np.abs(term).sum())  # rounding must not make equal sums differ
    several = any(len(mean) > 1 for mean in means)
    exact = len(term) <= _EXACT and not several
    codes = _all_codes(len(term)) if exact else _random_codes(-(-len(term) // 8), flips, seed)
    flipped = _flipped(term + 1j * weights, codes)
    sums, slopes = flipped.real, flipped.imag
    for place, mean in enumerate(means):
        if len(mean) > 1:
            drawn = np.random.default_rng([seed, 2 + place]).integers(0, len(mean), (len(mean) - 1, len(sums)))
            sums = sums + (mean - mean.mean())[drawn].mean(axis=0)
    # A flip is as extreme as what was found, |sum - slope d| >= |value - d|, for all d between two, one on either side.
    ends = []
    for sign in (1, -1):
        rest, gap = 1 - sign * slopes, value - sign * sums
        rest[rest < 1e-12] = 0.0
        gap[(rest == 0) & (np.abs(gap) <= slack)] = np.nan  # no flip, or all of them: as extreme for every d
        with np.errstate(divide="ignore"):
            ends.append(gap / rest)
    whole = np.isnan(ends[0]) | np.isnan(ends[1])
    lows = np.where(whole, -math.inf, np.fmin(*ends) - slack)
    highs = np.where(whole, math.inf, np.fmax(*ends) + slack)
    count, ones = len(lows), 0 if exact else 1
    p_value = (ones + int(np.count_nonzero((lows <= null) & (null <= highs)))) / (ones + count)
    error = 0.0 if exact else math.sqrt(p_value * (1 - p_value) / count)
    allowed = 1 - LEVEL - (0.0 if exact else _ERRORS * math.sqrt(LEVEL * (1 - LEVEL) / count))
    kept = math.ceil(allowed * (ones + count) - 1e-9) - ones  # flips that reach a d that is not rejected
    interval = None
    if kept > 0:
        low, high = float(np.partition(lows, kept - 1)[kept - 1]), -float(np.partition(-highs, kept - 1)[kept - 1])
        interval = (low, high) if math.isfinite(low) and math.isfinite(high) else None
    return PairedDifference(Estimate(value, interval), p_value, error, len(term), null)


def _require_pairs(candidate: Strata, baseline: Strata) -> None:
    """Raise StatisticsError unless both hold the same strata, prompts and numbers of samples."""
    if candidate.keys() != baseline.keys():
        raise StatisticsError(f"Strata {sorted(candidate)} cannot be paired with {sorted(baseline)}: score both alike.")
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


_SIGNS = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
"""(256, 8): the signs that a byte stands for."""


@lru_cache(maxsize=8)
def _random_codes(groups: int, flips: int, seed: int) -> npt.NDArray[np.uint8]:
    """(groups, flips): signs for 8 prompts in a byte."""
    return np.random.default_rng([seed, 1]).integers(0, 256, (groups, flips), dtype=np.uint8)


def _all_codes(prompts: int) -> npt.NDArray[np.uint8]:
    """(groups, 2 ** (prompts - 1)): every flip but for its opposite; the first prompt keeps its sign."""
    bits = np.arange(2 ** (prompts - 1), dtype=">u4")[:, None].view(np.uint8)  # (flips, 4), the last byte counts ones
    padded = np.unpackbits(bits, axis=1)[:, 32 - prompts :]
    return np.packbits(padded, axis=1).T


def _flipped(terms: npt.NDArray[np.complex128], codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.complex128]:
    """(flips,): the sums of the terms with the signs of the codes; a look-up for every 8 terms."""
    padded = np.zeros((len(codes), 8), dtype=np.complex128)
    padded.flat[: len(terms)] = terms
    sums = np.zeros(codes.shape[1], dtype=np.complex128)
    for table, code in zip(padded @ _SIGNS.T, codes, strict=True):
        sums += table[code]
    return sums


def median_interval(values: Sequence[float]) -> Estimate:
    """The median with the distribution-free interval between two order statistics of coverage at least `LEVEL`.

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
    allowed, tail, rank = (1 - LEVEL) / 2, 0.0, 0
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
    sums, counts = (_drawn(len(table), seed, name, resamples) @ table).T
    return sums, counts


@lru_cache(maxsize=32)  # the records of a profile share their prompts
def _drawn(prompts: int, seed: int, name: str, resamples: int) -> FloatArray:
    """(resamples, prompts): how often each prompt is drawn."""
    # A generator per stratum: adding a stratum does not move the others' intervals.
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(np.float64)


def _percentiles(values: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


SIGNIFICANT = 0.05
SEED = 0
"""Of all resampling."""


def compared(
    candidate: Sequence[Measurement],
    baseline: Sequence[Measurement],
    weighting: Weighting | None,
    stratum: str = "",
    null: float = 0.0,
) -> PairedDifference | str:
    """Candidate minus baseline over all images or those of one style or task; or the reason why there is no telling.

    Several measurements of a side are those of its prunings with different seeds.
    """
    if weighting is None:
        return f"{candidate[0].info.name} has no scores of single images"
    try:
        return _difference(*(tuple(map(_Known, side)) for side in (candidate, baseline)), weighting, stratum, null)
    except StatisticsError as error:
        return str(error)


class _Known:
    """A measurement as the key of a cache: by what it is, not by its thousands of scores."""

    def __init__(self, measurement: Measurement) -> None:
        self.measurement = measurement

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and other.measurement is self.measurement

    def __hash__(self) -> int:
        return id(self.measurement)


@lru_cache(maxsize=1024)  # several tables and claims ask for the same pair
def _difference(
    candidate: tuple[_Known, ...], baseline: tuple[_Known, ...], weighting: Weighting, stratum: str, null: float
) -> PairedDifference:
    sides = [[strata_of(known.measurement.samples) for known in side] for side in (candidate, baseline)]
    if stratum:
        sides = [[{stratum: one[stratum]} if stratum in one else {} for one in side] for side in sides]
    return paired_difference(sides[0], sides[1], weighting=weighting, seed=SEED, null=null)
