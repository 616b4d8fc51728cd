"""Records become rows: order, derived values, reasons for gaps; what may not share a table is refused."""

from pathlib import Path

import pytest

from bench.records.results import RunRecord
from bench.tables import headline
from fastflux.errors import FastFluxError
from reports.rows import Value, conditions, read_rows, rows_of
from reports.tables import best_rows
from reports.why import why
from tests.reports.conftest import MakeRecord, Measured


def test_rows_stand_in_the_papers_order(results: Path) -> None:
    assert [row.variant for row in read_rows(results)] == ["dense", "fastflux-10", "fastflux-30", "l1-12", "l1-27"]


def test_ratio_and_dropped_blocks_come_from_the_plan(make_record: MakeRecord) -> None:
    rows = rows_of(
        [
            make_record("dense", "D"),
            make_record("fastflux-05", "F", blocks=3),
            make_record("fastflux-10", "G", blocks=5, config={"ratio": 0.105}),
            make_record("other", "O"),
        ]
    )
    found = [(row.family, row.number("plan.ratio"), row.number("plan.dropped_blocks")) for row in rows]
    assert found == [("dense", 0.0, 0.0), ("fastflux", 0.05, 3.0), ("fastflux", 0.105, 5.0), ("other", None, 0.0)]


def test_gaps_carry_their_reason(hps_records: tuple[RunRecord, ...]) -> None:
    row = next(row for row in rows_of(hps_records) if row.variant == "l1-27")
    assert row.value("hps.anime").note == "hps: failed, scorer weights missing"
    assert row.value("fid.fid").note == "fid: not measured"
    assert row.value("latency.p90_ms").note == "latency: the record holds no such value"
    assert [row.number(key) for key in ("hps.anime", "fid.fid", "latency.p90_ms")] == [None, None, None]


def test_a_part_is_told_and_never_the_best(make_record: MakeRecord, measured: Measured) -> None:
    whole = measured("hps", {"averaged": 1.0}, scored=8)
    part = measured("hps", {"averaged": 2.0}, scored=6, missing=2)
    rows = rows_of(
        [make_record("dense", "D", whole), make_record("l1-12", "L", part), make_record("l1-21", "M", whole)]
    )
    assert rows[1].value("hps.averaged") == Value(2.0, note="hps: 6 of 8 scored", partial=True)
    assert conditions(rows[1], "hps") == "n = 8"
    assert best_rows(headline("hps"), rows) == {"dense", "l1-21"}


SCORED = {"weights_sha256": "a", "pretrained": "a.pt", "model": "ViT", "detector": "one", "reference_sha256": "r"}


@pytest.mark.parametrize(
    ("metric", "key", "extra"),
    [
        ("hps", "weights_sha256", {}), ("clip_score", "model", {}), ("fid", "reference_sha256", {}),
        ("geneval", "detector", {}), ("fid", "antialias", {}), ("hps", "images", {"scored": 9}),
        ("hps", "images", {"scored": 4, "missing": 3}),
    ],
)  # fmt: skip
def test_scores_of_two_definitions_stand_in_no_column(
    metric: str, key: str, extra: dict[str, int], make_record: MakeRecord, measured: Measured
) -> None:
    ours = measured(metric, {"mean": 9.0}, settings=SCORED | {key: "other"}, **{"scored": 8} | extra)
    ours = ours if not extra else measured(metric, {"mean": 9.0}, settings=SCORED, **extra)
    theirs = measured(metric, {"mean": 1.0}, settings=SCORED, scored=8)
    rows = rows_of([make_record("dense", "D", theirs), make_record("external-x", "X", ours)])
    note = f"{metric}: defined otherwise than in D ({key})"
    assert [row.value(f"{metric}.mean") for row in rows] == [Value(1.0), Value(None, note=note)]


@pytest.mark.parametrize("key", ["pretrained", "prompts_too_long", "results_sha256"])
def test_a_renamed_file_and_counts_of_the_images_define_nothing(
    key: str, make_record: MakeRecord, measured: Measured
) -> None:
    found = [measured("hps", {"mean": 1.0}, settings=SCORED | {key: value}) for value in ("a.pt", "b.pt")]
    rows = rows_of([make_record("dense", "D", found[0]), make_record("external-x", "X", found[1])])
    assert [row.number("hps.mean") for row in rows] == [1.0, 1.0]


def test_rows_of_one_label_are_told_apart_by_their_ids(make_record: MakeRecord, measured: Measured) -> None:
    score = measured("hps", {"averaged": 1.0})
    names = (("dense", "D"), ("external-a", "Mine"), ("external-b", "mine"), ("external-c", "dense"), ("l1-12", "L"))
    rows = rows_of([make_record(*name, score) for name in names])
    labels = {row.variant: row.label for row in rows}
    assert labels == {
        "dense": "D", "external-a": "Mine (external-a)", "external-b": "mine (external-b)",
        "external-c": "dense (external-c)", "l1-12": "L",
    }  # fmt: skip
    with pytest.raises(FastFluxError, match=r"Unknown row 'Mine': .*Mine \(external-a\)"):
        why(rows, "table1", "Mine", "averaged")


def test_speed_up_is_the_inverse_ratio_with_its_interval_turned(make_record: MakeRecord, measured: Measured) -> None:
    latency = measured(
        "latency", {"ratio_to_dense": 0.8}, intervals={"ratio_to_dense": (0.5, 1.0)}, settings={"batch": 1}
    )
    (row,) = rows_of([make_record("l1-12", "L", latency)])
    assert row.value("latency.speedup").value == pytest.approx(1.25)
    assert row.value("latency.speedup").interval == (1.0, 2.0)
    assert conditions(row, "latency") == "batch 1, device test device"


def test_conditions_name_files_and_not_where_they_lay(make_record: MakeRecord, measured: Measured) -> None:
    settings = {"model": "local-dir:/home/me/weights/clip", "weights": "/data/x.pt", "tag": "openai/clip", "list": [1]}
    (row,) = rows_of([make_record("dense", "D", measured("clip_score", {"mean": 1.0}, settings=settings))])
    assert conditions(row, "clip_score") == "model local-dir:clip, tag openai/clip, weights x.pt"


def test_two_profiles_are_refused(make_record: MakeRecord) -> None:
    with pytest.raises(FastFluxError, match="profiles flux-dev, shapes"):
        rows_of([make_record("dense", "D"), make_record("l1-12", "L", profile="flux-dev")])


def test_two_versions_of_a_metric_are_refused(make_record: MakeRecord, measured: Measured) -> None:
    records = [
        make_record("dense", "D", measured("hps", {"averaged": 1.0})),
        make_record("l1-12", "L", measured("hps", {"averaged": 1.0}, version="2")),
    ]
    with pytest.raises(FastFluxError, match="hps has version 1 in dense and 2 in l1-12"):
        rows_of(records)


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match="holds no record"):
        read_rows(tmp_path)
    with pytest.raises(FastFluxError, match="does not exist"):
        read_rows(tmp_path / "nowhere")


def test_another_base_model_stands_behind_with_its_own_dense_model(make_record: MakeRecord) -> None:
    records = [
        make_record("fastsd3-10", "S10", base="small sd3"),
        make_record("l1-12", "L"),
        make_record("sd3", "S", base="small sd3"),
        make_record("dense", "D"),
        make_record("fastother-10", "O", base="not measured itself"),
    ]
    found = [(row.variant, row.baseline) for row in rows_of(records)]
    assert found == [
        ("dense", "dense"),
        ("l1-12", "dense"),
        ("fastother-10", ""),
        ("sd3", "sd3"),
        ("fastsd3-10", "sd3"),
    ]
