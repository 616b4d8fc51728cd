"""How a claim is decided: predicates over records, each giving a verdict, the figures it rests on and a sentence.

A score is compared prompt by prompt over all prunings of both sides (`reports.grouping`). Every predicate holds the
interval of the difference against two limits, of which one bears the claim out and the other contradicts it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean, median
from typing import Literal, TypeAlias

import numpy as np

from bench.metrics.catalogue import metric_named
from bench.records.statistics import SIGNIFICANT
from bench.records.variant_id import DENSE, FASTFLUX, L1, L1_EQUAL, L1_LONG
from bench.tables import BY_LATENCY, BY_NUMBER, FLOPS_RATIO, HPS, LATENCY_RATIO, RATIO
from reports.figures.ranking import DOUBLE, SINGLE, Ranking, stack_of
from reports.grouping import (
    DEFAULT_TOLERANCE,
    LatencyPair,
    chance,
    compare,
    pairs_of,
    prunings,
    relative_difference,
    told,
)
from reports.rows import Row, Value

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


_FLOPS, _LATENCY = FLOPS_RATIO.key, LATENCY_RATIO.key
_SECONDS = "pruning_cost.seconds"
_TRAIN = 3
"""Forwards that training a block once on a sample costs: one, and a backward pass of twice its arithmetic."""


def cheaper_training(evidence: Evidence) -> Finding:
    """Sandwich Training against L1-norm pruning at equal samples seen and at equal seconds, at every ratio.

    At equal samples, work and seconds for each sample seen are lower, the calibration's forwards included; the budgets
    that a profile chose do not enter. At equal seconds, HPS is higher than that of the L1-norm variant of similar
    latency with the least seconds that are not fewer than ours.
    """
    found: list[Finding] = []
    for ours in (row for row in evidence.rows.values() if row.family == FASTFLUX):
        rivals = [row for row in evidence.rows.values() if _rival(row, ours, evidence.tolerance)]
        if gaps := [text for row in (ours, *rivals) if rivals and isinstance(text := _cost(row), str)]:
            return unmeasured(gaps[0])
        if not rivals:
            continue
        costs = {row.variant: cost for row in (ours, *rivals) if not isinstance(cost := _cost(row), str)}
        own, variants = costs[ours.variant], tuple(costs)
        dearer = any(costs[row.variant].work <= own.work or costs[row.variant].rate <= own.rate for row in rivals)
        least = _Cost(*(min(getattr(costs[row.variant], of) for row in rivals) for of in ("work", "rate", "seconds")))
        figures = f"{ours.label} {own} against {least} of L1-norm variants of similar latency"
        verdict: Verdict
        verdict, sentence = ("not reproduced", "Not less a sample.") if dearer else ("reproduced", "Less a sample.")
        found.append(Finding(verdict, figures, sentence, _SECONDS, variants))
        longer = [row for row in rivals if costs[row.variant].seconds >= own.seconds]
        if not longer:
            text = f"no L1-norm variant of its latency took the {own.seconds:.0f} s of {ours.label}"
            found.append(Finding("inconclusive", text, "Open at equal seconds.", _SECONDS, variants))
            continue
        rival = min(longer, key=lambda row: costs[row.variant].seconds)
        held = better(ours.variant, rival.variant)(evidence)
        if held.figures:
            held = replace(
                held, figures=f"in {own.seconds:.0f} and {costs[rival.variant].seconds:.0f} s {held.figures}"
            )
        found.append(replace(held, key=_SECONDS))
    return together(found, "comparisons") if found else unmeasured(NO_GROUP)


@dataclass(frozen=True)
class _Cost:
    """Forwards of blocks and seconds for each sample seen in training, and all seconds."""

    work: float
    rate: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.work:.0f} blocks and {1e3 * self.rate:.1f} ms a sample"


def _rival(row: Row, ours: Row, tolerance: float) -> bool:
    latencies = row.number(RATIO), ours.number(RATIO)
    if row.family not in (L1, L1_EQUAL, L1_LONG) or None in latencies:
        return False
    return relative_difference(latencies[0] or 1.0, latencies[1] or 1.0) <= tolerance


def _cost(row: Row) -> _Cost | str:
    """The costs, or the reason why they are not known."""
    keys = ("block_trainings", "block_forwards", "training_steps", "seconds")
    values = [row.value(f"pruning_cost.{key}") for key in keys]
    if gaps := [value.note for value in values if value.value is None]:
        return f"{row.label}: {gaps[0]}"
    trainings, forwards, steps, seconds = (value.value or 0.0 for value in values)
    samples = steps * (row.number("plan.batch") or 0.0)
    if not samples:
        return f"{row.label}: nothing was trained, or its plan names no batch"
    return _Cost((_TRAIN * trainings + forwards) / samples, seconds / samples, seconds)


def falls_with_ratio(evidence: Evidence) -> Finding:
    """FLOPs and latency fall from dense through FastFLUX's ratios; latency intervals that overlap leave it open."""
    rows = [row for row in evidence.rows.values() if row.variant == DENSE or row.family == FASTFLUX]
    rows.sort(key=lambda row: row.number("plan.ratio") or 0.0)
    if len(rows) < 3:
        return unmeasured("fewer than three ratios")
    for row in rows:
        for key in (_FLOPS, _LATENCY):
            if row.number(key) is None:
                return unmeasured(f"{row.label}: {row.value(key).note}")
    figures = f"FLOPs {_percents(rows, _FLOPS)}; latency {_percents(rows, _LATENCY)} of dense"
    flops = [row.number(_FLOPS) or 0.0 for row in rows]
    steps = list(pairwise(_bounds(row.value(_LATENCY)) for row in rows))
    heavier = sum(later >= earlier for earlier, later in pairwise(flops))
    slower = sum(later[0] > earlier[1] for earlier, later in steps)
    faster = sum(later[1] < earlier[0] for earlier, later in steps)
    variants = tuple(row.variant for row in rows)
    if heavier or slower:
        sentence = f"FLOPs do not fall at {heavier}, latency rises at {slower} of {len(steps)} steps."
        return Finding("not reproduced", figures, sentence, _LATENCY, variants)
    if faster < len(steps):
        apart = len(steps) - faster
        sentence = f"The intervals of latency overlap at {apart} of {len(steps)} steps."
        return Finding("inconclusive", figures, sentence, _LATENCY, variants)
    return Finding("reproduced", figures, f"Both fall at each of {len(steps)} steps.", _LATENCY, variants)


