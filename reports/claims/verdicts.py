"""How a claim is decided: predicates over records, each giving a verdict, the figures it rests on and a sentence.

A score is compared prompt by prompt over all prunings of both sides (`reports.compare`). Every predicate holds the
interval of the difference against two limits, of which one bears the claim out and the other contradicts it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from bench.metrics.catalogue import metric_named
from bench.tables import BY_LATENCY, BY_NUMBER, HPS, RATIO
from reports.compare import compare, prunings, told
from reports.figures.ranking import Ranking
from reports.grouping import DEFAULT_TOLERANCE, LatencyPair, pairs_of
from reports.rows import Row

Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not measured"]


@dataclass(frozen=True)
class Evidence:
    """What claims are held against: the rows by variant and, where there is one, the ranking of the same weights."""

    rows: Mapping[str, Row]
    ranking: Ranking | None = None
    ranking_gap: str = "no ranking of the blocks"
    tolerance: float = DEFAULT_TOLERANCE


@dataclass(frozen=True)
class Finding:
    """A verdict, the measured figures that decided it and a short sentence.

    The figures are of the value `key` of these `variants`; none where they come from no record. `p_value` is that of
    the limit that decided, None where no test did; `compared` names the comparisons behind it.
    """

    verdict: Verdict
    figures: str
    sentence: str
    key: str = ""
    variants: tuple[str, ...] = ()
    p_value: float | None = None
    compared: tuple[str, ...] = ()


Check: TypeAlias = Callable[[Evidence], Finding]

_HPS = HPS.key
NO_GROUP = "no FastFLUX and L1-norm variant of similar latency"
#: The share of the baseline's score below which a difference counts as none, in all claims alike. The paper itself
#: calls 28.19 against 28.32, 0.46% less, stable.
MARGIN = 0.005
_INF = math.inf


@dataclass(frozen=True)
class Limits:
    """What an interval of a difference, as shares of the baseline's score, says of a claim.

    It bears the claim out above `low` and below `high`, and contradicts it below `under` or above `over`. The sentences
    tell the two.
    """

    low: float
    under: float
    yes: str
    no: str
    high: float = _INF
    over: float = _INF


def unmeasured(reason: str) -> Finding:
    """The finding where something that the claim needs is missing."""
    return Finding("not measured", "", f"{reason[:1].upper()}{reason[1:]}.")


def better(candidate: str, baseline: str, key: str = _HPS, effect: float = MARGIN) -> Check:
    """The candidate's score is higher; contrary when the interval excludes the paper's `effect`, a share.

    Where the paper gives none it is the margin: so the candidate is better, or the baseline `at_least` as good.
    """
    return _held(candidate, baseline, key, _better(effect))


def at_least(candidate: str, baseline: str, key: str = _HPS) -> Check:
    """The interval excludes a loss beyond the `MARGIN`; contrary when it does not, and the candidate is lower."""
    return _held(candidate, baseline, key, Limits(-MARGIN, 0.0, "Within the margin.", "Lower."))


def alike(candidate: str, baseline: str, key: str = _HPS) -> Check:
    """The interval lies within the `MARGIN` on both sides; contrary when it does not, and the two differ."""
    return _held(candidate, baseline, key, Limits(-MARGIN, 0.0, "Within the margin.", "They differ.", MARGIN, 0.0))


def keeps(candidate: str, baseline: str, share: float, key: str = _HPS) -> Check:
    """The candidate keeps at least the `share` of the baseline's score."""
    told_by = (f"At least {share:.1%} is kept.", f"Less than {share:.1%} is kept.")
    return _held(candidate, baseline, key, Limits(share - 1, share - 1, *told_by))


def every(*checks: Check) -> Check:
    """All of them hold. One contrary finding is enough against the claim."""

    def check(evidence: Evidence) -> Finding:
        return together([part(evidence) for part in checks], "comparisons")

    return check


