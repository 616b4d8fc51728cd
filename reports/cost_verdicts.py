"""Predicates of claims about cost, speed and the blocks' importance, beside those about scores in `reports.verdicts`."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import mean, median
from typing import TYPE_CHECKING

from reports.ranking import DOUBLE, SINGLE, stack_of
from reports.rows import DENSE, FASTFLUX
from reports.verdicts import NO_GROUP, Finding, latency_groups, unmeasured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reports.rows import Row, Value
    from reports.verdicts import Evidence

_SHUFFLES = 2000
_COSTS = (("pruning_cost.trainable_parameters", "trained at once"), ("pruning_cost.block_trainings", "block trainings"))


@dataclass(frozen=True)
class CheaperInEveryGroup:
    """FastFLUX trains fewer parameters at once and fewer blocks x samples than L1-norm pruning, in every latency group.

    Both are counts that do not hang on a machine; seconds do.
    """

    def __call__(self, evidence: Evidence) -> Finding:
        pairs = latency_groups(evidence.rows)
        if not pairs:
            return unmeasured(NO_GROUP)
        held, texts = 0, []
        for pair in pairs:
            members = evidence.rows[pair.candidate], evidence.rows[pair.baseline]
            costs = [[row.number(key) for key, _ in _COSTS] for row in members]
            for row, numbers in zip(members, costs, strict=True):
                if None in numbers:
                    return unmeasured(f"{row.label}: {row.value(_COSTS[numbers.index(None)][0]).note}")
            ours, theirs = ([number or 0.0 for number in numbers] for numbers in costs)
            held += all(our < their for our, their in zip(ours, theirs, strict=True))
            texts.append(f"{members[0].label} {_costs(ours)} against {members[1].label} {_costs(theirs)}")
        sentence = f"Cheaper in {held} of {len(pairs)} groups."
        return Finding("reproduced" if held == len(pairs) else "not reproduced", "; ".join(texts), sentence)


@dataclass(frozen=True)
class FallsWithRatio:
    """FLOPs and latency fall from dense to every higher ratio of FastFLUX; overlapping latency intervals leave it open."""

    def __call__(self, evidence: Evidence) -> Finding:
        rows = [row for row in evidence.rows.values() if row.variant == DENSE or row.family == FASTFLUX]
        rows.sort(key=lambda row: row.number("plan.ratio") or 0.0)
        if len(rows) < 3:
            return unmeasured("fewer than three ratios")
        for row in rows:
            for key in ("flops.ratio_to_dense", "latency.ratio_to_dense"):
                if row.number(key) is None:
                    return unmeasured(f"{row.label}: {row.value(key).note}")
        flops = [row.number("flops.ratio_to_dense") or 0.0 for row in rows]
        bounds = [_bounds(row.value("latency.ratio_to_dense")) for row in rows]
        figures = f"FLOPs {_percents(rows, 'flops')}; latency {_percents(rows, 'latency')} of dense"
        steps = list(zip(bounds, bounds[1:], strict=False))
        rises = sum(later >= earlier for earlier, later in zip(flops, flops[1:], strict=False))
        slower = sum(later[0] > earlier[1] for earlier, later in steps)
        unclear = sum(later[1] >= earlier[0] for earlier, later in steps) - slower
        if rises or slower:
            return Finding("not reproduced", figures, f"{rises} steps raise FLOPs, {slower} latency.")
        if unclear:
            return Finding("inconclusive", figures, f"Latency intervals overlap at {unclear} of {len(steps)} steps.")
        return Finding("reproduced", figures, f"Both fall at each of {len(steps)} steps.")


@dataclass(frozen=True)
class FewBlocksMatter:
    """At most a tenth of the blocks lie in the upper half of the range of importance, and half of them in its lowest
    quarter."""

    def __call__(self, evidence: Evidence) -> Finding:
        if evidence.ranking is None:
            return unmeasured(evidence.ranking_gap)
        scores = [float(entry["importance"]) for entry in evidence.ranking.blocks]
        low, width = min(scores), max(scores) - min(scores)
        if not width:
            return unmeasured("all blocks have the same importance")
        places = [(score - low) / width for score in scores]
        high, middle = sum(place > 0.5 for place in places), median(places)
        holds = high <= len(places) / 10 and middle <= 0.25
        figures = f"{high} of {len(places)} blocks in the upper half of the range, the median at {middle:.0%} of it"
        return Finding(
            "reproduced" if holds else "not reproduced", figures,
            "Few stand out." if holds else "Importance is spread over many.",
        )  # fmt: skip


@dataclass(frozen=True)
class DoubleMatterMore:
    """Double blocks stand later in the order of importance than single ones, by a permutation test of the places."""

    def __call__(self, evidence: Evidence) -> Finding:
        if evidence.ranking is None:
            return unmeasured(evidence.ranking_gap)
        stacks = [stack_of(entry) for entry in evidence.ranking.blocks]
        if {DOUBLE, SINGLE} - set(stacks):
            return unmeasured("the model has one kind of blocks")
        places = list(range(1, len(stacks) + 1))
        doubles = [place for place, stack in zip(places, stacks, strict=True) if stack == DOUBLE]
        rest = [place for place, stack in zip(places, stacks, strict=True) if stack != DOUBLE]
        p_value = _shuffled(doubles, places)
        later = mean(doubles) > mean(rest)
        figures = (
            f"mean place {mean(doubles):.1f} of {len(places)} for {len(doubles)} double blocks, {mean(rest):.1f} for "
            f"{len(rest)} single ones, " + ("p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}")
        )
        if p_value >= 0.05:
            return Finding("inconclusive", figures, "No significant difference.")
        return Finding(
            "reproduced" if later else "not reproduced", figures,
            f"Double blocks matter {'more' if later else 'less'}.",
        )  # fmt: skip


def _shuffled(chosen: Sequence[int], places: Sequence[int]) -> float:
    """Two-sided p-value of the mean of `chosen` among as many drawn from `places`; never 0."""
    generator = random.Random(0)  # noqa: S311  # a permutation test keeps no secret
    expected = mean(places)
    seen = abs(mean(chosen) - expected) - 1e-9
    extreme = sum(abs(mean(generator.sample(places, len(chosen))) - expected) >= seen for _ in range(_SHUFFLES))
    return (1 + extreme) / (1 + _SHUFFLES)


def _costs(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number / 1e3:,.0f} k {name}" for number, (_, name) in zip(numbers, _COSTS, strict=True))


def _bounds(value: Value) -> tuple[float, float]:
    at = value.value or 0.0
    return value.interval or (at, at)


def _percents(rows: Sequence[Row], metric: str) -> str:
    return ", ".join(f"{row.number(f'{metric}.ratio_to_dense') or 0.0:.1%}" for row in rows)
