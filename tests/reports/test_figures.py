"""Figures of scores: what they show."""

from bench.records.results import RunRecord
from reports.figures.quality import quality_against_latency
from reports.rows import rows_of
from tests.reports.conftest import MakeRecord, Measured


def test_the_quality_figure_has_a_panel_a_score_and_labels_on_the_points(
    make_record: MakeRecord, measured: Measured
) -> None:
    def record(variant: str, label: str, ratio: float) -> RunRecord:
        return make_record(
            variant,
            label,
            measured("latency", {"ratio_to_dense": ratio}, intervals={"ratio_to_dense": (ratio - 0.01, ratio)}),
            measured("hps", {"averaged": 30 * ratio}, intervals={"averaged": (29 * ratio, 31 * ratio)}),
        )

    records = [
        record("dense", "FLUX-Shapes", 1.0),
        record("fastflux-10", "FastFLUX-10%", 0.9),
        record("l1-12", "FLUX-Pruning-12%", 0.92),
    ]
    figure = quality_against_latency(rows_of(records))
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "HPS averaged"
    assert [text.get_text() for text in axes.texts] == ["10%", "FastFLUX", "12%", "L1-norm pruning", "dense"]
    assert "not HPS v2" in figure.get_suptitle()


def test_there_is_no_quality_figure_without_scores(make_record: MakeRecord) -> None:
    assert quality_against_latency(rows_of([make_record("dense", "D")])) is None