def better_in_every_group(key: str, effect: float = MARGIN) -> Check:
    """FastFLUX's score is higher than the L1-norm variant's in every latency group."""

    def check(evidence: Evidence) -> Finding:
        pairs = latency_groups(evidence.rows, evidence.tolerance)
        if not pairs:
            return unmeasured(NO_GROUP)
        limits = _better(effect)
        found = [_held(pair.candidate, pair.baseline, key, limits)(evidence) for pair in pairs]
        return together(found, "groups")

    return check


def latency_groups(rows: Mapping[str, Row], tolerance: float = DEFAULT_TOLERANCE) -> tuple[LatencyPair, ...]:
    """The pairs made for equal latency where all of them met it, else those of similar latency as in Table 1."""
    measured = [row for row in rows.values() if row.number(RATIO) is not None]
    made = pairs_of(measured, BY_NUMBER).pairs
    if made and all(pair.difference is not None and pair.difference <= tolerance for pair in made):
        return made
    return pairs_of(measured, BY_LATENCY, tolerance).pairs


def _better(effect: float) -> Limits:
    whose = "" if effect == MARGIN else "the paper's "
    return Limits(0.0, effect, "Higher.", f"Not better by {whose}{effect:.1%}.")


def _held(candidate: str, baseline: str, key: str, limits: Limits) -> Check:
    def check(evidence: Evidence) -> Finding:
        missing = [variant for variant in (candidate, baseline) if variant not in evidence.rows]
        if missing:
            return unmeasured(f"no record of {' and '.join(missing)}")
        sides = [prunings(evidence.rows[name], evidence.rows.values(), key) for name in (candidate, baseline)]
        found = compare(sides[0], sides[1], key)
        if isinstance(found, str):
            return unmeasured(found)

        def p_of(*shares: float) -> float:
            at = [compare(sides[0], sides[1], key, share * whole) for share in shares if abs(share) < _INF]
            return max(one.paired.p_bound for one in at if not isinstance(one, str))

        whole = abs(found.whole) or 1.0
        low, high = (bound / whole for bound in found.paired.difference.interval or (-_INF, _INF))
        holds, contrary = limits.low < low and high < limits.high, high < limits.under or low > limits.over
        verdict: Verdict = "reproduced" if holds else "not reproduced" if contrary else "inconclusive"
        sentence = " ".join([limits.yes] * holds + [limits.no] * contrary) or "Open."  # both: higher, but by less
        if contrary and not holds:
            p_value = p_of(limits.under if high < limits.under else limits.over)
        else:
            p_value = p_of(limits.low, limits.high)
        share = f" ({found.paired.difference.value / whole:+.1%})"
        names = f"{told(sides[0])} against {told(sides[1])}, {metric_named(key.partition('.')[0]).title}"
        return Finding(verdict, found.figures + share, sentence, key, found.variants, p_value, (names,))

    return check


def together(findings: Sequence[Finding], what: str) -> Finding:
    """One finding of many: against the claim if one is, open if one is, for it if all are."""
    if len(findings) == 1:
        return findings[0]
    verdicts = [finding.verdict for finding in findings]
    order: tuple[Verdict, ...] = ("not reproduced", "not measured", "inconclusive", "reproduced")
    verdict = next(verdict for verdict in order if verdict in verdicts)
    tested = [one.p_value for one in findings if one.p_value is not None and one.verdict == verdict]
    # All must hold for the claim, and the largest p is that of all; against it any one is enough, as if of so many.
    p_value = max(tested, default=None)
    if tested and verdict == "not reproduced":
        p_value = min(1.0, len(findings) * min(tested))
    figures = "; ".join(
        f"{one.figures}: {one.sentence[:1].lower()}{one.sentence[1:-1]}" for one in findings if one.figures
    )
    gaps = dict.fromkeys(finding.sentence for finding in findings if finding.verdict == "not measured")
    held = [f"Holds in {verdicts.count('reproduced')} of {len(findings)} {what}."] if figures else []
    key = next((finding.key for finding in findings if finding.key), "")
    variants, names = (
        tuple(dict.fromkeys(name for finding in findings for name in getattr(finding, of)))
        for of in ("variants", "compared")
    )
    return Finding(verdict, figures, " ".join([*held, *gaps]), key, variants, p_value, names)
