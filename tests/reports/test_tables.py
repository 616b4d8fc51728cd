"""The declared tables filled from hand-made records: whole golden documents, marks, gaps and labels."""

# Golden documents stand here as they are read: with dashes, and longer than code lines.
# ruff: noqa: E501, RUF001

import pytest

from bench.records.results import RunRecord
from bench.tables import TABLES
from reports.build import make_tables
from reports.paper import paper_against_measured, paper_rows
from reports.render.latex.tables import to_latex
from reports.rows import rows_of
from reports.table import Table, to_markdown
from reports.tables import SHAPES_LABEL, make_table
from tests.reports.conftest import MakeRecord, Measured

TABLE1_MARKDOWN = """\
### Table 1: HPS by style, FLUX-Shapes

**Scores are of the FLUX-Shapes scorers (small models on rendered shapes), not HPS v2 or GenEval of FLUX.1-dev; compare them within this table only.**

| Model                        |      Animation ↑ | Concept-art ↑ |    Painting ↑ |          Photo ↑ |    Averaged ↑ | Latency (ms) ↓ |
| ---------------------------- | ---------------: | ------------: | ------------: | ---------------: | ------------: | -------------: |
| FLUX-Shapes                  |            28.50 |  <u>27.50</u> |  <u>28.00</u> |     <u>28.25</u> |  <u>28.06</u> | 100.00 (1.000) |
| *Latency 0.910 to 0.920 of dense* |                  |               |               |                  |               |                |
| FLUX-Pruning-12%             |            28.00 |     **27.00** |     **27.75** |            28.00 |         27.70 |  92.00 (0.920) |
| FastFLUX-10%                 | <u>**29.00**</u> |     **27.00** |         27.50 | <u>**28.25**</u> |     **27.90** |  91.00 (0.910) |
| *Without a partner of similar latency* |                  |               |               |                  |               |                |
| FastFLUX-30%<sup>a</sup>     |            25.00 |         24.00 |         25.00 |            26.00 |         25.00 |  73.00 (0.730) |
| FLUX-Pruning-27%<sup>a</sup> |    –<sup>b</sup> | –<sup>b</sup> | –<sup>b</sup> |    –<sup>b</sup> | –<sup>b</sup> |  82.00 (0.820) |

<sup>a</sup> no partner within 5% of its latency

<sup>b</sup> hps: failed, scorer weights missing

Latency groups pair each L1-norm variant with the FastFLUX variant of nearest measured latency ratio within 5%.

Bold: best of its latency group. Underlined: best of all rows.

hps (version 1): hand-made hps; n = 8

latency (version 1): hand-made latency; device test device
"""

TABLE1_LATEX = r"""% Needs \usepackage{booktabs} and \usepackage{graphicx}.
\begin{table}[t]
\centering
\caption{HPS by style, FLUX-Shapes (Table 1 of the paper). \textbf{Scores are of the FLUX-Shapes scorers (small models on rendered shapes), not HPS v2 or GenEval of FLUX.1-dev; compare them within this table only.}}
\label{tab:table1}
\small
\resizebox{\ifdim\width>\linewidth \linewidth\else \width\fi}{!}{%
\begin{tabular}{lrrrrrr}
\toprule
Model & Animation $\uparrow$ & Concept-art $\uparrow$ & Painting $\uparrow$ & Photo $\uparrow$ & Averaged $\uparrow$ & \shortstack[r]{Latency\\(ms) $\downarrow$} \\
\midrule
FLUX-Shapes & 28.50 & \underline{27.50} & \underline{28.00} & \underline{28.25} & \underline{28.06} & 100.00 (1.000) \\
\midrule
\multicolumn{7}{l}{\textit{Latency 0.910 to 0.920 of dense}} \\
FLUX-Pruning-12\% & 28.00 & \textbf{27.00} & \textbf{27.75} & 28.00 & 27.70 & 92.00 (0.920) \\
FastFLUX-10\% & \underline{\textbf{29.00}} & \textbf{27.00} & 27.50 & \underline{\textbf{28.25}} & \textbf{27.90} & 91.00 (0.910) \\
\midrule
\multicolumn{7}{l}{\textit{Without a partner of similar latency}} \\
FastFLUX-30\%\textsuperscript{a} & 25.00 & 24.00 & 25.00 & 26.00 & 25.00 & 73.00 (0.730) \\
FLUX-Pruning-27\%\textsuperscript{a} & --\textsuperscript{b} & --\textsuperscript{b} & --\textsuperscript{b} & --\textsuperscript{b} & --\textsuperscript{b} & 82.00 (0.820) \\
\bottomrule
\end{tabular}}
\par\smallskip{\footnotesize\raggedright \textsuperscript{a} no partner within 5\% of its latency\par}
\par\smallskip{\footnotesize\raggedright \textsuperscript{b} hps: failed, scorer weights missing\par}
\par\smallskip{\footnotesize\raggedright Latency groups pair each L1-norm variant with the FastFLUX variant of nearest measured latency ratio within 5\%.\par}
\par\smallskip{\footnotesize\raggedright Bold: best of its latency group. Underlined: best of all rows.\par}
\par\smallskip{\footnotesize\raggedright hps (version 1): hand-made hps; n = 8\par}
\par\smallskip{\footnotesize\raggedright latency (version 1): hand-made latency; device test device\par}
\end{table}
"""

