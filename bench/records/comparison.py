"""Two records compared: the scores of the same prompts and seeds, their difference with its interval and p-value."""

from __future__ import annotations

from functools import lru_cache

from bench.records.results import Measurement
from bench.records.statistics import PairedDifference, StatisticsError, Weighting, paired_difference, strata_of

SIGNIFICANT = 0.05
SEED = 0
"""Of all resampling."""


def compared(
    candidate: Measurement, baseline: Measurement, weighting: Weighting | None, stratum: str = ""
) -> PairedDifference | str:
    """Candidate minus baseline over all images or those of one style or task; or the reason why there is no telling."""
    if weighting is None:
        return f"{candidate.info.name} has no scores of single images"
    try:
        return _difference(_Known(candidate), _Known(baseline), weighting, stratum)
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
def _difference(candidate: _Known, baseline: _Known, weighting: Weighting, stratum: str) -> PairedDifference:
    strata = [strata_of(known.measurement.samples) for known in (candidate, baseline)]
    if stratum:
        strata = [{stratum: found[stratum]} if stratum in found else {} for found in strata]
    return paired_difference(strata[0], strata[1], weighting=weighting, seed=SEED)
