"""Figures 6 and 7: what they show, when they are drawn, and that their bytes repeat."""

import pytest

from bench.records.results import RunRecord
from reports.figures.quality import linear_layer_figure, sandwich_size_figure
from reports.rows import Row, rows_of
from tests.reports.conftest import MakeRecord, Measured, Sampled

LEVELS = {
    "dense": 61.0, "fastflux-10": 60.0, "removal_st-10": 58.0, "brll-10": 57.0, "removal-10": 50.0,
    "layers1-10": 59.0, "layers5-10": 60.01,
}  # fmt: skip


@pytest.fixture
def records(make_record: MakeRecord, sampled: Sampled, measured: Measured) -> list[RunRecord]:
    return [
        make_record(
            variant,
            variant,
            sampled("hps.averaged", level, variant),
            measured("pruning_cost", {"trainable_parameters": 1000.0 * len(variant)}),
        )
        for variant, level in LEVELS.items()
    ]


def kept(records: list[RunRecord], *variants: str) -> tuple[Row, ...]:
    return rows_of(record for record in records if record.variant in variants)


def test_figure_6_shows_four_scores_and_the_papers_drop(records: list[RunRecord]) -> None:
    figure = linear_layer_figure(rows_of(records))
    (axes,) = figure.axes
    drawn = {str(line.get_label()): list(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) == 2}
    assert drawn["with Sandwich Training"] == [60.0, 58.0]
    assert drawn["w/o ST"] == [57.0, 50.0]
    assert [text.get_text() for text in axes.texts] == ["dense", "60.00", "58.00", "57.00", "50.00"]
    measured, paper = figure.texts[-1].get_text().splitlines()
    assert measured.startswith("Removed against linear, both with ST: -2.00 [")
    assert paper == "The paper on FLUX.1-dev: 28.25 against 28.58, -0.33"
    assert "not HPS v2" in figure.get_suptitle()


def test_figure_6_has_intervals_where_records_do(records: list[RunRecord]) -> None:
    rows = kept(records, "fastflux-10", "removal_st-10")
    (axes,) = linear_layer_figure(rows).axes
    uprights = [tuple(line.get_ydata()) for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert uprights == [row.value("hps.averaged").interval for row in rows if row.value("hps.averaged").interval]
    assert len(uprights) == 2


def test_figure_7_shows_sizes_with_what_they_train(records: list[RunRecord]) -> None:
    figure = sandwich_size_figure(rows_of(records))
    axes, small = figure.axes
    assert [text.get_text() for text in axes.texts] == ["dense", "59.00", "60.00", "60.01"]
    assert [text.get_text() for text in small.texts] == ["10.0 k", "11.0 k", "10.0 k"]
    lines = figure.texts[-1].get_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "3 layers against 1",
        "5 layers against 3",
        "The paper on FLUX.1-dev",
    ]
    assert "+0.59 from 1 to 3, +0.03 from 3 to 5 (25% more parameters)" in lines[2]


def test_they_are_drawn_only_from_records_that_allow_them(records: list[RunRecord]) -> None:
    rows = kept(records, "dense", "fastflux-10", "brll-10", "removal-10")
    assert linear_layer_figure(rows) is sandwich_size_figure(rows) is None
    assert sandwich_size_figure(kept(records, "layers1-10", "layers5-10")) is not None


def test_scores_without_single_images_have_a_plain_difference(make_record: MakeRecord, measured: Measured) -> None:
    levels = {"fastflux-10": 60.0, "removal_st-10": 59.0}
    rows = rows_of(make_record(name, name, measured("hps", {"averaged": level})) for name, level in levels.items())
    text = linear_layer_figure(rows).texts[-1].get_text()
    assert text.startswith("Removed against linear, both with ST: -1.00\n")
