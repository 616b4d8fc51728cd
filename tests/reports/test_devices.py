"""Records of several devices: what hangs on the machine is refused in one table, or noted where that was asked for."""

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.records.results import RunRecord
from fastflux.errors import FastFluxError
from reports.build import build
from reports.cli import main
from reports.grouping import device_of
from reports.rows import rows_of
from tests.reports.conftest import MakeRecord, Measured

NOTE = (
    r"Measured on 2 devices: other device \(l1-12\); test device \(dense, fastflux-10[^)]*\)\. "
    r"Latency, memory and seconds can be compared within one device only\.\n"
)


@pytest.fixture
def mixed(results: Path, hps_records: tuple[RunRecord, ...]) -> Path:
    """The hand-made records, one of them of another device."""
    record = next(record for record in hps_records if record.variant == "l1-12")
    replace(record, environment={"device": "other device"}).write(results / "l1-12.json")
    return results


@pytest.mark.parametrize("table", ["table1", "efficiency", "differences", "claims"])
def test_a_mix_is_refused_before_anything_is_written(mixed: Path, tmp_path: Path, table: str) -> None:
    with pytest.raises(FastFluxError) as caught:
        build(mixed, tmp_path / "out", [table], ["md"])
    assert str(caught.value).startswith(f"Table {table} would mix latency.")
    assert "other device (l1-12); test device (dense, fastflux-10, fastflux-30 and 1 more)" in str(caught.value)
    assert "--mix-devices" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_table_without_the_other_devices_rows_is_none(mixed: Path, tmp_path: Path) -> None:
    build(mixed, tmp_path, ["table6"], ["md"])
    assert "devices" not in (tmp_path / "table6.md").read_text(encoding="utf-8")


def test_the_figure_is_refused_too(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match="The figure of quality against latency would mix"):
        build(mixed, tmp_path, ["table6"], ["png"])


@pytest.mark.parametrize("table", ["table1", "table1_paper", "efficiency", "differences", "claims"])
def test_when_asked_for_a_note_names_the_devices_once(mixed: Path, tmp_path: Path, table: str) -> None:
    build(mixed, tmp_path, [table.removesuffix("_paper")], ["md"], mix_devices=True)
    assert len(re.findall(NOTE, (tmp_path / f"{table}.md").read_text(encoding="utf-8"))) == 1


def test_scores_of_several_devices_are_noted_and_not_refused(
    make_record: MakeRecord, measured: Measured, tmp_path: Path
) -> None:
    for variant, device in (("dense", "test device"), ("fastflux-10", "other device")):
        record = make_record(variant, variant, measured("hps", {"averaged": 1.0}))
        replace(record, environment={"device": device}).write(tmp_path / "in" / f"{variant}.json")
    build(tmp_path / "in", tmp_path / "out", ["table5"], ["md"])
    text = (tmp_path / "out" / "table5.md").read_text(encoding="utf-8")
    assert "Measured on 2 devices: other device (fastflux-10); test device (dense).\n" in text


def test_seconds_of_pruning_hang_on_the_device_and_steps_do_not(
    make_record: MakeRecord, measured: Measured, tmp_path: Path
) -> None:
    for key, message in (("seconds", "mix pruning_cost.seconds"), ("training_steps", "")):
        for variant, device in (("fastflux-10", "a"), ("fastflux-20", "b")):
            record = make_record(variant, variant, measured("pruning_cost", {key: 1.0}))
            replace(record, environment={"device": device}).write(tmp_path / key / f"{variant}.json")
        if message:
            with pytest.raises(FastFluxError, match=message):
                build(tmp_path / key, tmp_path / "out", ["cost"], ["md"])
        else:
            build(tmp_path / key, tmp_path / "out", ["cost"], ["md"])


def test_the_command_line_allows_it_when_asked(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["build", "--results", str(mixed), "--tables", "table1", "--format", "md", "-o", str(tmp_path / "out")]
    assert main(command) == 1
    assert capsys.readouterr().err.startswith("python -m reports: Table table1 would mix")
    assert main([*command, "--mix-devices"]) == 0


@pytest.mark.parametrize(
    ("environment", "device"),
    [
        ({"device": "A", "device_type": "cuda"}, "A"),
        ({"device_type": "cuda", "cpu": "C"}, "cuda"),
        ({"device": None, "cpu": "C"}, "C"),
        ({}, "unknown"),
    ],
)
def test_a_record_names_its_device(make_record: MakeRecord, environment: dict[str, str], device: str) -> None:
    (row,) = rows_of([replace(make_record("dense", "D"), environment=environment)])
    assert device_of(row) == device