TABLE6_MARKDOWN = """\
### Table 6: block replacement ratios, FLUX-Shapes

**Scores are of the FLUX-Shapes scorers (small models on rendered shapes), not HPS v2 or GenEval of FLUX.1-dev; compare them within this table only.**

| Model        | Ratio | Dropped blocks |     FLOPs (M) ↓ | Latency (ms) ↓ | HPS averaged ↑ |
| ------------ | ----: | -------------: | --------------: | -------------: | -------------: |
| FLUX-Shapes  |    0% |              0 | 320.00 (100.0%) | 100.00 (1.000) |   <u>28.06</u> |
| FastFLUX-10% |   10% |              5 |  290.00 (90.6%) |  91.00 (0.910) |          27.90 |
| FastFLUX-30% |   30% |             16 |  240.00 (75.0%) |  73.00 (0.730) |          25.00 |

Underlined: best of all rows.

flops (version 1): hand-made flops

latency (version 1): hand-made latency; device test device

hps (version 1): hand-made hps; n = 8
"""


def shown(table: Table, label: str) -> list[str]:
    """The texts of the row with this label, bold and underlined ones marked."""
    row = next(row for group in table.groups for row in group.rows if row[0].text == label)
    return [("*" if cell.bold else "") + ("_" if cell.underline else "") + str(cell.text) for cell in row[1:]]


def test_table_1_in_markdown_is_exactly_this(hps_records: tuple[RunRecord, ...]) -> None:
    assert to_markdown(make_table("table1", TABLES["table1"], rows_of(hps_records))) == TABLE1_MARKDOWN


def test_table_1_in_latex_is_exactly_this(hps_records: tuple[RunRecord, ...]) -> None:
    assert to_latex(make_table("table1", TABLES["table1"], rows_of(hps_records))) == TABLE1_LATEX


def test_table_6_is_exactly_this(hps_records: tuple[RunRecord, ...], measured: Measured) -> None:
    records = [
        record.with_measurement(measured("flops", {"forward": flops, "ratio_to_dense": flops / 3.2e8}))
        for record, flops in zip(hps_records, (3.2e8, 2.9e8, 2.4e8, 3e8, 2.5e8), strict=True)
    ]
    assert to_markdown(make_table("table6", TABLES["table6"], rows_of(records))) == TABLE6_MARKDOWN


def test_lower_is_better_is_read_from_the_record(make_record: MakeRecord, measured: Measured) -> None:
    records = [
        make_record("dense", "D", measured("fid", {"fid": 10.0, "kid": 0.1}), measured("clip_score", {"mean": 30.0})),
        make_record("l1-12", "L", measured("fid", {"fid": 12.0, "kid": 0.05}), measured("clip_score", {"mean": 31.0})),
    ]
    table = make_table("distribution", TABLES["distribution"], rows_of(records))
    assert shown(table, "D")[-3:] == ["_10.00", "0.1", "30.00"]
    assert shown(table, "L")[-3:] == ["12.00", "_0.05", "_31.00"]
    assert [header.text for header in table.headers] == ["Model", "FID", "KID", "CLIP score"]
    assert [header.direction for header in table.headers[-3:]] == ["down", "down", "up"]


def test_precision_and_recall_have_columns_where_they_were_measured(
    make_record: MakeRecord, measured: Measured
) -> None:
    records = [
        make_record("dense", "D", measured("fid", {"fid": 10.0, "precision": 0.9, "recall": 0.8})),
        make_record("l1-12", "L", measured("fid", {"fid": 12.0, "precision": 0.7})),
    ]
    table = make_table("distribution", TABLES["distribution"], rows_of(records))
    assert [(header.text, header.direction) for header in table.headers[3:5]] == [("Precision", "up"), ("Recall", "up")]
    assert shown(table, "L")[2:4] == ["0.700", "None"]


def test_speed_up_points_the_other_way_than_latency(make_record: MakeRecord, measured: Measured) -> None:
    rows = rows_of([make_record("dense", "D", measured("latency", {"median_ms": 2.0, "ratio_to_dense": 1.0}))])
    table = make_table("efficiency", TABLES["efficiency"], rows)
    assert {header.text: header.direction for header in table.headers}["Speed-up"] == "up"
    assert {header.text: header.direction for header in table.headers}["Latency (ms)"] == "down"


