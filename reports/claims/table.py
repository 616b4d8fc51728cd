"""The claims of the paper, each with the predicate that decides it and the paper's own figures; a table of verdicts.

Adding one is one `Claim` in `CLAIMS`. What the predicates mean stands in `reports.claims.verdicts` and
`reports.claims.verdicts`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.records.statistics import SIGNIFICANT, holm
from bench.records.variant_id import DENSE
from bench.tables import CLIP, GENEVAL, HPS, SCORES, TABLES
from reports.claims.verdicts import (
    MARGIN,
    Check,
    Evidence,
    Finding,
    Verdict,
    alike,
    at_least,
    better,
    better_in_every_group,
    cheaper_training,
    double_blocks_matter_more,
    every,
    falls_with_ratio,
    few_blocks_matter,
    keeps,
)
from reports.figures.ranking import Ranking
from reports.grouping import DEFAULT_TOLERANCE, TEST, chance
from reports.rows import Row
from reports.table import Cell, Group, Header, Table
from reports.tables import model_name, profile_label


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper: its topic and text, where it stands with which figures, and what decides it."""

    topic: str
    text: str
    source: str
    figures: str
    check: Check


_QUALITY, _L1, _PARTS, _BLOCKS, _OTHER = (
    "Quality and speed", "Against L1-norm pruning", "What each part does", "Blocks", "Other architectures",
)  # fmt: skip

