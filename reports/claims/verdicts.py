"""How a claim is decided: predicates over records, each giving a verdict, the figures it rests on and a sentence.

A score is compared prompt by prompt (`reports.compare`); only a difference with two-sided p < 0.05 counts as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from bench.tables import BY_LATENCY, BY_NUMBER, HPS, RATIO
from reports.compare import Comparison, compare
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

    The figures are of the value `key` of these `variants`; none where they come from no record.
    """

    verdict: Verdict
    figures: str
    sentence: str
    key: str = ""
    variants: tuple[str, ...] = ()


Check: TypeAlias = Callable[[Evidence], Finding]

_HPS = HPS.key
_NO_GROUP = "no FastFLUX and L1-norm variant of similar latency"
_BETTER: Mapping[int, Verdict] = {1: "reproduced", 0: "inconclusive", -1: "not reproduced"}
_AT_LEAST: Mapping[int, Verdict] = {1: "reproduced", 0: "reproduced", -1: "not reproduced"}
_ALIKE: Mapping[int, Verdict] = {1: "not reproduced", 0: "reproduced", -1: "not reproduced"}
#: A difference of less than this share of the baseline's score counts as none, for "not lower" and "about as good".
MARGIN = 0.05
_SENTENCES = {1: "Significantly higher.", 0: "No significant difference.", -1: "Significantly lower."}


def unmeasured(reason: str) -> Finding:
    """The finding where something that the claim needs is missing."""
    return Finding("not measured", "", f"{reason[:1].upper()}{reason[1:]}.")


def better(candidate: str, baseline: str, key: str = _HPS) -> Check:
    """The candidate's score is significantly higher; a significantly lower one is the contrary."""
    return _judged(candidate, baseline, key, _BETTER)


def at_least(candidate: str, baseline: str, key: str = _HPS) -> Check:
    """The candidate's score is not significantly lower, and the interval excludes a loss beyond the `MARGIN`."""
    return _judged(candidate, baseline, key, _AT_LEAST)


def alike(candidate: str, baseline: str, key: str = _HPS) -> Check:
    """The two scores do not differ significantly, and the interval lies within the `MARGIN`."""
    return _judged(candidate, baseline, key, _ALIKE)


def keeps(candidate: str, baseline: str, share: float, key: str = _HPS) -> Check:
    """The candidate keeps at least the `share` of the baseline's score; the interval of the difference decides."""

    def check(evidence: Evidence) -> Finding:
        found = _compared(candidate, baseline, key, evidence)
        if isinstance(found, str):
            return unmeasured(found)
        whole = found.baseline.number(key) or 0.0
        if found.interval is None or whole <= 0:
            sentence = "The difference has no interval to hold a share against."
            return _of(found, Finding("inconclusive", found.figures, sentence))
        figures = f"{found.figures}: {1 + found.difference / whole:.1%} kept"
        limit = (share - 1) * whole
        if found.interval[0] >= limit:
            return _of(found, Finding("reproduced", figures, f"At least {share:.1%} is kept."))
        if found.interval[1] < limit:
            return _of(found, Finding("not reproduced", figures, f"Less than {share:.1%} is kept."))
        return _of(found, Finding("inconclusive", figures, f"The interval holds {share:.1%}."))

    return check


def every(*checks: Check) -> Check:
    """All of them hold. One contrary finding is enough against the claim."""

    def check(evidence: Evidence) -> Finding:
        return _together([part(evidence) for part in checks], "comparisons")

    return check


def better_in_every_group(key: str) -> Check:
    """FastFLUX's score is significantly higher than the L1-norm variant's in every latency group."""
    return in_every_group(lambda ours, theirs: _verdict(compare(ours, theirs, key), _BETTER))


def in_every_group(compared: Callable[[Row, Row], Finding]) -> Check:
    """What `compared` says of FastFLUX's and the L1-norm variant's row holds in every latency group."""

    def check(evidence: Evidence) -> Finding:
        pairs = latency_groups(evidence.rows, evidence.tolerance)
        if not pairs:
            return unmeasured(_NO_GROUP)
        found = [compared(evidence.rows[pair.candidate], evidence.rows[pair.baseline]) for pair in pairs]
        return _together(found, "groups")

    return check


def latency_groups(rows: Mapping[str, Row], tolerance: float = DEFAULT_TOLERANCE) -> tuple[LatencyPair, ...]:
    """The pairs made for equal latency where all of them met it, else those of similar latency as in Table 1."""
    measured = [row for row in rows.values() if row.number(RATIO) is not None]
    made = pairs_of(measured, BY_NUMBER).pairs
    if made and all(pair.difference is not None and pair.difference <= tolerance for pair in made):
        return made
    return pairs_of(measured, BY_LATENCY, tolerance).pairs


def _judged(candidate: str, baseline: str, key: str, verdicts: Mapping[int, Verdict]) -> Check:
    def check(evidence: Evidence) -> Finding:
        return _verdict(_compared(candidate, baseline, key, evidence), verdicts)

    return check


def _verdict(found: Comparison | str, verdicts: Mapping[int, Verdict]) -> Finding:
    if isinstance(found, str):
        return unmeasured(found)
    verdict = verdicts[found.sign]
    if found.sign == 0 and verdict == "reproduced" and not _small(found, both=verdicts is _ALIKE):
        sentence = f"Too few prompts to exclude a change of {MARGIN:.0%}."
        return _of(found, Finding("inconclusive", found.figures, sentence))
    return _of(found, Finding(verdict, found.figures, _SENTENCES[found.sign]))


def _of(compared: Comparison, finding: Finding) -> Finding:
    """The finding with what it was compared from."""
    return replace(finding, key=compared.key, variants=(compared.candidate.variant, compared.baseline.variant))


def _small(found: Comparison, *, both: bool) -> bool:
    """Whether the interval excludes a loss beyond the margin, with `both` a gain beyond it too."""
    limit = MARGIN * abs(found.baseline.number(found.key) or 0.0)
    return found.interval is not None and found.interval[0] >= -limit and (not both or found.interval[1] <= limit)


def _compared(candidate: str, baseline: str, key: str, evidence: Evidence) -> Comparison | str:
    missing = [variant for variant in (candidate, baseline) if variant not in evidence.rows]
    if missing:
        return f"no record of {' and '.join(missing)}"
    return compare(evidence.rows[candidate], evidence.rows[baseline], key)


def _together(findings: Sequence[Finding], what: str) -> Finding:
    """One finding of many: against the claim if one is, open if one is, for it if all are."""
    if len(findings) == 1:
        return findings[0]
    verdicts = [finding.verdict for finding in findings]
    order: tuple[Verdict, ...] = ("not reproduced", "not measured", "inconclusive", "reproduced")
    verdict = next(verdict for verdict in order if verdict in verdicts)
    figures = "; ".join(finding.figures for finding in findings if finding.figures)
    gaps = dict.fromkeys(finding.sentence for finding in findings if finding.verdict == "not measured")
    held = [f"Holds in {verdicts.count('reproduced')} of {len(findings)} {what}."] if figures else []
    key = next((finding.key for finding in findings if finding.key), "")
    variants = tuple(dict.fromkeys(variant for finding in findings for variant in finding.variants))
    return Finding(verdict, figures, " ".join([*held, *gaps]), key, variants)
