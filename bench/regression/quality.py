"""Quality: whether scores are worse than those of the same prompts and seeds, beyond tolerance and chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.records.results import Measurement, RunRecord
from bench.records.statistics import StatisticsError, Weighting, paired_difference, strata_of
from bench.regression.baseline import Snapshot
from bench.regression.check import SEED, Check, Outcome, Tolerances, measured_pair, record_pairs
from bench.regression.exit import NotComparableError

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class _Score:
    """An image metric as the suite compares it: the value, what counts once in it, and its number format."""

    metric: str
    value: str
    name: str
    weighting: Weighting
    spec: str


SCORES = (
    _Score("hps", "averaged", "HPS averaged", "images", ".2f"),
    _Score("geneval", "overall", "GenEval overall", "strata", ".3f"),
    _Score("clip_score", "mean", "CLIP score", "images", ".2f"),
)


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
        _score_check(score, old, new, getattr(tolerances, score.metric))
        for old, new in record_pairs(baseline, now)
        for score in SCORES
        if old.measurement(score.metric) is not None or new.measurement(score.metric) is not None
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


def _score_check(score: _Score, old: RunRecord, new: RunRecord, tolerance: float) -> tuple[Check, _Bounds | None]:
    pair = measured_pair(old, new, score.metric)
    empty = Check("quality", new.variant, score.name, "not compared", "", "", "", f"-{tolerance:g}")
    if isinstance(pair, str):
        return replace(empty, reason=pair), None
    _require_one_scorer(*pair)
    texts = [format(measurement.values[score.value], score.spec) for measurement in pair]
    shown = replace(empty, baseline=texts[0], now=texts[1])
    try:
        strata = [strata_of(measurement.samples) for measurement in pair]
        paired = paired_difference(strata[1], strata[0], weighting=score.weighting, seed=SEED)
    except StatisticsError as error:
        return replace(shown, reason=str(error)), None
    value, interval, spec = paired.difference.value, paired.difference.interval, score.spec
    bounds = "" if interval is None else f" [{interval[0]:+{spec}}, {interval[1]:+{spec}}]"
    change = f"{value:+{spec}}{bounds}, {paired.prompts} prompts"
    low = None if interval is None else interval[0]
    return replace(shown, change=change, p_value=paired.p_value), _Bounds(value, low, tolerance, paired.prompts)


def _require_one_scorer(old: Measurement, new: Measurement) -> None:
    """Raise NotComparableError when what both say of their scorer differs, such as its weights."""
    differing = [
        f"{key} ({old.settings[key]} there, {new.settings[key]} here)"
        for key in sorted(old.settings.keys() & new.settings.keys())
        if old.settings[key] != new.settings[key]
    ]
    if differing:
        raise NotComparableError(
            f"{old.info.name} of the baseline was scored by something else: {'; '.join(differing)}. Go back to what "
            "scored there, or make a new one with --update."
        )


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
