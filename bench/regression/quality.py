"""Quality: whether scores are worse than those of the same prompts and seeds, beyond tolerance and chance."""

from dataclasses import replace

from bench.metrics.catalogue import Metric, metric_named
from bench.records.comparison import SIGNIFICANT, compared
from bench.records.results import Measurement, RunRecord
from bench.records.statistics import PairedDifference, holm
from bench.regression.baseline import NoVerdictError, Snapshot
from bench.regression.check import Check, Outcome, Tolerances, measured_pair, record_pairs

#: The scores with a tolerance.
SCORES = tuple(map(metric_named, ("hps", "geneval", "clip_score")))


def quality_checks(baseline: Snapshot, now: Snapshot, tolerances: Tolerances) -> list[Check]:
    """Worse only if beyond the tolerance and significant among all quality checks; pairs share prompt and seed."""
    found = [
        (getattr(tolerances, score.name), *_compared(score, old, new, getattr(tolerances, score.name)))
        for old, new in record_pairs(baseline, now)
        for score in SCORES
        if old.measurement(score.name) is not None or new.measurement(score.name) is not None
    ]
    corrected = iter(holm([paired.p_bound for _, _, paired in found if paired is not None]))
    return [
        check if paired is None else _decided(check, paired, tolerance, next(corrected))
        for tolerance, check, paired in found
    ]


def _compared(score: Metric, old: RunRecord, new: RunRecord, tolerance: float) -> tuple[Check, PairedDifference | None]:
    """The check without its verdict, and what decides it where the two can be compared."""
    pair = measured_pair(old, new, score.name)
    empty = Check("quality", new.variant, score.title, "not compared", "", "", "", f"-{tolerance:g}")
    if isinstance(pair, str):
        return replace(empty, reason=pair), None
    _require_one_scorer(*pair)
    texts = [format(measurement.values[score.headline], score.spec) for measurement in pair]
    shown = replace(empty, baseline=texts[0], now=texts[1])
    paired = compared(pair[1:], pair[:1], score.weighting)
    if isinstance(paired, str):
        return replace(shown, reason=paired), None
    return replace(shown, change=f"{paired.difference.signed(score.spec)}, {paired.prompts} prompts"), paired


def _require_one_scorer(old: Measurement, new: Measurement) -> None:
    """Raise NoVerdictError when what both say of their scorer differs, such as its weights."""
    differing = [
        f"{key} ({old.settings[key]} there, {new.settings[key]} here)"
        for key in sorted(old.settings.keys() & new.settings.keys())
        if old.settings[key] != new.settings[key]
    ]
    if differing:
        raise NoVerdictError(
            f"{old.info.name} of the baseline was scored by something else: {'; '.join(differing)}. Go back to what "
            "scored there, or make a new one with --update."
        )


def _decided(check: Check, paired: PairedDifference, tolerance: float, p_value: float) -> Check:
    """The check with its verdict and its corrected p-value."""
    change, significant = paired.difference, p_value < SIGNIFICANT
    outcome: Outcome = "passed"
    reason = ""
    if change.value < -tolerance:
        outcome = "regressed" if significant else "undecided"
        reason = "" if significant else f"beyond the tolerance, but {paired.prompts} prompts are too few to be sure"
    elif change.value > tolerance and significant:
        outcome = "improved"
    elif change.interval is None or change.interval[0] < -2 * tolerance:
        outcome = "undecided"
        reason = f"{paired.prompts} prompts are too few: they leave a loss of twice the tolerance possible"
    return replace(check, outcome=outcome, p_value=p_value, reason=reason)
