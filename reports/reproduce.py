"""Runs `python -m bench` and makes the documents of what it measured; a run that is accepted becomes the committed one.

The suite runs in a process of its own, since it needs the model libraries, which nothing here does.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from bench.records.results import PLAIN, record_files
from bench.tables import TABLES
from fastflux.command_line import PARENT
from fastflux.errors import FastFluxError
from fastflux.files import replace_files, write_text
from fastflux.text import printable
from reports.build import build
from reports.figures.gallery import collect
from reports.full_size.document import full_size_document
from reports.paired_differences import difference_of
from reports.rebuild import PACKAGE, keep_records, replace_all, write_manifest
from reports.rows import read_rows
from reports.table import to_markdown

ACCEPT, ALL = "--accept", "--all"
#: What makes a run another one than the profile's whole.
_PARTIAL = ("--limit", "--seeds", "--variants", "--only")
#: Settings that may differ from the profile's in a run that is accepted.
_PLACES = ("pipeline", "scorer_", "device", "others", "metrics.")
_FORMATS = ("md", "tex", "png", "svg", "html")
#: Seconds that the suite has to end by itself after a Ctrl-C, which reaches it too.
_PATIENCE = 30.0
#: Seconds that a signal may wait to be heard of.
_LOOK = 1.0


def reproduce(options: Sequence[str], data: Path = PACKAGE / "data") -> int:
    """Measure with these options of `bench reproduce`; show the tables, and what differs from the committed records.

    With "--accept" among the options the run, of all tables, becomes the committed one.
    Returns the suite's exit status.

    Raises:
        FastFluxError: before the work for a run that may not be accepted; after it for documents that cannot be made.
    """
    accept = ACCEPT in options
    options = [option for option in options if option != ACCEPT]
    if accept:
        _require_whole(options)
        options += [] if ALL in options else [ALL]
    status, last = run_bench("reproduce", *options, seen=_show_first)
    if (where := _there(last)) is None or (status and not _ended(where)):  # nothing to show: a dry run, the help
        return status
    if where.is_dir():  # of a profile of random weights, which has no pictures
        _print(full_size_document(where))
        return status
    run: dict[str, Any] = json.loads(where.read_text(encoding="utf-8"))
    folder, records, tables = Path(run["folder"]), Path(run["records"]), run["tables"]
    rows = read_rows(records)
    collect(rows, folder, folder / "gallery")
    ranking = None if run["ranking"] is None else Path(run["ranking"])
    build(records, folder / "reports", tables, _FORMATS, folder / "gallery", ranking=ranking)
    for table in tables:
        _print((folder / "reports" / f"{table}.md").read_text(encoding="utf-8"))
    kept = Path(run["device"], run["profile"])
    committed = data / "results" / kept
    measured = {row.variant for row in rows}
    if record_files(committed) and (before := [row for row in read_rows(committed) if row.variant in measured]):
        _print("\n## This run against the committed records\n\n" + to_markdown(difference_of(before, rows)))
    _print(f"\nTables, figures and page.html are in {os.path.relpath(folder / 'reports')}.\n")
    if accept:
        if status:
            raise FastFluxError(f"{ACCEPT} keeps runs in which nothing failed: mend it and run the same again.")
        if run["limit"] is not None or run["seeds"] is not None or set(tables) != set(TABLES):
            raise FastFluxError(f"{ACCEPT} keeps whole runs only, and {where} is of a part: run it without options.")
        keep_records(records, committed)
        replace_files(data / "galleries" / kept, folder / "gallery")
        write_manifest(data)
        replace_all(data.parent)
        _print(f"accepted: records in {committed}, documents in {data.parent / 'generated'}\n")
    return status


def full_size(options: Sequence[str], kept: Path = PACKAGE / "data" / "full_size") -> int:
    """Measure with these options of `bench full_size` and show the tables; its exit status.

    "--accept" alone keeps the run below `kept`, and writes the tables beside its records.
    """
    accept = ACCEPT in options
    status, last = run_bench("full_size", *(f"{ACCEPT}={kept}" if each == ACCEPT else each for each in options))
    if (records := _there(last)) is not None and records.is_dir():
        _print(full_size_document(records))
    if accept and not status:
        fresh = {path.parent for path in kept.glob(f"*/*{PLAIN}")}
        write_manifest(kept.parent)  # which packs them
        for folder in fresh:
            write_text(folder / "README.md", full_size_document(folder))
    return status


def run_bench(command: str, *options: str, seen: Callable[[str], object] = lambda _line: None) -> tuple[int, str]:
    """Run `python -m bench` with all its output shown as it comes; its exit status and the last line of its results.

    `seen` is given each line, while the suite goes on. It is in the terminal's own process group, so that Ctrl-C
    reaches it too; whatever else ends this process ends it first.
    """
    last = ""
    arguments = [sys.executable, "-m", "bench", command, *options]
    environ = {**os.environ, PARENT: str(os.getpid())}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environ) as bench:  # noqa: S603
        try:
            for line in _lines(bench.stdout):
                sys.stdout.write(line)
                sys.stdout.flush()
                last = line.strip() or last
                seen(line.strip())
            return bench.wait(), last
        except KeyboardInterrupt as error:
            if error.args and error.args[0] != signal.SIGINT:
                bench.terminate()
            with suppress(subprocess.TimeoutExpired):
                bench.wait(_PATIENCE)
            raise
        finally:
            if bench.poll() is None:
                bench.kill()


def _lines(pipe: IO[bytes] | None) -> Iterator[str]:
    """Lines as they come. No wait is long: a signal just before a read would be heard of when there is more to read."""
    rest = b""
    while pipe is not None:
        if select.select([pipe], [], [], _LOOK)[0]:
            if not (more := os.read(pipe.fileno(), 2**16)):
                break
            *lines, rest = (rest + more).split(b"\n")
            yield from (f"{line.decode(errors='replace')}\n" for line in lines)
    if rest:
        yield rest.decode(errors="replace")


def _require_whole(options: Sequence[str]) -> None:
    """Raise FastFluxError unless these options measure the profile as it is, whole."""
    for place, option in enumerate(options):
        name, _, value = option.partition("=")
        if name in _PARTIAL:
            raise FastFluxError(f"{ACCEPT} keeps whole runs only: leave {name} away.")
        setting = (value or "".join(options[place + 1 : place + 2])) if name == "--set" else ""
        if setting and not setting.startswith(_PLACES):
            raise FastFluxError(f"{ACCEPT} keeps runs of the profile as it is: leave --set {setting} away.")


def _there(line: str) -> Path | None:
    """The path that a line names, None where it is no path of anything."""
    with suppress(OSError, ValueError):
        if line and (path := Path(line)).exists():
            return path
    return None


def _show_first(line: str) -> None:
    """Print the tables whose rows are all there while others are still measured."""
    if (
        (where := _there(line)) is not None
        and where.suffix == ".json"
        and (run := json.loads(where.read_text()))["left"]
    ):
        folder = Path(run["folder"]) / "reports"
        build(Path(run["records"]), folder, run["tables"], ("md",), None, ranking=None)
        for table in run["tables"]:
            _print((folder / f"{table}.md").read_text(encoding="utf-8"))


def _ended(where: Path) -> bool:
    """Whether a run came to its end, though some of it failed."""
    return where.is_file() and not json.loads(where.read_text(encoding="utf-8"))["left"]


def _print(text: str) -> None:
    sys.stdout.write(printable(text))
    sys.stdout.flush()