def few_blocks_matter(evidence: Evidence) -> Finding:
    """At most a tenth of the blocks in the upper half of the range of importance, the median in its lowest quarter."""
    if evidence.ranking is None:
        return unmeasured(evidence.ranking_gap)
    scores = [float(entry["importance"]) for entry in evidence.ranking.blocks]
    low, width = min(scores), max(scores) - min(scores)
    if not width:
        return unmeasured("all blocks have the same importance")
    places = [(score - low) / width for score in scores]
    high, middle = sum(place > 0.5 for place in places), median(places)
    figures = f"{high} of {len(places)} blocks in the upper half of the range, the median at {middle:.0%} of it"
    if high <= len(places) / 10 and middle <= 0.25:
        return Finding("reproduced", figures, "Few stand out.")
    return Finding("not reproduced", figures, "Importance is spread over many.")


def double_blocks_matter_more(evidence: Evidence) -> Finding:
    """Double blocks stand later in the order of importance than single ones, by the rank-sum test."""
    if evidence.ranking is None:
        return unmeasured(evidence.ranking_gap)
    stacks = [stack_of(entry) for entry in evidence.ranking.blocks]
    if {DOUBLE, SINGLE} - set(stacks):
        return unmeasured("the model has one kind of blocks")
    doubles = [place for place, stack in enumerate(stacks, 1) if stack == DOUBLE]
    singles = [place for place, stack in enumerate(stacks, 1) if stack == SINGLE]
    p_value = _rank_sum_p(doubles, len(stacks))
    figures = (
        f"mean place {mean(doubles):.1f} of {len(stacks)} for {len(doubles)} double blocks, {mean(singles):.1f} for "
        f"{len(singles)} single ones, {chance(p_value)}"
    )
    if p_value >= SIGNIFICANT:
        return Finding("inconclusive", figures, "No significant difference.", p_value=p_value)
    if mean(doubles) > mean(singles):
        return Finding("reproduced", figures, "Double blocks matter more.", p_value=p_value)
    return Finding("not reproduced", figures, "Double blocks matter less.", p_value=p_value)


def _rank_sum_p(chosen: Sequence[int], total: int) -> float:
    """Two-sided exact p-value of the sum of the `chosen` places out of 1 to `total`, all choices as likely.

    Source: F. Wilcoxon, Biometrics Bulletin 1 (1945), 80-83.
    """
    most = total * (total + 1) // 2
    ways = np.zeros((len(chosen) + 1, most + 1))  # by how many were chosen, and their sum
    ways[0, 0] = 1.0
    for place in range(1, total + 1):
        ways[1:, place:] += ways[:-1, : most + 1 - place].copy()
    shares = ways[-1] / ways[-1].sum()
    expected = len(chosen) * (total + 1) / 2
    apart = np.abs(np.arange(most + 1) - expected)
    return float(shares[apart >= abs(sum(chosen) - expected)].sum())


def _bounds(value: Value) -> tuple[float, float]:
    at = value.value or 0.0
    return value.interval or (at, at)


def _percents(rows: Sequence[Row], key: str) -> str:
    return ", ".join(f"{row.number(key) or 0.0:.1%}" for row in rows)
