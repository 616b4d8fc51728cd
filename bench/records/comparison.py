"""Two records compared: the scores of the same prompts and seeds, their difference with its interval and p-value."""

from collections.abc import Sequence
from functools import lru_cache

from bench.records.results import Measurement
from bench.records.statistics import PairedDifference, StatisticsError, Weighting, paired_difference, strata_of

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
