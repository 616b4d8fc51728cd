"""Two variants prompt by prompt: the difference of their scores, its interval and its p-value, from their records."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from bench.records.statistics import StatisticsError, paired_difference, strata_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.records.results import Measurement, RunRecord
    from bench.records.statistics import PairedDifference, Weighting
    from reports.rows import Row

#: The metrics with a score for each image: their value over all, what counts once in it, and the number format. Their
#: other values are those of one stratum (style or task) each.
_SCORES: Mapping[str, tuple[str, Weighting, str]] = {
    "hps": ("averaged", "images", ".2f"),
    "geneval": ("overall", "strata", ".3f"),
    "clip_score": ("mean", "images", ".2f"),
}
_SEED = 0
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison:
    """Candidate minus baseline over the same prompts and seeds, with its 95% interval and two-sided p-value."""

    candidate: Row
    baseline: Row
    key: str
    difference: float
    interval: tuple[float, float] | None
    p_value: float

    @property
    def sign(self) -> int:
        """1 or -1 where the candidate is significantly higher or lower (two-sided p < 0.05), else 0."""
        if self.p_value >= SIGNIFICANT or not self.difference:
            return 0
        return 1 if self.difference > 0 else -1

    @property
    def _spec(self) -> str:
        return _SCORES[self.key.partition(".")[0]][2]

    @property
    def change(self) -> str:
        """The difference as text: "+1.16 [+0.83, +1.51], p < 0.001"."""
        spec = self._spec
        bounds = "" if self.interval is None else " [{}, {}]".format(*(format(at, f"+{spec}") for at in self.interval))
        return f"{self.difference:+{spec}}{bounds}, {chance(self.p_value)}"

    @property
    def figures(self) -> str:
        """Both scores and their difference as text."""
        spec = self._spec
        ours, theirs = (f"{row.label} {row.number(self.key):{spec}}" for row in (self.candidate, self.baseline))
        return f"{ours} against {theirs}: {self.change}"


def chance(p_value: float) -> str:
    """A p-value as text."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def comparable(row: Row, key: str) -> bool:
    """Whether the row holds the scores of single images behind this value."""
    return key.partition(".")[0] in _SCORES and not isinstance(_scored(row, key), str)


def compare(candidate: Row, baseline: Row, key: str) -> Comparison | str:
    """The paired comparison of the score `key`, or the reason why there is none.

    "hps.averaged" is compared over all prompts, "hps.photo" over those of its style.

    Raises KeyError for a key of a metric without scores of single images.
    """
    metric, _, name = key.partition(".")
    whole, weighting, _ = _SCORES[metric]
    found = []
    for row in (candidate, baseline):
        scored = _scored(row, key)
        if isinstance(scored, str):
            return scored
        found.append(scored)
    (first, ours), (second, theirs) = found
    if ours.sampling != theirs.sampling:
        return f"{candidate.label} and {baseline.label} were sampled differently"
    if first.settings != second.settings:
        differing = ", ".join(
            key
            for key in sorted({*first.settings, *second.settings})
            if first.settings.get(key) != second.settings.get(key)
        )
        return f"{candidate.label} and {baseline.label} were scored differently ({differing})"
    try:
        paired = _difference(_Known(first), _Known(second), "" if name == whole else name, weighting)
    except StatisticsError as error:
        return f"{candidate.label} and {baseline.label} cannot be paired: {error}"
    estimate = paired.difference
    return Comparison(candidate, baseline, key, estimate.value, estimate.interval, paired.p_value)


class _Known:
    """A measurement as the key of a cache: by what it is, not by its thousands of scores."""

    def __init__(self, measurement: Measurement) -> None:
        self.measurement = measurement

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and other.measurement is self.measurement

    def __hash__(self) -> int:
        return id(self.measurement)


@lru_cache(maxsize=1024)  # several tables and claims ask for the same pair
def _difference(candidate: _Known, baseline: _Known, name: str, weighting: Weighting) -> PairedDifference:
    """The paired difference over one stratum, or over all with the name ""."""
    strata = [strata_of(known.measurement.samples) for known in (candidate, baseline)]
    if name:
        strata = [{name: stratum[name]} if name in stratum else {} for stratum in strata]
    return paired_difference(strata[0], strata[1], weighting=weighting, seed=_SEED)


def _scored(row: Row, key: str) -> tuple[Measurement, RunRecord] | str:
    metric = key.partition(".")[0]
    value = row.value(key)
    if value.value is None:
        return f"{row.label}: {value.note}"
    measurement = None if row.record is None else row.record.measurement(metric)
    if row.record is None or measurement is None or not measurement.samples:
        return f"{row.label}: {metric} has no scores of single images"
    return measurement, row.record