def test_the_flops_bound_is_what_the_flops_alone_would_give(make_record: MakeRecord, measured: Measured) -> None:
    flops = measured("flops", {"forward": 8.0, "ratio_to_dense": 0.8})
    latency = measured("latency", {"ratio_to_dense": 0.9}, intervals={"ratio_to_dense": (0.88, 0.92)})
    [row] = rows_of([make_record("fastflux-20", "F", flops, latency)])
    # 1 / 0.9 as fast, where 1 / 0.8 would be the bound.
    assert row.number("latency.of_flops_bound") == pytest.approx((1 / 0.9) / (1 / 0.8))
    assert row.value("latency.of_flops_bound").interval == pytest.approx((0.8 / 0.92, 0.8 / 0.88))
    assert rows_of([make_record("fastflux-20", "F", latency)])[0].number("latency.of_flops_bound") is None


@pytest.mark.parametrize(
    ("flops", "heading", "text"),
    [(5.0, "FLOPs", "5.00"), (7.4e13, "FLOPs (T)", "74.00"), (999e6, "FLOPs (M)", "999.00")],
)
def test_flops_are_shown_in_a_fitting_unit(
    make_record: MakeRecord, measured: Measured, flops: float, heading: str, text: str
) -> None:
    table = make_table(
        "table6", TABLES["table6"], rows_of([make_record("dense", "D", measured("flops", {"forward": flops}))])
    )
    assert table.headers[3].text == heading
    assert table.groups[0].rows[0][3].text == text
    assert table.groups[0].rows[0][3].value == flops


def test_intervals_stand_behind_their_value(make_record: MakeRecord, measured: Measured) -> None:
    hps = measured("hps", {"averaged": 25.0}, intervals={"averaged": (24.5, 25.5)})
    rows = rows_of([make_record("dense", "D", hps)])
    text = to_markdown(make_table("table1", TABLES["table1"], rows, intervals=True))
    assert r"25.00 \[24.50, 25.50\]" in text
    assert "In brackets: 95% interval." in text
    assert "24.50" not in to_markdown(make_table("table1", TABLES["table1"], rows))


def test_only_the_shapes_profile_carries_the_shapes_label(make_record: MakeRecord) -> None:
    for profile, label in (("shapes", SHAPES_LABEL), ("flux-dev", "")):
        rows = rows_of([make_record("dense", "D", profile=profile)])
        tables = make_tables(rows, TABLES, TABLES)
        assert {part.label for name, parts in tables.items() for part in parts if name != "provenance"} <= {label, ""}
        always = TABLES.keys() - {"provenance", "beyond"}  # which is there with records of FastFLUX+
        assert {tables[name][0].label for name in always} == {label}


def test_nothing_measured_is_dashes_and_never_zero(make_record: MakeRecord) -> None:
    rows = rows_of([make_record("l1-12", "L")])
    table = make_table("table2", TABLES["table2"], rows)
    assert [cell.value for cell in table.groups[0].rows[0]] == [None] * 9
    assert table.footnotes == ("latency not measured", "geneval: not measured", "latency: not measured")


@pytest.mark.parametrize("name", [name for name, spec in TABLES.items() if spec.paper])
def test_the_papers_table_fills_every_column_we_share(name: str) -> None:
    rows = [row for row in paper_rows(name) if not row.variant.startswith("external-")]
    assert rows[0].variant == "dense"
    assert all(row.number(column.key) is not None for row in rows for column in TABLES[name].columns)


def test_the_twin_keeps_paper_and_measured_in_two_tables(hps_records: tuple[RunRecord, ...]) -> None:
    paper, ours = paper_against_measured("table1", TABLES["table1"], rows_of(hps_records))
    others = ["DALL-E mini", "SD v1.4", "SD v2.0", "SD v3.0"]
    names = [row[0].text for row in paper.groups[0].rows]
    assert names[:7] == [*others, "FLUX.1-dev", "FLUX-Pruning-12%", "FastFLUX-10%"]
    assert paper.groups[0].rows[0][6].footnote == "latency: the paper gives none"
    assert paper.headers == ours.headers
    assert not set(others) & {row[0].text for row in ours.groups[0].rows}, "models that nobody drew with"
    averaged = [(row[5].value, row[5].suffix) for row in paper.groups[0].rows[4:7]]
    assert averaged == [(28.32, ""), (28.2, "(-0.4%)"), (28.58, "(+0.9%)")]
    assert [(row[5].value, row[5].suffix) for row in ours.groups[0].rows[:3]] == [
        (28.0625, ""),
        (27.7, "(-1.3%)"),
        (27.9, "(-0.6%)"),
    ]
    assert ours.groups[0].rows[3][1].footnote == "FLUX-Pruning-21%: not measured"
    assert (paper.label, ours.label) == ("", SHAPES_LABEL)
    assert "arXiv 2506.10035 Table 1" in paper.notes[0]
    assert paper.notes[1].startswith(
        "The latency cannot be that of one step at 512x512 or above: 98.26 ms is below the 151 ms that 21.50 TFLOPs take"
    )
    assert not any("cannot be" in note for note in ours.notes), "another device"
