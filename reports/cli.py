"""The command line: `python -m reports --help`."""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from bench.tables import TABLES
from fastflux.command_line import names, run
from fastflux.errors import FastFluxError
from fastflux.files import write_text
from fastflux.text import printable
from reports.build import FORMATS, build, build_importance
from reports.figures.gallery import LONGEST_EDGE, collect
from reports.full_size.document import full_size_document
from reports.grouping import DEFAULT_TOLERANCE
from reports.paired_differences import difference
from reports.pdf import build_pdf
from reports.rebuild import PACKAGE, check, replace_all, write_manifest
from reports.reproduce import ACCEPT, full_size, reproduce, run_bench
from reports.rows import read_rows
from reports.table import to_markdown
from reports.why import why

_COMMITTED = Path(os.path.relpath(PACKAGE / "data" / "results" / "cpu" / "shapes"))


_Names = Annotated[tuple[str, ...], Parameter(converter=names, n_tokens=1, accepts_keys=False, show_default=",".join)]
_Out = Annotated[Path, Parameter(name=("--out", "-o"))]
_Passed = Annotated[str, Parameter(allow_leading_hyphen=True)]
_OptionalOut = Annotated[Path | None, Parameter(name=("--out", "-o"))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Contents:
    """What stands in the documents, and how.

    Attributes:
        tables: names, comma-separated; or .toml files that declare tables (docs/reports.md)
        gallery: images of the variants (`python -m reports gallery`): draws the grids, and shows them in the page
        intervals: show 95% intervals behind the values
        tolerance: latency difference within a group, as a fraction
        ranking: ranking of the blocks for claims about them; default: the committed one of the profile
        mix_devices: let latency, memory and seconds of several devices stand in one table, with a note
    """

    tables: _Names = tuple(TABLES)
    gallery: Path | None = None
    intervals: bool = False
    tolerance: float = DEFAULT_TOLERANCE
    ranking: Path | None = None
    mix_devices: bool = False


_ALL = Contents()
app = App(
    name="python -m reports",
    help="Tables, figures and pages from the records of an evaluation.\n\n"
    "As `fastflux-bench` also draw, score, speed, regress: the suite's own commands (python -m bench --help).",
    help_format="plaintext",
    help_epilogue="""examples:
  python -m reports reproduce --only table6
  python -m reports build --results runs/shapes/selected -o out
  python -m reports diff reports/data/results/cpu/shapes runs/shapes/selected""",
    default_parameter=Parameter(negative=()),
    version_flags=[],
)


@app.command(
    name="build",
    help_epilogue="""examples:
  python -m reports build --results runs/shapes/selected -o runs/shapes/tables
  python -m reports build --results runs/shapes/selected --tables table1,table6 --format md,tex -o out
  python -m reports build --results reports/data/results/cpu/shapes --gallery reports/data/galleries/cpu/shapes -o out
  python -m reports build --results runs/shapes/selected --gallery runs/shapes/gallery --format html -o out
  python -m reports build --results runs/shapes/selected --tables my_tables.toml --format md,csv -o out""",
)
def _build(
    *,
    results: Path,
    formats: Annotated[_Names, Parameter(name="--format")] = FORMATS,
    contents: Contents = _ALL,
    out: _Out,
) -> None:
    """Write tables and figures.

    The declared tables, their twins with the paper's figures, figures, and with the format html all of them, the images
    and the records as one file, page.html.

    Args:
        results: folder of records, one JSON file a variant
        formats: of md, tex, png, svg, pdf, html, csv, comma-separated
        out: folder the documents are written to
    """
    _show(build(results, out, formats=formats, **vars(contents)))


@app.command(
    name="pdf",
    help_epilogue="""examples:
  python -m reports pdf
  python -m reports pdf --results runs/shapes/selected --gallery runs/shapes/gallery -o runs/shapes/reports
  python -m reports pdf --results my_records --tables table1,my_tables.toml -o out""",
)
def _pdf(*, results: Path = _COMMITTED, contents: Contents = _ALL, out: _OptionalOut = None) -> None:
    """Set all tables and figures as one PDF.

    Writes report.pdf, and the LaTeX it is made of in the folder latex beside it. Needs pdflatex:
    apt-get install --no-install-recommends texlive-latex-recommended

    Args:
        results: folder of records
        out: folder to write to; default: runs/<profile>/reports
    """
    _show([build_pdf(results, out or Path("runs", read_rows(results)[0].profile, "reports"), **vars(contents))])


@app.command(
    name="gallery",
    help_epilogue="""examples:
  python -m reports gallery --results runs/shapes/selected --images runs/shapes -o gallery""",
)
def _gallery(*, results: Path, images: Path, shots: int | None = None, edge: int = LONGEST_EDGE, out: _Out) -> None:
    """Keep chosen images of the variants.

    Puts images of every recorded variant but repeats with other seeds, evenly over styles and tasks, into one sheet a
    variant (AVIF), with an index. `build --gallery` draws the grids from it.

    Args:
        results: folder of records
        images: folder of <variant>/manifest.jsonl, such as runs/shapes
        shots: images a variant; by default 80, of large ones 40
        edge: longest edge kept, in pixels
        out: folder to write to
    """
    for made in collect(read_rows(results), images, out, shots=shots, edge=edge):
        _show([f"{made.folder}: {len(made.shots)} images of {len(made.sheets)} variants"])


@app.command(name="rebuild")
def _rebuild(
    *,
    check_only: Annotated[bool, Parameter(name="--check")] = False,
    formats: Annotated[_Names, Parameter(name="--format")] = FORMATS,
) -> int:
    """Make all committed documents anew.

    Writes reports/generated and the generated parts of README.md and docs/results.md from the committed records,
    rankings and galleries, and deletes what nothing makes any more.

    Args:
        check_only: write nothing; say what differs and end with 1 when something does
        formats: further ones, such as svg,html, are written beside the committed ones and not committed
    """
    if not check_only:
        _show(path.relative_to(PACKAGE.parent) for path in replace_all(PACKAGE, formats))
        return 0
    if faults := check(PACKAGE):
        for fault in faults:
            print(f"reports/generated: {fault}", file=sys.stderr)
        raise FastFluxError("The committed documents differ: run `nox -s reports` and commit what it writes.")
    _show(["The committed documents are what the committed records give."])
    return 0


@app.command(name="manifest")
def _manifest() -> None:
    """List the committed records with their digests.

    Checks the records in reports/data against their samples and each other, packs them, adds them to the history, and
    writes SHA256SUMS, which every rebuild holds them against. `--accept` of a run does the same.
    """
    _show([write_manifest(PACKAGE / "data").relative_to(PACKAGE.parent)])


@app.command(name="importance")
def _importance(ranking: Path, /, *, out: _Out) -> None:
    """Draw the importance of every block.

    From a file of `python -m bench rank`: Figure 8 (importance.png), and how far the orders agree and what they cost
    (ranking.md, .tex).

    Args:
        ranking: a ranking file, such as bench/profiles/rankings/shapes.json
        out: folder to write to
    """
    _show(build_importance(ranking, out))


@app.command(name="full_size", help_flags=[])
def _full_size(*options: _Passed) -> int:
    """Measure FLUX.1-dev's size, and show the tables; of a folder of records they are shown at once.

    Takes the options of `python -m bench full_size`, which --help shows, and --accept, which makes this run the
    committed one of its device; or a folder of records, such as reports/data/full_size/flops.
    """
    if len(options) == 1 and Path(options[0]).is_dir():
        _write(full_size_document(Path(options[0])), None)
        return 0
    return full_size(options)


@app.command(
    name="diff",
    help_epilogue="""examples:
  python -m reports diff reports/data/results/cpu/shapes runs/shapes/selected
  python -m reports diff reports/data/results/cpu/shapes runs/shapes/selected -o difference.md""",
)
def _diff(committed: Path, fresh: Path, /, *, out: _OptionalOut = None) -> None:
    """Show how fresh records differ from committed ones, as Markdown.

    Args:
        committed: folder of the committed records
        fresh: folder of the fresh records
        out: file to write instead of the terminal
    """
    _write(to_markdown(difference(committed, fresh)), out)


@app.command(
    name="why",
    help_epilogue="""examples:
  python -m reports why table1 FastFLUX-10% averaged
  python -m reports why table6 fastflux-20 latency.median_ms --results runs/shapes/results""",
)
def _why(table: str, row: str, column: str, /, *, results: Path = _COMMITTED) -> None:
    """Tell where a number of a table comes from.

    Prints the record behind one cell: value at full precision, interval, metric with its settings, commit, weights,
    pruning, seeds, device, date, and the command that measures it again.

    Args:
        table: a table's name, or FILE.toml:NAME
        row: a row's label, such as FastFLUX-10%, or a variant's id
        column: a column's heading, such as Averaged, or a value's key, such as hps.averaged
        results: folder of records
    """
    _write(why(read_rows(results), table, row, column) + "\n", None)


@app.command(
    name="history",
    help_epilogue="""examples:
  python -m reports history --metric hps
  python -m reports history --metric latency -o latency.svg""",
)
def _history(*files: Path, metric: str = "hps", profile: str = "shapes", out: _OptionalOut = None) -> None:
    """Show the trend of a metric over commits, as a table and as a drawing.

    Args:
        files: history files; default: the committed one and that of runs/regress/<profile>
        metric: hps, geneval, clip_score, fid, latency, flops, parameters or memory
        profile: name of a profile
        out: a .png or .svg; default: runs/regress/<profile>/history-<metric>.png
    """
    from reports.figures.history import history_figure, show_history  # matplotlib takes a second to import
    from reports.figures.style import save_figure

    own = Path("runs", "regress", profile)
    places = files or (PACKAGE / "data" / "regression" / "history.jsonl", own / "history.jsonl")
    drawn = out or own / f"history-{metric}.png"
    if drawn.suffix not in (".png", ".svg"):
        raise FastFluxError(f"{drawn} is neither .png nor .svg; name such a file.")
    show_history(places, metric, profile)
    _show([save_figure(history_figure(places, metric, profile), drawn)])


@app.command(name="reproduce", help_flags=[])
def _reproduce(*options: _Passed) -> int:
    """Measure all that the tables need afresh, and write and print them.

    Takes the options of `python -m bench reproduce`, which --help shows, and --accept, which makes this run the
    committed one.
    """
    return reproduce(options)


@app.command(name="rank", help_flags=[])
def _rank(*options: _Passed) -> int:
    """Measure the paper's importance of every block, and with --accept draw it, too.

    Takes the options of `python -m bench rank`, which --help shows.
    """
    status, _ = run_bench("rank", *options)
    if ACCEPT in options and not status:
        _show(path.relative_to(PACKAGE.parent) for path in replace_all(PACKAGE))
    return status


def _show(lines: Iterable[object]) -> None:
    for line in lines:
        print(printable(str(line)))


def _write(text: str, out: Path | None) -> None:
    if out is None:
        print(printable(text), end="")
    else:
        _show([write_text(out, text)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    return run(app, arguments, interrupted="interrupted; every document is whole, the old or the new one")


def suite(arguments: Sequence[str] | None = None) -> int:
    """`fastflux-bench`: all commands of `python -m reports`, and those of `python -m bench` that it lacks."""
    tokens = sys.argv[1:] if arguments is None else list(arguments)
    if tokens and not tokens[0].startswith("-") and tokens[0] not in list(app):
        return run_bench(*tokens)[0]
    return main(tokens)
