"""Tables 3, of equal latency and of ablations from hand-made records: whole golden documents, groups and gaps."""

# Golden documents stand here as they are read: with dashes, and longer than code lines.
# ruff: noqa: E501, RUF001

from pathlib import Path

import pytest

from bench.records.results import RunRecord
from bench.tables import TABLES
from reports.build import build
from reports.paper import paper_against_measured
from reports.render.latex.tables import to_latex
from reports.rows import rows_of
from reports.table import Cell, Group, Header, Table, to_markdown
from reports.tables import make_table
from reports.why import EXPLAINED
from tests.reports.conftest import MakeRecord, Measured

GOLDENS = {
    "table3": r"""### Table 3: generalization to other architectures, FLUX-Shapes

**Scores are of the FLUX-Shapes scorers (small models on rendered shapes), not HPS v2 or GenEval of FLUX.1-dev; compare them within this table only.**

| Model              | HPS averaged ↑ | CLIP score ↑ |
| ------------------ | -------------: | -----------: |
| *Base model FLUX-Shapes* |                |              |
| FLUX-Shapes        |   <u>28.00</u> | <u>80.00</u> |
| FastFLUX-10%       |          27.50 |        79.50 |
| *Base model SD3-Shapes* |                |              |
| SD3-Shapes         |          25.00 |        75.00 |
| FastSD3-Shapes-10% |          24.75 |        76.00 |

Not among the records: fastsd3-20, plussd3-20, flux2, fastflux2-10, fastflux2-20, plusflux2-20.

Underlined: best of all rows.

hps (version 1): hand-made hps

clip\_score (version 1): hand-made clip\_score
""",
    "equal_latency": r"""### FastFLUX and L1-norm pruning at equal latency, FLUX-Shapes

**Scores are of the FLUX-Shapes scorers (small models on rendered shapes), not HPS v2 or GenEval of FLUX.1-dev; compare them within this table only.**

| Model                        | HPS averaged ↑ | GenEval overall ↑ | CLIP score ↑ | Latency (ms) ↓ |
| ---------------------------- | -------------: | ----------------: | -----------: | -------------: |
| FLUX-Shapes                  |   <u>28.00</u> |      <u>0.933</u> | <u>80.00</u> |  50.00 (1.000) |
| *Latency 0.920 to 0.930 of dense, 1.1% apart* |                |                   |              |                |
| FLUX-Pruning-8%              |          27.00 |             0.900 |    **79.50** |  46.50 (0.930) |
| FastFLUX-10%                 |      **27.50** |         **0.917** |    **79.50** |  46.00 (0.920) |
| *Latency 0.820 to 0.840 of dense, 2.4% apart* |                |                   |              |                |
| FLUX-Pruning-17%             |      **26.50** |         **0.883** |        78.00 |  41.00 (0.820) |
| FastFLUX-20%                 |          26.00 |             0.867 |    **79.00** |  42.00 (0.840) |
| *Without a partner of similar latency* |                |                   |              |                |
| FLUX-Pruning-12%<sup>a</sup> |          26.75 |             0.892 |        78.50 |  44.00 (0.880) |

<sup>a</sup> the variant it was made to equal was not measured

Each L1-norm variant was pruned to the latency of the FastFLUX variant in its group; the headings tell how near it came in this table's measurement.

Bold: best of its latency group. Underlined: best of all rows.

hps (version 1): hand-made hps

geneval (version 1): hand-made geneval

clip\_score (version 1): hand-made clip\_score

latency (version 1): hand-made latency; device test device
""",
    "ablations": r"""### Ablations at 10%, FLUX-Shapes

**Scores are of the FLUX-Shapes scorers (small models on rendered shapes), not HPS v2 or GenEval of FLUX.1-dev; compare them within this table only.**

| Model               | HPS averaged ↑ | GenEval overall ↑ | CLIP score ↑ | Trained at once (k) ↓ |     Seconds ↓ |
| ------------------- | -------------: | ----------------: | -----------: | --------------------: | ------------: |
| FLUX-Shapes         |   <u>28.00</u> |      <u>0.933</u> | <u>80.00</u> |         –<sup>a</sup> | –<sup>a</sup> |
| FastFLUX-10%        |          27.50 |             0.917 |        79.50 |                 27.50 |          79.5 |
| ST of 1 layer       |          27.25 |             0.908 |        79.00 |                 27.25 |          79.0 |
| Direct removal + ST |          26.25 |             0.875 |        78.00 |                 26.25 |          78.0 |

<sup>a</sup> pruning\_cost: failed, not pruned

Not among the records: reuse-10, layers5-10, brll-10, removal-10.

Underlined: best of all rows.

hps (version 1): hand-made hps

geneval (version 1): hand-made geneval

clip\_score (version 1): hand-made clip\_score

pruning\_cost (version 1): hand-made pruning\_cost
""",
}
LONG_LATEX = r"""% Needs \usepackage{booktabs} and \usepackage{longtable}.
{\small
\setlength{\LTcapwidth}{\linewidth}
\begin{longtable}{p{\dimexpr 0.5\linewidth-2\tabcolsep\relax}r}
\caption{T.} \label{tab:t} \\
\toprule
\raggedright A & B \tabularnewline
\endfirsthead
\toprule
\raggedright A & B \tabularnewline
\endhead
\bottomrule
\endlastfoot
\midrule
\raggedright long \& long & 1 \tabularnewline
\raggedright s & 10 \tabularnewline
\end{longtable}
}
"""

