"""Predicates of claims about cost, speed and the blocks' importance, beside those about scores in `verdicts`.

Counts and FLOPs have no chance in them and are compared as they are, latencies by their 95% intervals.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from statistics import mean, median

from bench.records.comparison import SIGNIFICANT
from bench.records.variant_id import DENSE, FASTFLUX
from bench.tables import FLOPS_RATIO, LATENCY_RATIO, TRAINED
from reports.claims.verdicts import Evidence, Finding, unmeasured
from reports.compare import chance
from reports.figures.ranking import DOUBLE, SINGLE, stack_of
from reports.rows import Row, Value

_SHUFFLES = 2000
_COSTS = ((TRAINED.key, "trained at once"), ("pruning_cost.block_trainings", "block trainings"))
_FLOPS, _LATENCY = FLOPS_RATIO.key, LATENCY_RATIO.key


def cheaper(ours: Row, theirs: Row) -> Finding:
    """Ours trains fewer parameters at once and fewer blocks x samples: counts that do not hang on a machine."""
    for row in (ours, theirs):
        for key, _ in _COSTS:
            if row.number(key) is None:
                return unmeasured(f"{row.label}: {row.value(key).note}")
    holds = all((ours.number(key) or 0.0) < (theirs.number(key) or 0.0) for key, _ in _COSTS)
    sentence = "Both are lower." if holds else "Not both are lower."
    figures, variants = f"{_costs(ours)} against {_costs(theirs)}", (ours.variant, theirs.variant)
    return Finding("reproduced" if holds else "not reproduced", figures, sentence, _COSTS[0][0], variants)


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
    """Double blocks stand later in the order of importance than single ones, by a permutation test of the places."""
    if evidence.ranking is None:
        return unmeasured(evidence.ranking_gap)
    stacks = [stack_of(entry) for entry in evidence.ranking.blocks]
    if {DOUBLE, SINGLE} - set(stacks):
        return unmeasured("the model has one kind of blocks")
    doubles = [place for place, stack in enumerate(stacks, 1) if stack == DOUBLE]
    singles = [place for place, stack in enumerate(stacks, 1) if stack == SINGLE]
    p_value = _shuffled(doubles, singles)
    figures = (
        f"mean place {mean(doubles):.1f} of {len(stacks)} for {len(doubles)} double blocks, {mean(singles):.1f} for "
        f"{len(singles)} single ones, {chance(p_value)}"
    )
    if p_value >= SIGNIFICANT:
        return Finding("inconclusive", figures, "No significant difference.")
    if mean(doubles) > mean(singles):
        return Finding("reproduced", figures, "Double blocks matter more.")
    return Finding("not reproduced", figures, "Double blocks matter less.")


def _shuffled(chosen: Sequence[int], rest: Sequence[int]) -> float:
    """Two-sided permutation p-value of the mean of `chosen` among draws of as many from both; never 0."""
    generator = random.Random(0)  # noqa: S311  # a permutation test keeps no secret
    places = [*chosen, *rest]
    expected = mean(places)
    seen = abs(mean(chosen) - expected) - 1e-9  # rounding must not make equal means differ
    extreme = sum(abs(mean(generator.sample(places, len(chosen))) - expected) >= seen for _ in range(_SHUFFLES))
    return (1 + extreme) / (1 + _SHUFFLES)


def _costs(row: Row) -> str:
    return f"{row.label} " + ", ".join(f"{(row.number(key) or 0.0) / 1e3:,.0f} k {name}" for key, name in _COSTS)


def _bounds(value: Value) -> tuple[float, float]:
    at = value.value or 0.0
    return value.interval or (at, at)


def _percents(rows: Sequence[Row], key: str) -> str:
    return ", ".join(f"{row.number(key) or 0.0:.1%}" for row in rows)
