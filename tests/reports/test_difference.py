"""How fresh records differ from committed ones."""

# Golden documents stand here as they are read: with dashes, and longer than code lines.
# ruff: noqa: E501, RUF001

from reports.paired_differences import difference_of
from reports.rows import rows_of
from reports.table import to_markdown
from tests.reports.conftest import MakeRecord, Measured

DIFFERENCE = r"""### Committed against fresh records, FLUX-Shapes

**Scores are of the FLUX-Shapes scorers (small models on rendered shapes), not HPS v2 or GenEval of FLUX.1-dev; compare them within this table only.**

| Model                    | Value                   | Committed |         Fresh | Difference |
| ------------------------ | ----------------------- | --------: | ------------: | ---------: |
| FLUX-Shapes              | HPS averaged            |     30.00 |         29.50 |  **-0.50** |
| FastFLUX-5%<sup>a</sup>  | Latency, ratio to dense |     0.950 | –<sup>b</sup> |          – |
| FLUX-Pruning-12%         | GenEval overall         |     0.500 |         0.510 |     +0.010 |
| FastFLUX-10%<sup>c</sup> | FLOPs, ratio to dense   |         – |        0.9000 |          – |

<sup>a</sup> measured under other conditions (plan, model revision or sampling differ)

<sup>b</sup> latency: failed, timer broke

<sup>c</sup> not among the committed records

Bold: the 95% intervals of the two do not overlap.
"""


def test_the_difference_is_exactly_this(make_record: MakeRecord, measured: Measured) -> None:
    committed = [
        make_record("dense", "FLUX-Shapes", measured("hps", {"averaged": 30.0}, intervals={"averaged": (29.9, 30.1)})),
        make_record("fastflux-05", "FastFLUX-5%", measured("latency", {"median_ms": 9.0, "ratio_to_dense": 0.95})),
        make_record("l1-12", "FLUX-Pruning-12%", measured("geneval", {"overall": 0.5})),
    ]
    fresh = [
        make_record("dense", "FLUX-Shapes", measured("hps", {"averaged": 29.5}, intervals={"averaged": (29.4, 29.6)})),
        make_record("fastflux-05", "FastFLUX-5%", measured("latency", "timer broke"), steps=8),
        make_record("fastflux-10", "FastFLUX-10%", measured("flops", {"forward": 2.0, "ratio_to_dense": 0.9})),
        make_record("l1-12", "FLUX-Pruning-12%", measured("geneval", {"overall": 0.51})),
    ]
    assert to_markdown(difference_of(rows_of(committed), rows_of(fresh))) == DIFFERENCE


def test_equal_records_differ_by_nothing(make_record: MakeRecord, measured: Measured) -> None:
    rows = rows_of(
        [make_record("dense", "D", measured("hps", {"averaged": 30.0}, intervals={"averaged": (29.0, 31.0)}))]
    )
    (row,) = difference_of(rows, rows).groups[0].rows
    assert (row[4].value, row[4].text, row[4].bold, row[0].footnote) == (0.0, "+0.00", False, "")


def test_a_variant_with_nothing_to_compare_is_named_all_the_same(make_record: MakeRecord) -> None:
    rows = rows_of([make_record("dense", "D")])
    assert [cell.text for cell in difference_of(rows, rows).groups[0].rows[0][:2]] == ["D", "none of these values"]