# Variant: label, HPS, CLIP score, latency against dense.
VARIANTS = {
    "dense": ("FLUX-Shapes", 28.0, 80.0, 1.0),
    "fastflux-05": ("FastFLUX-5%", 28.1, 80.0, 0.96),
    "fastflux-10": ("FastFLUX-10%", 27.5, 79.5, 0.92),
    "fastflux-20": ("FastFLUX-20%", 26.0, 79.0, 0.84),
    "l1_equal-10": ("FLUX-Pruning-8%", 27.0, 79.5, 0.93),
    "l1_equal-20": ("FLUX-Pruning-17%", 26.5, 78.0, 0.82),
    "l1_equal-15": ("FLUX-Pruning-12%", 26.75, 78.5, 0.88),
    "removal_st-10": ("Direct removal + ST", 26.25, 78.0, 0.91),
    "layers1-10": ("ST of 1 layer", 27.25, 79.0, 0.92),
    "seed1-10": ("FastFLUX-10% (seed 1)", 27.6, 79.6, 0.92),
    "fastsd3-10": ("FastSD3-Shapes-10%", 24.75, 76.0, 0.93),
    "sd3": ("SD3-Shapes", 25.0, 75.0, 1.0),
}


@pytest.fixture
def records(make_record: MakeRecord, measured: Measured) -> list[RunRecord]:
    return [
        make_record(
            variant,
            label,
            measured("hps", {"averaged": hps}),
            measured("geneval", {"overall": hps / 30}),
            measured("clip_score", {"mean": clip}),
            measured("latency", {"median_ms": 50 * ratio, "ratio_to_dense": ratio}),
            measured("pruning_cost", {"trainable_parameters": 1000 * hps, "seconds": clip})
            if variant not in ("dense", "sd3")
            else measured("pruning_cost", "not pruned"),
            base="SD3" if "sd3" in variant else "FLUX",
        )
        for variant, (label, hps, clip, ratio) in VARIANTS.items()
    ]


@pytest.mark.parametrize("name", GOLDENS)
def test_the_table_is_exactly_this(name: str, records: list[RunRecord]) -> None:
    assert to_markdown(make_table(name, TABLES[name], rows_of(records))) == GOLDENS[name]


def test_each_base_is_compared_with_its_own_dense_model(records: list[RunRecord]) -> None:
    tables = paper_against_measured("table3", TABLES["table3"], rows_of(records))
    assert [[(row[1].value, row[1].suffix) for row in table.groups[0].rows] for table in tables] == [
        [(28.32, ""), (28.58, "(+0.9%)"), (28.08, ""), (27.76, "(-1.1%)")],
        [(28.0, ""), (27.5, "(-1.8%)"), (25.0, ""), (24.75, "(-1.0%)")],
    ]


def test_efficiency_is_grouped_by_base_without_repeats_of_seeds(records: list[RunRecord]) -> None:
    table = make_table("efficiency", TABLES["efficiency"], rows_of(records))
    assert [group.heading for group in table.groups] == ["Base model FLUX-Shapes", "Base model SD3-Shapes"]
    shown = [[row[0].text for row in group.rows] for group in table.groups]
    assert shown[1] == ["SD3-Shapes", "FastSD3-Shapes-10%"]
    assert len(shown[0]) == len(VARIANTS) - 3
    assert "FastFLUX-10% (seed 1)" not in shown[0]
    assert "Ratios are to the dense model of the same base." in table.notes


def test_another_base_stands_in_no_other_table(records: list[RunRecord]) -> None:
    for name in EXPLAINED.keys() - {"table3", "efficiency", "distribution"}:
        table = make_table(name, TABLES[name], rows_of(records))
        assert not [row for group in table.groups for row in group.rows if "SD3" in str(row[0].text)]


def test_a_missed_latency_of_a_pair_is_told(make_record: MakeRecord) -> None:
    rows = rows_of([make_record("fastflux-10", "F"), make_record("l1_equal-10", "L")])
    table = make_table("equal_latency", TABLES["equal_latency"], rows)
    assert [group.heading for group in table.groups] == ["Latency not measured"]


def test_all_tables_build_from_the_dense_model_alone(records: list[RunRecord], tmp_path: Path) -> None:
    records[0].write(tmp_path / "records" / "dense.json")
    written = {
        path.name: path.read_text(encoding="utf-8") for path in build(tmp_path / "records", tmp_path, formats=["md"])
    }
    assert {f"{name}.md" for name in TABLES if name != "beyond"} <= written.keys()
    assert "Not among the records: fastflux-10, sd3, fastsd3-10, fastsd3-20, plussd3-20, flux2" in written["table3.md"]
    assert "No L1-norm variant pruned to the latency of a FastFLUX variant" in written["equal_latency.md"]
    assert "No variant was pruned with more than one seed." in written["seeds.md"]
    assert "not measured: 19." in written["claims.md"]  # the committed ranking is of other weights


def test_columns_of_sentences_are_broken_in_latex_and_unpadded_in_markdown() -> None:
    headers = (Header("A", align="left", width=0.5), Header("B", spec=".0f"))
    table = Table("t", "T", headers, (Group(((Cell(text="long & long"), Cell(1.0)), (Cell(text="s"), Cell(10.0)))),))
    assert "| long \\& long |   1 |\n| s   |  10 |\n" in to_markdown(table)
    assert to_latex(table) == LONG_LATEX
