"""A run of the suite and its documents: the suite is a stand-in that leaves records, in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drawn import edit_record, write_images
from msgspec.structs import replace

from bench.records.results import RunRecord, read_records
from fastflux.errors import FastFluxError
from reports.cli import main
from reports.rebuild import write_manifest
from reports.reproduce import reproduce, run_bench

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
import json, sys
json.dump(sys.argv[1:], open("asked.json", "w"))
print("chatter \\u202e")
if "--fail" in sys.argv:
    sys.exit(3)
if "--dry-run" not in sys.argv:
    print("runs/shapes/run.json")
"""


@pytest.fixture
def package(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder reports/ of a small repository, and a working directory in which `python -m bench` is a stand-in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").touch()  # else the installed package comes first
    (tmp_path / "bench" / "__main__.py").write_text(SUITE, encoding="utf-8")
    folder = tmp_path / "runs" / "shapes"
    shutil.copytree(results, folder / "selected")
    for name in ("dense", "fastflux-10"):
        write_images(folder / name, edge=8)
    note(folder)
    kept = tmp_path / "reports" / "data" / "results" / "cpu" / "shapes"
    shutil.copytree(results, kept)
    write_manifest(kept.parents[2])
    (kept.parents[3] / "generated").mkdir()
    return kept.parents[3]


def note(folder: Path, **changes: object) -> None:
    said = {"profile": "shapes", "device": "cpu", "folder": str(folder), "records": str(folder / "selected"),
            "ranking": None, "tables": ["table6"], "limit": None, "seeds": None, "left": 0}  # fmt: skip
    (folder / "run.json").write_text(json.dumps({**said, **changes}), encoding="utf-8")


def test_the_tables_asked_for_are_printed_and_what_differs(
    package: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "runs" / "shapes" / "selected" / "dense.json"
    edit_record(path, "28.0625", "28.5")
    for other in path.parent.glob("l1-*.json"):
        other.unlink()
    assert reproduce(["--only", "table6"], package / "data") == 0
    shown = capfd.readouterr().out
    assert json.loads((tmp_path / "asked.json").read_text()) == ["reproduce", "--only", "table6"]
    assert "### Table 6" in shown
    assert "### Table 1" not in shown
    told = shown.partition("## This run against the committed records")[2]
    assert "28.50" in told
    assert "not measured afresh" not in told, "committed records of other variants are left out"
    assert (tmp_path / "runs" / "shapes" / "reports" / "page.html").is_file()


def test_a_run_that_is_accepted_takes_the_place_of_the_committed_one(
    package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = package / "data" / "results" / "cpu" / "shapes"
    replace(RunRecord.read(kept / "fastflux-10.json.gz"), variant="fastflux-12").write(kept / "fastflux-12.json.gz")
    monkeypatch.setattr("reports.reproduce.TABLES", ("table6",))
    assert reproduce(["--accept"], package / "data") == 0
    fresh = tmp_path / "runs" / "shapes" / "selected"
    assert {path.name for path in kept.iterdir()} == {f"{path.name}.gz" for path in fresh.iterdir()}
    assert read_records(kept) == read_records(fresh)
    assert (package / "generated" / "table6.md").is_file()
    assert json.loads((tmp_path / "asked.json").read_text()) == ["reproduce", "--all"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "4"], "leave --limit away"),
        (["--only=table1"], "leave --only away"),
        (["--set", "sampling.steps=5"], "leave --set sampling.steps=5 away"),
        (["--set=sampling.steps=5"], "leave --set sampling.steps=5 away"),
    ],
)
def test_a_part_is_never_accepted_and_not_measured(
    package: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["reproduce", "--accept", *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "asked.json").exists()


def test_a_part_that_the_run_names_is_not_accepted(package: Path, tmp_path: Path) -> None:
    note(tmp_path / "runs" / "shapes", limit=4)
    kept = package / "data" / "results" / "cpu" / "shapes" / "dense.json.gz"
    before = kept.stat().st_mtime_ns
    with pytest.raises(FastFluxError, match="keeps whole runs only"):
        reproduce(["--accept"], package / "data")
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(("options", "status"), [(["--fail"], 3), (["--dry-run"], 0)])
def test_without_a_run_there_are_no_documents(package: Path, options: list[str], status: int, tmp_path: Path) -> None:
    assert main(["reproduce", *options]) == status
    assert not (tmp_path / "runs" / "shapes" / "reports").exists()


def test_rank_accepted_is_drawn(
    package: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("reports.cli.PACKAGE", package)
    assert main(["rank", "--accept"]) == 0
    assert "generated/table1.md" in capfd.readouterr().out


UNHEARD = (
    "import signal, threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start();"
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP]);"
)
"""Another thread takes the signal: as when it comes just before a read, nothing wakes the one that waits."""


@pytest.mark.parametrize(("number", "before"), [(signal.SIGTERM, ""), (signal.SIGHUP, UNHEARD)])
def test_a_signal_ends_the_suite_too(package: Path, tmp_path: Path, number: signal.Signals, before: str) -> None:
    suite = "import os, time; open('pid', 'w').write(str(os.getpid())); print('on', flush=True); time.sleep(60)"
    (tmp_path / "bench" / "__main__.py").write_text(suite, encoding="utf-8")
    code = f"{before}import os, sys, reports.cli, reports.reproduce; reports.reproduce._PATIENCE = 1;"
    code += f"os.chdir({str(tmp_path)!r});"
    code += "sys.exit(reports.cli.main(['reproduce']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    pid = int((tmp_path / "pid").read_text())
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the suite still runs")


def test_the_last_line_of_the_suite_is_its_result(package: Path) -> None:
    assert run_bench("reproduce", "--dry-run") == (0, "chatter \u202e")
