"""Records: round trip, refusals, keys and whole files."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bench.records.results import (
    Measurement,
    MetricInfo,
    RecordError,
    RunRecord,
    read_records,
    record_files,
    record_text,
)
from bench.regression.baseline import Snapshot
from bench.regression.history import read_history

DATA = Path(__file__).parents[2] / "reports" / "data"
INFO = MetricInfo("hps", "1", "100 x cosine", True, "a test scorer")
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def measurement(value: float = 28.32, name: str = "hps") -> Measurement:
    return Measurement(
        replace(INFO, name=name), "ok", values={"averaged": value}, intervals={"averaged": (value, value)}, scored=2,
        samples={"anime/hps-anime-000": [value, value]}, settings={"model": "tiny", "sizes": [1, 2]},
    )  # fmt: skip


def record(variant: str = "dense", *measurements: Measurement, steps: int = 4) -> RunRecord:
    return RunRecord(
        profile="shapes", variant=variant, label=variant.title(),
        plan=None if variant == "dense" else {"method": variant}, base_model="flux-shapes", base_revision="abc",
        environment={"device": "a CPU", "cores": 2}, sampling={"steps": steps, "guidance": 3.0},
        measurements=measurements, created="2026-01-02T03:04:05+00:00",
    )  # fmt: skip


@given(
    value=FINITE,
    name=st.text(min_size=1),
    settings=st.dictionaries(st.text(), FINITE | st.none() | st.lists(st.text())),
)
def test_json_round_trip_keeps_every_bit(
    value: float, name: str, settings: dict[str, float | list[str] | None]
) -> None:
    found = replace(record("dense", measurement(value)), label=name, sampling=settings)
    assert RunRecord.from_json(found.to_json()) == found


def test_tuples_become_lists_so_that_a_record_equals_its_file(tmp_path: Path) -> None:
    found = replace(record(), sampling={"size": (64, 64)}, environment={"torch": torch.__version__})
    found.write(tmp_path / "r.json")
    assert RunRecord.read(tmp_path / "r.json") == found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(RecordError, match=r"averaged is .*finite"):
        Measurement(INFO, "ok", values={"averaged": value})
    with pytest.raises(RecordError, match="finite"):
        Measurement(INFO, "ok", values={"averaged": 1.0}, samples={"p": [value]})
    with pytest.raises(RecordError, match="finite"):
        Measurement(INFO, "ok", values={"averaged": 1.0}, settings={"scale": value})


def test_a_measurement_without_numbers_needs_a_reason_and_has_no_values() -> None:
    assert Measurement.failed(INFO, "no images").values == {}
    assert Measurement.skipped(INFO, "needs a GPU").status == "skipped"
    with pytest.raises(RecordError, match="without a reason"):
        Measurement(INFO, "failed")
    with pytest.raises(RecordError, match="failed and yet has values"):
        Measurement(INFO, "failed", "broken", values={"averaged": 0.0})
    with pytest.raises(RecordError, match="ok but has no values"):
        Measurement(INFO, "ok")


def test_intervals_belong_to_values_and_are_ordered() -> None:
    with pytest.raises(RecordError, match="none of its values"):
        Measurement(INFO, "ok", values={"a": 1.0}, intervals={"b": (0.0, 1.0)})
    with pytest.raises(RecordError, match="low <= high"):
        Measurement(INFO, "ok", values={"a": 1.0}, intervals={"a": (2.0, 1.0)})


def test_numbers_must_be_numbers() -> None:
    for wrong in ("28.3", True):
        with pytest.raises(RecordError, match=rf"values: Expected `float`, got `{type(wrong).__name__}`"):
            Measurement(INFO, "ok", values={"a": wrong})  # type: ignore[dict-item]
    with pytest.raises(RecordError, match="plain JSON"):
        Measurement(INFO, "ok", values={"a": 1.0}, settings={"path": Path()})  # type: ignore[dict-item]


def test_measurements_are_found_and_replaced_by_name() -> None:
    found = record("dense", measurement(1.0, "hps"), measurement(2.0, "clip_score"))
    assert found.measurement("fid") is None
    changed = found.with_measurement(measurement(3.0, "hps")).with_measurement(measurement(4.0, "fid"))
    assert [(m.info.name, m.values["averaged"]) for m in changed.measurements] == [
        ("hps", 3.0),
        ("clip_score", 2.0),
        ("fid", 4.0),
    ]
    with pytest.raises(RecordError, match="two measurements of one name"):
        record("dense", measurement(), measurement())


def test_key_follows_what_determines_the_images_and_nothing_else() -> None:
    found = record("fastflux-10")
    assert len(found.key) == 16
    assert found.key == replace(found, label="x", environment={}, created="2027-01-01").key
    assert found.key == found.with_measurement(measurement()).key
    others = [
        record("fastflux-15"), record("fastflux-10", steps=5), replace(found, plan=None),
        replace(found, profile="flux-dev"), replace(found, base_revision="abd"), replace(found, base_model="other"),
        replace(found, inputs={"pruning": "abc"}),
    ]  # fmt: skip
    assert len({found.key, *(other.key for other in others)}) == 8


def test_write_leaves_one_whole_file_and_keeps_the_old_one_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "dense.json"
    record().write(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["dense.json"]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        record("dense", measurement()).write(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["dense.json"]
    assert RunRecord.read(path) == record()


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "version": (lambda data: data.update(schema_version=3, new_key=1), "schema version 3; this version reads 2"),
    "unknown": (lambda data: data.update(scores={}), r"unknown field `scores`"),
    "missing": (lambda data: data.pop("profile"), r"missing required field `profile`"),
    "time": (lambda data: data.update(created="yesterday"), r"created 'yesterday'; expected an ISO 8601 time"),
    "plan": (lambda data: data.update(plan=[]), r"got `array` - at `\$\.plan`"),
    "misspelt": (lambda data: data["measurements"][0].update(vlaues={}), r"`vlaues` - at `\$\.measurements\[0\]`"),
    "type": (
        lambda data: data["measurements"][0].update(scored="2"),
        r"got `str` - at `\$\.measurements\[0\]\.scored`",
    ),
    "count": (lambda data: data["measurements"][0].update(missing=-1), r">= 0 - at `\$\.measurements\[0\]\.missing`"),
    "status": (lambda data: data["measurements"][0].update(status="fine"), r"at `\$\.measurements\[0\]\.status`"),
    "text": (lambda data: data["measurements"][0]["values"].update(averaged="1"), r"`\$\.measurements\[0\]\.values\["),
    "finite": (
        lambda data: data["measurements"][0]["values"].update(averaged=math.nan),
        r"values.averaged is nan; expected a finite number.* - at `\$\.measurements\[0\]`",
    ),
    "interval": (
        lambda data: data["measurements"][0]["intervals"].update(averaged=[2, 1]),
        r"interval 'averaged' is \(2.0, 1.0\); expected low <= high. - at `\$\.measurements\[0\]`",
    ),
    "failed": (
        lambda data: data["measurements"][0].update(status="failed", reason="broken"),
        r"failed and yet has values \['averaged'\].* - at `\$\.measurements\[0\]`",
    ),
    "unit": (lambda data: data["measurements"][0]["info"].pop("unit"), r"`unit` - at `\$\.measurements\[0\]\.info`"),
}


@pytest.mark.parametrize(("fault", "match"), FAULTS.values(), ids=FAULTS)
def test_a_fault_in_a_record_is_named_with_its_file_and_place(
    tmp_path: Path, fault: Callable[[dict[str, Any]], object], match: str
) -> None:
    path = tmp_path / "dense.json"
    data = json.loads(record("dense", measurement()).to_json())
    fault(data)
    path.write_text(json.dumps(data))
    with pytest.raises(RecordError, match=match) as caught:
        RunRecord.read(path)
    assert str(path) in str(caught.value)


def test_what_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dense.json"
    for text, match in ((record().to_json()[:-20], "not whole JSON"), ("[]", "`object`"), ("[" * 9999, "JSON")):
        path.write_text(text)
        with pytest.raises(RecordError, match=match):
            RunRecord.read(path)
    path.write_bytes(b"\xff")
    record("dense").write(torn := tmp_path / "torn.json.gz")
    assert RunRecord.read(torn) == record("dense")
    torn.write_bytes(torn.read_bytes()[:-9])
    for unreadable in (path, torn, tmp_path / "absent.json"):
        with pytest.raises(RecordError, match="cannot be read"):
            RunRecord.read(unreadable)


COMMITTED = sorted(path for folder in ("results", "full_size", "regression") for path in record_files(DATA / folder))


def test_committed_records_come_back_byte_by_byte() -> None:
    assert len(COMMITTED) > 40
    for path in COMMITTED:
        read = Snapshot.read if "regression" in path.parts else RunRecord.read
        assert read(path).to_json() == record_text(path.name, path.read_bytes()), path
    history = DATA / "regression" / "history.jsonl"
    assert sorted(point.line() for point in read_history([history])) == sorted(history.read_text().splitlines())


def test_read_records_sorts_by_variant_and_refuses_doubles(tmp_path: Path) -> None:
    for name in ("l1-12", "dense", "fastflux-10"):
        record(name).write(tmp_path / f"{name}.json")
    (tmp_path / "notes.txt").write_text("not a record")
    assert [found.variant for found in read_records(tmp_path)] == ["dense", "fastflux-10", "l1-12"]
    record("dense").write(tmp_path / "again.json")
    with pytest.raises(RecordError, match=r"again\.json.*dense\.json.*keep one"):
        read_records(tmp_path)
    with pytest.raises(RecordError, match="not a folder"):
        read_records(tmp_path / "absent")
