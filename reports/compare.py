"""Two variants prompt by prompt: the difference of their scores, its interval and its p-value, from their records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.metrics.catalogue import metrics
from bench.records.comparison import SIGNIFICANT, compared

if TYPE_CHECKING:
    from bench.metrics.catalogue import Metric
    from bench.records.results import Measurement, RunRecord
    from bench.records.statistics import Estimate
    from reports.rows import Row


@dataclass(frozen=True)
class Comparison:
    """Candidate minus baseline over the same prompts and seeds, with its 95% interval and two-sided p-value."""

    candidate: Row
    baseline: Row
    key: str
    estimate: Estimate
    p_value: float

    @property
    def difference(self) -> float:
        """The mean difference."""
        return self.estimate.value

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95% interval."""
        return self.estimate.interval

    @property
    def sign(self) -> int:
        """1 or -1 where the candidate is significantly higher or lower (two-sided p < 0.05), else 0."""
        if self.p_value >= SIGNIFICANT or not self.difference:
            return 0
        return 1 if self.difference > 0 else -1

    @property
    def change(self) -> str:
        """The difference as text: "+1.16 [+0.83, +1.51], p < 0.001"."""
        return f"{self.estimate.signed(_scores(self.key).spec)}, {chance(self.p_value)}"

    @property
    def figures(self) -> str:
        """Both scores and their difference as text."""
        spec = _scores(self.key).spec
        ours, theirs = (f"{row.label} {row.number(self.key):{spec}}" for row in (self.candidate, self.baseline))
        return f"{ours} against {theirs}: {self.change}"


def chance(p_value: float) -> str:
    """A p-value as text."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def comparable(row: Row, key: str) -> bool:
    """Whether the row holds the scores of single images behind this value."""
    found = metrics().get(key.partition(".")[0])
    return found is not None and found.weighting is not None and not isinstance(_scored(row, key), str)


def compare(candidate: Row, baseline: Row, key: str) -> Comparison | str:
    """The paired comparison of the score `key`, or the reason why there is none.

    "hps.averaged" is compared over all prompts, "hps.photo" over those of its style.

    Raises KeyError for a key of a metric without scores of single images.
    """
    metric = _scores(key)
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
    paired = compared(first, second, metric.weighting, "" if key == metric.key else key.partition(".")[2])
    if isinstance(paired, str):
        return f"{candidate.label} and {baseline.label} cannot be paired: {paired}"
    return Comparison(candidate, baseline, key, paired.difference, paired.p_value)


def _scores(key: str) -> Metric:
    metric = metrics()[key.partition(".")[0]]
    if metric.weighting is None:
        raise KeyError(key)
    return metric


def _scored(row: Row, key: str) -> tuple[Measurement, RunRecord] | str:
    metric = key.partition(".")[0]
    value = row.value(key)
    if value.value is None:
        return f"{row.label}: {value.note}"
    measurement = row.measurements.get(metric)
    if row.record is None or measurement is None or not measurement.samples:
        return f"{row.label}: {metric} has no scores of single images"
    return measurement, row.record
