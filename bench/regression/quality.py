"""Quality: whether scores are worse than those of the same prompts and seeds, beyond tolerance and chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.metrics.catalogue import Metric, metric_named
from bench.records.comparison import SIGNIFICANT, compared
from bench.records.results import RunRecord
from bench.regression.baseline import Snapshot
from bench.regression.check import Check, Outcome, Tolerances, measured_pair, record_pairs

#: The scores with a tolerance.
SCORES = tuple(map(metric_named, ("hps", "geneval", "clip_score")))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number. Source: S. Holm, Scandinavian Journal of Statistics 6 (1979), 65-70."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def quality_checks(baseline: Snapshot, now: Snapshot, tolerances: Tolerances) -> list[Check]:
    """Worse only if beyond the tolerance and significant among all quality checks; pairs share prompt and seed."""
    found = [
        _score_check(score, old, new, getattr(tolerances, score.name))
        for old, new in record_pairs(baseline, now)
        for score in SCORES
        if old.measurement(score.name) is not None or new.measurement(score.name) is not None
    ]
    tested = [index for index, (check, _) in enumerate(found) if check.p_value is not None]
    corrected = dict(zip(tested, holm([found[index][0].p_value or 0.0 for index in tested]), strict=True))
    return [_decided(check, bounds, corrected.get(index)) for index, (check, bounds) in enumerate(found)]


@dataclass(frozen=True)
class _Bounds:
    """Of a score: difference, the interval's lower end (None without one), tolerance and prompts."""

    difference: float
    low: float | None
    tolerance: float
    prompts: int


def _score_check(score: Metric, old: RunRecord, new: RunRecord, tolerance: float) -> tuple[Check, _Bounds | None]:
    pair = measured_pair(old, new, score.name)
    empty = Check("quality", new.variant, score.title, "not compared", "", "", "", f"-{tolerance:g}")
    if isinstance(pair, str):
        return replace(empty, reason=pair), None
    texts = [format(measurement.values[score.headline], score.spec) for measurement in pair]
    shown = replace(empty, baseline=texts[0], now=texts[1])
    paired = compared(pair[1], pair[0], score.weighting)
    if isinstance(paired, str):
        return replace(shown, reason=paired), None
    change = f"{paired.difference.signed(score.spec)}, {paired.prompts} prompts"
    value, interval = paired.difference.value, paired.difference.interval
    low = None if interval is None else interval[0]
    return replace(shown, change=change, p_value=paired.p_value), _Bounds(value, low, tolerance, paired.prompts)


def _decided(check: Check, bounds: _Bounds | None, p_value: float | None) -> Check:
    """The check with its verdict and its corrected p-value."""
    if bounds is None or p_value is None:
        return check
    significant = p_value < SIGNIFICANT
    outcome: Outcome = "passed"
    reason = ""
    if bounds.difference < -bounds.tolerance:
        outcome = "regressed" if significant else "undecided"
        reason = "" if significant else f"beyond the tolerance, but {bounds.prompts} prompts are too few to be sure"
    elif bounds.difference > bounds.tolerance and significant:
        outcome = "improved"
    elif bounds.low is None or bounds.low < -2 * bounds.tolerance:
        outcome = "undecided"
        reason = f"{bounds.prompts} prompts are too few: they leave a loss of twice the tolerance possible"
    return replace(check, outcome=outcome, p_value=p_value, reason=reason)
