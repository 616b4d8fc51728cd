"""Paired differences: each variant against the dense model of its base, partners in latency, gaps with a reason."""

# A golden document stands here as it is read: longer than code lines.
# ruff: noqa: E501, RUF001

from bench.tables import TABLES
from reports.paired_differences import differences_table
from reports.rows import rows_of
from reports.table import to_markdown
from reports.tables import best_rows, make_table
from tests.reports.conftest import MakeRecord, Measured, Sampled

HPS = "hps.averaged"

GOLDEN = r"""### Paired differences, D

**Scores are of the FLUX-Shapes scorers (small models on rendered shapes), not HPS v2 or GenEval of FLUX.1-dev; compare them within this table only.**

| Model                        |                          HPS averaged | GenEval overall |    CLIP score |
| ---------------------------- | ------------------------------------: | --------------: | ------------: |
| *Against the dense model*    |                                       |                 |               |
| F10 (2 prunings)             |      +0.00 \[-0.11, +0.12\] p = 0.902 |   –<sup>a</sup> | –<sup>b</sup> |
| L12                          | **-2.00** \[-2.10, -1.92\] p \< 0.001 |   –<sup>c</sup> | –<sup>d</sup> |
| E10                          |                         –<sup>e</sup> |   –<sup>f</sup> | –<sup>g</sup> |
| *FastFLUX against L1-norm pruning of its latency* |                                       |                 |               |
| F10 (2 prunings) against L12 | **+2.00** \[+1.92, +2.09\] p \< 0.001 |   –<sup>a</sup> | –<sup>b</sup> |
| F10 (2 prunings) against E10 |                         –<sup>e</sup> |   –<sup>a</sup> | –<sup>b</sup> |

<sup>a</sup> F10: geneval: not measured

<sup>b</sup> F10: clip\_score: not measured

<sup>c</sup> L12: geneval: not measured

<sup>d</sup> L12: clip\_score: not measured

<sup>e</sup> E10: hps: failed, no weights

<sup>f</sup> E10: geneval: not measured

<sup>g</sup> E10: clip\_score: not measured

Differences are paired by prompt and seed; interval and p-value are of one test, 100,000 sign flips of whole prompts and, where a variant was pruned with several seeds, as many draws of its prunings; random flips leave a p of 0.05 a standard error of 0.0007, and nothing is decided within three of these. Bold: the interval excludes 0. The p-values are not corrected for the number of comparisons.

hps (version 1): hand-made hps; n = 12
"""


def test_the_whole_table(make_record: MakeRecord, sampled: Sampled, measured: Measured) -> None:
    def latency(ratio: float) -> object:
        return measured("latency", {"median_ms": 100 * ratio, "ratio_to_dense": ratio})

    rows = rows_of(
        [
            make_record("dense", "D", sampled(HPS, 60.0), latency(1.0)),
            make_record("fastflux-10", "F10", sampled(HPS, 60.01, "f"), latency(0.9)),
            make_record("seed1-10", "S", sampled(HPS, 60.0, "ff"), latency(0.9)),
            make_record("l1-12", "L12", sampled(HPS, 58.0, "lll"), latency(0.91)),
            make_record("l1_equal-10", "E10", measured("hps", "no weights"), latency(0.9)),
            make_record("sd3", "SD", sampled(HPS, 50.0), base="other"),
        ]
    )
    assert to_markdown(differences_table(rows)) == GOLDEN


def test_what_is_not_significantly_worse_than_the_best_has_a_mark_of_its_own(
    make_record: MakeRecord, sampled: Sampled
) -> None:
    dense, near, far = rows_of(
        [
            make_record("dense", "D", sampled(HPS, 60.02)),
            make_record("fastflux-10", "F", sampled(HPS, 60.0, "f")),
            make_record("fastflux-20", "G", sampled(HPS, 59.0, "g")),
        ]
    )
    column = TABLES["table6"].columns[-1]
    assert column.key == HPS
    assert best_rows(column, [dense, near, far]) == {"dense"}
    assert best_rows(column, [dense]) == frozenset()
    table = make_table("table6", TABLES["table6"], [dense, near, far])
    assert any("not significantly worse" in note for note in table.notes)
    marks = [(row[-1].underline, row[-1].near, row[-1].bold) for group in table.groups for row in group.rows]
    assert marks == [(True, False, False), (False, True, False), (False, False, False)]


def test_a_style_is_compared_over_its_own_prompts(make_record: MakeRecord, measured: Measured) -> None:
    def hps(anime: float, photo: float) -> object:
        samples = {
            f"{style}/{i}": [value + i / 100]
            for style, value in (("anime", anime), ("photo", photo))
            for i in range(12)
        }
        return measured("hps", {"anime": anime, "photo": photo, "averaged": (anime + photo) / 2}, samples=samples)

    rows = rows_of([make_record("dense", "D", hps(60, 60)), make_record("l1-12", "L", hps(55, 60.0))])
    anime, _, _, photo, *_ = TABLES["table1"].columns
    assert best_rows(anime, rows) == {"dense"}
    assert best_rows(photo, rows) == {"dense", "l1-12"}
