"""The table of seeds: mean, standard deviation and range; what is missing is told."""

# A golden document stands here as it is read: with dashes, and longer than code lines.
# ruff: noqa: E501, RUF001

from reports.paired_differences import seeds_table
from reports.rows import rows_of
from reports.table import to_markdown
from tests.reports.conftest import MakeRecord, Measured

GOLDEN = r"""### Seeds of pruning, D

**Scores are of the FLUX-Shapes scorers (small models on rendered shapes), not HPS v2 or GenEval of FLUX.1-dev; compare them within this table only.**

| Model | Seeds |                HPS averaged ↑ | GenEval overall |    CLIP score |
| ----- | ----: | ----------------------------: | --------------: | ------------: |
| D     |       |                         60.00 |   –<sup>a</sup> | –<sup>b</sup> |
| F10   |     3 | 59.00 ± 1.00 \[58.00, 60.00\] |   –<sup>c</sup> | –<sup>d</sup> |
| F20   |     2 |             50.00<sup>e</sup> |   –<sup>f</sup> | –<sup>g</sup> |

<sup>a</sup> geneval: not measured

<sup>b</sup> clip\_score: not measured

<sup>c</sup> F10: geneval: not measured; seed1-10: geneval: not measured; seed2-10: geneval: not measured

<sup>d</sup> F10: clip\_score: not measured; seed1-10: clip\_score: not measured; seed2-10: clip\_score: not measured

<sup>e</sup> of 1 of 2 seeds; seed1-20: hps: failed, no weights

<sup>f</sup> F20: geneval: not measured; seed1-20: geneval: not measured

<sup>g</sup> F20: clip\_score: not measured; seed1-20: clip\_score: not measured

Mean and standard deviation over prunings with different seeds, in brackets the lowest and the highest.

hps (version 1): hand-made hps
"""


def test_mean_and_spread_over_seeds_are_exactly_this(make_record: MakeRecord, measured: Measured) -> None:
    levels = {"dense": 60.0, "fastflux-10": 58.0, "seed1-10": 59.0, "seed2-10": 60.0, "fastflux-20": 50.0}
    names = {"dense": "D", "fastflux-10": "F10", "fastflux-20": "F20"}
    records = [
        make_record(variant, names.get(variant, variant), measured("hps", {"averaged": level}))
        for variant, level in levels.items()
    ]
    failed = make_record("seed1-20", "seed1-20", measured("hps", "no weights"))
    lonely = make_record("seed1-30", "seed1-30", measured("hps", {"averaged": 1.0}))
    assert to_markdown(seeds_table(rows_of([*records, failed, lonely]))) == GOLDEN


def test_without_repeats_the_table_says_so(make_record: MakeRecord, measured: Measured) -> None:
    rows = rows_of([make_record("dense", "D", measured("hps", {"averaged": 1.0})), make_record("fastflux-10", "F")])
    table = seeds_table(rows)
    assert [row[0].text for row in table.groups[0].rows] == ["D"]
    assert table.notes[0] == "No variant was pruned with more than one seed."
