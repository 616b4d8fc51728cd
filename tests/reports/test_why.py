"""Where a number comes from: the whole text, and names that are not there."""

from pathlib import Path

import pytest

from bench.records.results import RunRecord
from reports.cli import main
from reports.rows import rows_of
from reports.why import why
from tests.reports.conftest import MakeRecord, Measured

WHY = """\
Table 1: HPS by style: FastFLUX-10%, Averaged
value: 27.90
at full precision: 27.9
metric: hps (version 1), hand-made hps, in 100 x cosine
scored: 8, missing: 0, status: ok
settings: none
record: fastflux-10, profile shapes, key KEY, created 2026-01-01T00:00:00+00:00
commit: unknown
base model: tiny, weights 0
pruning: any, none
sampling: steps 4
device: test device, unknown threads, unknown
libraries: unknown
measured again by: nox -s reproduce_tables -- --profile shapes --variants fastflux-10 --force
"""


@pytest.mark.parametrize(
    ("row", "column"), [("FastFLUX-10%", "averaged"), ("fastflux-10", "Averaged"), ("fastflux-10", "hps.averaged")]
)
def test_a_cell_leads_to_its_record(
    results: Path, hps_records: tuple[RunRecord, ...], row: str, column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["why", "table1", row, column, "--results", str(results)]) == 0
    key = next(record.key for record in hps_records if record.variant == "fastflux-10")
    assert capsys.readouterr().out == WHY.replace("KEY", key)


def test_a_gap_has_its_reason(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "table1", "l1-27", "photo", "--results", str(results)]) == 0
    shown = capsys.readouterr().out
    assert "value: hps: failed, scorer weights missing" in shown
    assert "status: failed, scorer weights missing" in shown


@pytest.mark.parametrize(
    ("asked", "message", "nearest"),
    [
        (("tabel1", "dense", "averaged"), "Unknown table 'tabel1'", "'table1'"),
        (("table1", "FastFLUX-11%", "averaged"), "Unknown row 'FastFLUX-11%'", "'FastFLUX-10%'"),
        (("table1", "dense", "fotos"), "Unknown column 'fotos'", "'photo'"),
    ],
)
def test_names_that_are_not_there_are_one_sentence(
    results: Path, asked: tuple[str, str, str], message: str, nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["why", *asked, "--results", str(results)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.endswith(f"; did you mean {nearest}?\n")


def test_a_heading_may_be_given_as_it_is_printed(make_record: MakeRecord, measured: Measured) -> None:
    rows = rows_of([make_record("dense", "D", measured("flops", {"forward": 2.5e12}))])
    assert "at full precision: 2500000000000.0" in why(rows, "table6", "dense", "FLOPs (T)")
