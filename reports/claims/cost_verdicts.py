"""Predicates of claims about cost, speed and the blocks' importance, beside those about scores in `verdicts`.

Counts and FLOPs have no chance in them and are compared as they are, latencies by their 95% intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean, median

import numpy as np

from bench.records.comparison import SIGNIFICANT
from bench.records.variant_id import DENSE, FASTFLUX, L1, L1_EQUAL, L1_LONG
from bench.tables import FLOPS_RATIO, LATENCY_RATIO, RATIO
from reports.claims.verdicts import NO_GROUP, Evidence, Finding, Verdict, better, together, unmeasured
from reports.compare import chance
from reports.figures.ranking import DOUBLE, SINGLE, stack_of
from reports.grouping import relative_difference
from reports.rows import Row, Value

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
