"""How a claim is decided: predicates over records, each giving a verdict, the figures it rests on and a sentence.

A score is compared prompt by prompt (`reports.comparison`); only a difference with two-sided p < 0.05 counts as one.
Counts and FLOPs have no chance in them and are compared as they are, latencies by their 95% intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from reports.comparison import Comparison, compare
from reports.grouping import DEFAULT_TOLERANCE, LatencyPair, pair_by_latency, pair_by_number
from reports.rows import FASTFLUX, L1, L1_EQUAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reports.ranking import Ranking
    from reports.rows import Row

Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not measured"]
_FORMATS = {"hps.averaged": ".2f", "geneval.overall": ".3f", "clip_score.mean": ".2f"}


@dataclass(frozen=True)
class Evidence:
    """What claims are held against: the rows by variant and, where there is one, the ranking of the same weights."""

    rows: Mapping[str, Row]
    ranking: Ranking | None = None
    ranking_gap: str = "no ranking of the blocks"


@dataclass(frozen=True)
class Finding:
    """A verdict, the measured figures that decided it and a short sentence."""

    verdict: Verdict
    figures: str
    sentence: str


Check: TypeAlias = Callable[[Evidence], Finding]


def unmeasured(reason: str) -> Finding:
    """The finding where something that the claim needs is missing."""
    return Finding("not measured", "", f"{reason[:1].upper()}{reason[1:]}.")


@dataclass(frozen=True)
class Better:
    """The candidate's score is significantly higher; a significantly lower one is the contrary."""

    candidate: str
    baseline: str
    key: str = "hps.averaged"

    def __call__(self, evidence: Evidence) -> Finding:
        return _judged(self, evidence, {1: "reproduced", 0: "inconclusive", -1: "not reproduced"})


@dataclass(frozen=True)
class AtLeast:
    """The candidate's score is not significantly lower."""

    candidate: str
    baseline: str
    key: str = "hps.averaged"

    def __call__(self, evidence: Evidence) -> Finding:
        return _judged(self, evidence, {1: "reproduced", 0: "reproduced", -1: "not reproduced"})


@dataclass(frozen=True)
class Alike:
    """The two scores do not differ significantly."""

    candidate: str
    baseline: str
    key: str = "hps.averaged"

    def __call__(self, evidence: Evidence) -> Finding:
        return _judged(self, evidence, {1: "not reproduced", 0: "reproduced", -1: "not reproduced"})


@dataclass(frozen=True)
class Keeps:
    """The candidate keeps at least the `share` of the baseline's score; the interval of the difference decides."""

    candidate: str
    baseline: str
    share: float
    key: str = "hps.averaged"

    def __call__(self, evidence: Evidence) -> Finding:
        found = _compared(self.candidate, self.baseline, self.key, evidence)
        if isinstance(found, str):
            return unmeasured(found)
        whole = found.baseline.number(self.key) or 0.0
        limit = (self.share - 1) * whole
        figures = f"{_figures(found)}: {1 + found.difference / whole:.1%} kept" if whole > 0 else _figures(found)
        if found.interval is None or whole <= 0:
            return Finding("inconclusive", figures, "The difference has no interval.")
        if found.interval[0] >= limit:
            return Finding("reproduced", figures, f"At least {self.share:.1%} is kept.")
        if found.interval[1] < limit:
            return Finding("not reproduced", figures, f"Less than {self.share:.1%} is kept.")
        return Finding("inconclusive", figures, f"The interval holds {self.share:.1%}.")


@dataclass(frozen=True)
class Every:
    """All parts hold. One contrary part is enough against the claim."""

    parts: tuple[Check, ...]

    def __call__(self, evidence: Evidence) -> Finding:
        return _together([part(evidence) for part in self.parts])


@dataclass(frozen=True)
class BetterInEveryGroup:
    """FastFLUX's score is significantly higher than the L1-norm variant's in every latency group."""

    key: str

    def __call__(self, evidence: Evidence) -> Finding:
        pairs = latency_groups(evidence.rows)
        if not pairs:
            return unmeasured(NO_GROUP)
        return _together([Better(pair.candidate, pair.baseline, self.key)(evidence) for pair in pairs], "groups")


NO_GROUP = "no FastFLUX and L1-norm variant of similar latency"


def latency_groups(rows: Mapping[str, Row]) -> tuple[LatencyPair, ...]:
    """The pairs made for equal latency where they were measured, else those of similar latency as in Table 1."""

    def latencies(family: str) -> dict[str, float | None]:
        chosen = {row.variant: row.number("latency.ratio_to_dense") for row in rows.values() if row.family == family}
        return {variant: latency for variant, latency in chosen.items() if latency is not None}

    made = pair_by_number(latencies(L1_EQUAL), latencies(FASTFLUX)).pairs
    equal = tuple(pair for pair in made if pair.difference is not None and pair.difference <= DEFAULT_TOLERANCE)
    return equal or pair_by_latency(latencies(L1), latencies(FASTFLUX)).pairs


def _compared(candidate: str, baseline: str, key: str, evidence: Evidence) -> Comparison | str:
    missing = [variant for variant in (candidate, baseline) if variant not in evidence.rows]
    if missing:
        return f"no record of {' and '.join(missing)}"
    return compare(evidence.rows[candidate], evidence.rows[baseline], key)


def _judged(check: Better | AtLeast | Alike, evidence: Evidence, verdicts: Mapping[int, Verdict]) -> Finding:
    found = _compared(check.candidate, check.baseline, check.key, evidence)
    if isinstance(found, str):
        return unmeasured(found)
    sentences = {
        1: "Significantly higher.",
        0: "No significant difference.",
        -1: "Significantly lower.",
    }
    return Finding(verdicts[found.sign], _figures(found), sentences[found.sign])


def _figures(found: Comparison) -> str:
    spec = _FORMATS[found.key]
    values = [f"{row.label} {row.number(found.key):{spec}}" for row in (found.candidate, found.baseline)]
    bounds = "" if found.interval is None else " [{}, {}]".format(*(format(at, f"+{spec}") for at in found.interval))
    chance = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.3f}"
    return f"{values[0]} against {values[1]}: {found.difference:+{spec}}{bounds}, {chance}"


def _together(findings: Sequence[Finding], what: str = "comparisons") -> Finding:
    """One finding of many: against the claim if one is, open if one is, for it if all are."""
    if len(findings) == 1:
        return findings[0]
    verdicts = [finding.verdict for finding in findings]
    order: tuple[Verdict, ...] = ("not reproduced", "not measured", "inconclusive", "reproduced")
    verdict = next(verdict for verdict in order if verdict in verdicts)
    figures = "; ".join(finding.figures for finding in findings if finding.figures)
    held = verdicts.count("reproduced")
    sentence = f"Holds in {held} of {len(findings)} {what}."
    gaps = [finding.sentence for finding in findings if finding.verdict == "not measured"]
    return Finding(verdict, figures, " ".join([sentence, *dict.fromkeys(gaps)]))