CLAIMS = (
    Claim(
        _QUALITY, f"FastFLUX-10% preserves the dense model's quality: its HPS is not lower by {MARGIN:.1%}",
        "section 4.2, Table 1", "28.58 against 28.32", at_least("fastflux-10", DENSE),
    ),
    Claim(
        _QUALITY, "FastFLUX-10% outperforms the dense model on HPS", "section 4.2, Table 1", "28.58 against 28.32",
        better("fastflux-10", DENSE, effect=28.58 / 28.32 - 1),
    ),
    Claim(
        _QUALITY, f"HPS stays stable up to 15%: it is not lower by {MARGIN:.1%} at 5, 10 and 15%",
        "section 4.3, Table 6", "28.23, 28.58 and 28.19 against 28.32",
        every(*(at_least(f"fastflux-{ratio}", DENSE) for ratio in ("05", "10", "15"))),
    ),
    Claim(
        _QUALITY, "Quality stays high with 20% pruned: as much of the dense HPS is kept as in the paper",
        "abstract, Table 1", "27.76 against 28.32: 98.0% kept", keeps("fastflux-20", DENSE, round(27.76 / 28.32, 3)),
    ),
    Claim(
        _QUALITY, "FLOPs and latency fall with the ratio", "section 4.3, Table 6",
        "FLOPs (its count of MACs, which falls unevenly) to 76.9% and 98.26 to 72.30 ms at 30%", falls_with_ratio,
    ),
    Claim(
        _L1, "FastFLUX has the higher HPS in each latency group", "section 4.2, Table 1",
        "28.58 against 28.20; 28.19 against 27.84; 27.76 against 27.17",
        better_in_every_group(HPS.key, 28.58 / 28.20 - 1),
    ),
    Claim(
        _L1, "FastFLUX has the higher GenEval in each latency group", "section 4.2, Table 2",
        "0.60 against 0.60; 0.57 against 0.55; 0.53 against 0.47", better_in_every_group(GENEVAL.key),
    ),
    Claim(
        _L1,
        "Sandwich Training costs less than the global fine-tuning that L1-norm pruning needs, at equal samples and at "
        "equal seconds",
        "section 4.2", "no figures", cheaper_training,
    ),
    Claim(
        _PARTS, "Linear layers are better than direct removal, both with Sandwich Training", "section 4.3, Figure 6",
        "28.58 against 28.25", better("fastflux-10", "removal_st-10", effect=28.58 / 28.25 - 1),
    ),
    Claim(
        _PARTS, "Linear layers are better than direct removal, both without training", "section 4.4, Figure 9",
        "no figures", better("brll-10", "removal-10"),
    ),
    Claim(
        _PARTS, "Sandwich Training is better than linear layers alone", "section 4.3, Table 4", "28.58 against 27.99",
        better("fastflux-10", "brll-10", effect=28.58 / 27.99 - 1),
    ),
    Claim(
        _PARTS, "Sandwiches of 3 layers are better than of 1", "section 4.3, Figure 7", "0.59 higher",
        better("fastflux-10", "layers1-10", effect=28.58 / 27.99 - 1),
    ),
    Claim(
        _PARTS, f"Sandwiches of 5 layers are about as good as of 3, to within {MARGIN:.1%}",
        "section 4.3, Figure 7", "0.03 higher",
        alike("layers5-10", "fastflux-10"),
    ),
    Claim(
        _PARTS,
        "What was trained for a higher ratio improves a lower one when reused, by HPS, GenEval and CLIP score",
        "section 3.2", "no figures",
        every(*(better("reuse-10", "fastflux-10", score.key) for score in SCORES)),
    ),
    Claim(
        _PARTS, "The order by importance is better than both sequential orders", "section 4.3, Table 5",
        "28.58 against 28.15 (End2Start) and 24.63 (Start2End)",
        every(
            better("fastflux-10", "end2start-10", effect=28.58 / 28.15 - 1),
            better("fastflux-10", "start2end-10", effect=28.58 / 24.63 - 1),
        ),
    ),
    Claim(
        _BLOCKS, "Only a few blocks matter much, most of them little", "section 4.4, Figure 8", "no figures",
        few_blocks_matter,
    ),
    Claim(
        _BLOCKS, "Double blocks matter more than single ones", "section 4.3, Table 5's caption", "no figures",
        double_blocks_matter_more,
    ),
    Claim(
        _OTHER, f"On SD3, 10% pruned does not lower the CLIP score by {MARGIN:.1%}",
        "section 4.2, Table 3", "31.82 against 31.79",
        at_least("fastsd3-10", "sd3", CLIP.key),
    ),
    Claim(
        _OTHER, "On SD3, 10% pruned lowers HPS moderately: as much of it is kept as in the paper",
        "section 4.2, Table 3", "27.76 against 28.08: 98.9% kept", keeps("fastsd3-10", "sd3", round(27.76 / 28.08, 3)),
    ),
)  # fmt: skip
_OWN = "FastFLUX+"
OWN_CLAIMS = tuple(
    Claim(_OWN, f"{text}, by HPS and GenEval", "", "", every(*(check(*sides, score.key) for score in (HPS, GENEVAL))))
    for text, check, sides in (
        (f"With the FLOPs of FastFLUX-20% it is not lower than dense by {MARGIN:.1%}", at_least, ("plus-18", DENSE)),
        ("With the FLOPs of FastFLUX-20% it is better", better, ("plus-18", "fastflux-20")),
        ("With the FLOPs of FastFLUX-30% it is better", better, ("plus-26", "fastflux-30")),
        (
            f"With the FLOPs of FastFLUX-30% it is not lower than FastFLUX-20% by {MARGIN:.1%}",
            at_least, ("plus-26", "fastflux-20"),
        ),
        ("With 35% of the FLOPs saved it is better than FastFLUX-30%", better, ("plus-35", "fastflux-30")),
        ("At the latency of FastFLUX-20% it is better than width pruning", better, ("plus-18", "width_equal-20")),
    )
)  # fmt: skip
_WORDS = {"reproduced": "holds", "not reproduced": "does not hold"}
_NOTES = (
    (
        "Scores are compared prompt by prompt with the same seeds, over all prunings of both sides: difference, its "
        f"95% interval, p of no difference; {TEST}."
    ),
    (
        f'One margin serves all claims, {MARGIN:.1%} of the score compared with. "Better" and "higher" need an '
        "interval above 0 and are contrary when it lies below the paper's effect, or below the margin where the paper "
        'gives none; "not lower" and "about as good" need an interval within the margin and are contrary when it is '
        "not and excludes 0; an interval decides what share is kept. The paper's effects are shares of its scores, "
        "held against shares of the scores here."
    ),
    (
        "The second verdict allows for the number of claims that a test decides (Holm): what is not significant among "
        "all of them is inconclusive. A variant without a number of prunings was pruned once, and its chance is that "
        "of the prompts alone: what is not trained has no other."
    ),
    (
        "Training is compared at equal samples, by blocks run forward (training one counts as three) and seconds for "
        "each sample seen, and at equal seconds, by HPS against the L1-norm variant of similar latency that took no "
        "fewer."
    ),
    (
        "Latency groups are the pairs pruned to equal latency where all of them met it, else those of Table 1. "
        "One contrary comparison is enough against a claim over several."
    ),
    "The paper's figures are of FLUX.1-dev and SD v3.0 (arXiv 2506.10035).",
)


def findings(
    rows: Sequence[Row],
    ranking: Ranking | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    claims: Sequence[Claim] = CLAIMS,
) -> tuple[tuple[Claim, Finding], ...]:
    """Every claim with what the rows, and the ranking when it is of the rows' own weights, say about it."""
    by_variant = {row.variant: row for row in rows}
    evidence = Evidence(by_variant, ranking, tolerance=tolerance)
    if ranking is not None and not ranking.is_of(rows):
        evidence = Evidence(by_variant, None, "the ranking is of other weights than the records", tolerance)
    return tuple((claim, claim.check(evidence)) for claim in claims)


def claims_table(rows: Sequence[Row], ranking: Ranking | None = None, tolerance: float = DEFAULT_TOLERANCE) -> Table:
    """The verdicts with the figures that decided them, by topic."""
    return _verdicts("claims", rows, findings(rows, ranking, tolerance), notes=_NOTES)


def own_claims_table(rows: Sequence[Row]) -> Table:
    """What this project claims of FastFLUX+, decided as the paper's claims are."""
    return _verdicts("beyond", rows, findings(rows, claims=OWN_CLAIMS), words=_WORDS)


def _verdicts(
    name: str,
    rows: Sequence[Row],
    found: Sequence[tuple[Claim, Finding]],
    *,
    words: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Table:
    words = words or {}
    corrected = with_holm([finding for _, finding in found])
    lines: dict[str, list[tuple[Cell, ...]]] = {}
    for number, ((claim, finding), second) in enumerate(zip(found, corrected, strict=True), start=1):
        lines.setdefault(claim.topic, []).append(_line(number, claim, finding, second, words))
    tested, told = sum(one.p_value is not None for _, one in found), _counted([one.verdict for _, one in found], words)
    return Table(
        name,
        f"{TABLES[name].title}, {model_name(rows)}",
        (
            Header("Claim", align="left", width=0.24),
            Header("Verdict", align="left", width=0.13),
            Header("With Holm", align="left", width=0.13),
            Header("Measured", align="left", width=0.33),
            *([Header("In the paper", align="left", width=0.17)] if found[0][0].source else []),
        ),
        tuple(Group(tuple(of), topic) for topic, of in lines.items()),
        label=profile_label(rows),
        notes=(
            f"{told}. With Holm over {tested} tests: {_counted(corrected, words)}.",
            *_shared([finding for _, finding in found]),
            *notes,
        ),
    )


def with_holm(found: Sequence[Finding]) -> list[Verdict]:
    """The second verdicts: inconclusive where the p-value is not significant among all of them."""
    p_values = iter(holm([finding.p_value for finding in found if finding.p_value is not None]))
    return [
        "inconclusive"
        if finding.p_value is not None and next(p_values) >= SIGNIFICANT and finding.verdict != "not measured"
        else finding.verdict
        for finding in found
    ]


def _counted(verdicts: Sequence[Verdict], words: Mapping[str, str]) -> str:
    return "; ".join(f"{words.get(each, each)}: {verdicts.count(each)}" for each in dict.fromkeys(verdicts))


def _shared(found: Sequence[Finding]) -> list[str]:
    """Which claims rest on the same comparison, by number."""
    users: dict[str, list[str]] = {}
    for number, finding in enumerate(found, start=1):
        for name in finding.compared:
            users.setdefault(name, []).append(str(number))
    shared = [f"{', '.join(numbers)} ({name})" for name, numbers in users.items() if len(numbers) > 1]
    return [f"Claims that share a comparison: {'; '.join(shared)}."] if shared else []


def _line(number: int, claim: Claim, finding: Finding, second: Verdict, words: Mapping[str, str]) -> tuple[Cell, ...]:
    figures = finding.figures[:1].upper() + finding.figures[1:]
    measured = f"{figures}. {finding.sentence}" if figures else finding.sentence
    if finding.p_value is not None and second != finding.verdict:
        measured += f" Deciding {chance(finding.p_value)}."
    origin = (finding.variants[0], finding.key) if finding.variants else None
    return (
        Cell(text=f"{number}. {claim.text}"),
        *(Cell(text=words.get(each, each), bold=each == "not reproduced") for each in (finding.verdict, second)),
        Cell(text=measured, origin=origin, others=finding.variants[1:]),
        *([Cell(text=f"{claim.figures}; {claim.source}")] if claim.source else []),
    )
