"""The command line: `python -m reports build` writes tables and figures, `python -m reports diff` compares records."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from fastflux.errors import FastFluxError
from reports.build import ALL_FORMATS, FORMATS, build, build_importance, write_text
from reports.contents import NAMES, build_claims
from reports.difference import difference
from reports.gallery import LONGEST_EDGE, SHOTS, SHOTS_OF_LARGE
from reports.gallery_files import collect
from reports.grouping import DEFAULT_TOLERANCE
from reports.latex.tables import Numbers
from reports.pdf import build_pdf
from reports.rebuild import PACKAGE, check, replace_all
from reports.rows import read_rows
from reports.specs import TABLES
from reports.table import Table, to_markdown
from reports.why import why

EXIT_OK, EXIT_ERROR = 0, 1  # argparse itself ends with 2 when the command line cannot be read

_BUILD_EXAMPLES = """examples:
  python -m reports build --results runs/shapes/records -o runs/shapes/tables
  python -m reports build --results runs/shapes/records --tables table1,table6 --format md,tex -o out
  python -m reports build --results reports/results/cpu/shapes --gallery reports/galleries/cpu/shapes -o out
  python -m reports build --results runs/shapes/records --gallery runs/shapes/gallery --format html -o out
  python -m reports build --results runs/shapes/records --format csv,parquet -o data
  python -m reports build --results runs/shapes/records --tables my_tables.toml --format md,tex --latex siunitx -o out
"""
_PDF_EXAMPLES = """examples:
  python -m reports pdf
  python -m reports pdf --results runs/shapes/records --gallery runs/shapes/gallery -o runs/shapes/reports
  python -m reports pdf --results my_records --tables table1,my_tables.toml --latex siunitx -o out
"""
_CLAIMS_EXAMPLES = """examples:
  python -m reports claims --results reports/results/cpu/shapes
  python -m reports claims --results runs/shapes/results --ranking runs/shapes/ranking.json -o claims.md
"""
_GALLERY_EXAMPLES = """examples:
  python -m reports gallery --results runs/shapes/selected --images runs/shapes -o reports/galleries/cpu/shapes
"""
_WHY_EXAMPLES = """examples:
  python -m reports why table1 FastFLUX-10% averaged
  python -m reports why table6 fastflux-20 latency.median_ms --results runs/shapes/results
"""
_COMMITTED = Path("reports", "results", "cpu", "shapes")
_RANKING = "ranking of the blocks for claims about them; default: the committed one of the profile"
_MIX = "let latency, memory and seconds of several devices stand in one table, with a note; refused otherwise"
_DIFF_EXAMPLES = """examples:
  python -m reports diff reports/results/cpu/shapes runs/shapes/records
  python -m reports diff reports/results/cpu/shapes runs/shapes/records -o difference.md
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when done, 1 after an error told in one sentence, 2 (by argparse) for wrong arguments."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except FastFluxError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(
            f"error: Cannot read or write{where}: {error.strerror or error}; what was written before is whole.",
            file=sys.stderr,
        )
        return EXIT_ERROR
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reports",
        description="Tables and figures from the records of an evaluation.",
        epilog=_BUILD_EXAMPLES + "\n" + _DIFF_EXAMPLES.replace("examples:\n", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="{build,pdf,gallery,claims,importance,diff,why,rebuild}")
    builder = commands.add_parser(
        "build",
        help="write tables and figures",
        description="Write the declared tables, their twins with the paper's figures, figures, and with the format "
        "html all of them, the images and the records as one file, page.html.",
        epilog=_BUILD_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    builder.add_argument(
        "--results", type=Path, required=True, metavar="DIR", help="folder of records, one JSON file a variant"
    )
    builder.add_argument(
        "--format",
        type=_names,
        default=list(FORMATS),
        metavar="A,B",
        help=f"of {', '.join(ALL_FORMATS)}; default {','.join(FORMATS)}",
    )
    _add_contents(builder)
    builder.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="folder the documents are written to"
    )
    builder.set_defaults(run=_build)
    printer = commands.add_parser(
        "pdf",
        help="set all tables and figures as one PDF",
        description="Write report.pdf, and the LaTeX it is made of in the folder latex beside it. Needs pdflatex: "
        "apt-get install --no-install-recommends texlive-latex-recommended texlive-science",
        epilog=_PDF_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    printer.add_argument("--results", type=Path, default=_COMMITTED, metavar="DIR", help="default: %(default)s")
    _add_contents(printer)
    printer.add_argument("-o", "--out", type=Path, metavar="DIR", help="default: runs/<profile>/reports")
    printer.set_defaults(run=_pdf)
    collector = commands.add_parser(
        "gallery",
        help="keep chosen images of the variants",
        description="Put images of every recorded variant, evenly over styles and tasks and of the same seeds, into "
        "one sheet a variant (AVIF), with an index. `build --gallery` draws the grids from it.",
        epilog=_GALLERY_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    collector.add_argument("--results", type=Path, required=True, metavar="DIR", help="folder of records")
    collector.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of <variant>/manifest.jsonl, such as runs/shapes",
    )
    collector.add_argument(
        "--shots", type=int, metavar="N", help=f"images a variant; default {SHOTS}, of large ones {SHOTS_OF_LARGE}"
    )
    collector.add_argument(
        "--edge", type=int, default=LONGEST_EDGE, metavar="PIXELS", help="longest edge kept; default %(default)s"
    )
    collector.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    collector.set_defaults(run=_gallery)
    claimer = commands.add_parser(
        "claims",
        help="hold the paper's claims against records",
        description="Show a verdict for each claim of the paper with the figures that decided it, as Markdown.",
        epilog=_CLAIMS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    claimer.add_argument("--results", type=Path, required=True, metavar="DIR", help="folder of records")
    claimer.add_argument("--ranking", type=Path, metavar="FILE", help=_RANKING)
    claimer.add_argument("--mix-devices", action="store_true", help=_MIX)
    claimer.add_argument("-o", "--out", type=Path, metavar="FILE", help="write there instead of the terminal")
    claimer.set_defaults(run=_claims)
    ranker = commands.add_parser(
        "importance",
        help="draw the importance of every block",
        description="From a file of `python -m bench rank`: Figure 8 (importance.png, .svg), and how far the orders "
        "agree and what they cost (ranking.md, .tex).",
    )
    ranker.add_argument("ranking", type=Path, help="a ranking file, such as reports/rankings/shapes.json")
    ranker.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    ranker.set_defaults(run=_importance)
    differ = commands.add_parser(
        "diff",
        help="compare two folders of records",
        description="Show how fresh records differ from committed ones, as Markdown.",
        epilog=_DIFF_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    differ.add_argument("committed", type=Path, help="folder of the committed records")
    differ.add_argument("fresh", type=Path, help="folder of the fresh records")
    differ.add_argument("-o", "--out", type=Path, metavar="FILE", help="write there instead of the terminal")
    differ.set_defaults(run=_diff)
    asker = commands.add_parser(
        "why",
        help="tell where a number of a table comes from",
        description="Print the record behind one cell: value at full precision, interval, metric with its settings, "
        "commit, weights, pruning, seeds, device, date, and the command that measures it again.",
        epilog=_WHY_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    asker.add_argument("table", help=f"of {', '.join(TABLES)}; or FILE.toml:NAME")
    asker.add_argument("row", help="a row's label, such as FastFLUX-10%%, or a variant's id")
    asker.add_argument("column", help="a column's heading, such as Averaged, or a value's key, such as hps.averaged")
    asker.add_argument("--results", type=Path, default=_COMMITTED, metavar="DIR", help="default: %(default)s")
    asker.set_defaults(run=_why)
    rebuilder = commands.add_parser(
        "rebuild",
        help="make all committed documents anew",
        description="Write reports/generated and the tables of README.md from the committed records, rankings and "
        "galleries, and delete what nothing makes any more.",
    )
    rebuilder.add_argument(
        "--check", action="store_true", help="write nothing; say what differs and end with 1 when something does"
    )
    rebuilder.set_defaults(run=_rebuild)
    return parser


def _add_contents(parser: argparse.ArgumentParser) -> None:
    """What stands in the documents, and how."""
    parser.add_argument(
        "--tables",
        type=_names,
        default=list(NAMES),
        metavar="A,B",
        help=f"of {', '.join(NAMES)}; default all; or .toml files that declare tables (docs/tables.md)",
    )
    parser.add_argument(
        "--gallery",
        type=Path,
        metavar="DIR",
        help="images of the variants (`python -m reports gallery`): draws the grids, and shows them in the page",
    )
    parser.add_argument("--intervals", action="store_true", help="show 95%% intervals behind the values")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=DEFAULT_TOLERANCE,
        metavar="FRACTION",
        help="latency difference within a group; default 0.05",
    )
    parser.add_argument("--ranking", type=Path, metavar="FILE", help=_RANKING)
    parser.add_argument(
        "--latex",
        choices=get_args(Numbers),
        default="plain",
        help="how LaTeX sets numbers: plain columns, or siunitx's, aligned at the decimal mark; default %(default)s",
    )
    parser.add_argument("--mix-devices", action="store_true", help=_MIX)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _build(options: argparse.Namespace) -> int:
    written = build(
        options.results, options.out, options.tables, options.format, options.gallery,
        intervals=options.intervals, tolerance=options.tolerance, ranking_file=options.ranking, latex=options.latex,
        mix_devices=options.mix_devices,
    )  # fmt: skip
    for path in written:
        print(path)
    return EXIT_OK


def _pdf(options: argparse.Namespace) -> int:
    out = options.out or Path("runs", read_rows(options.results)[0].profile, "reports")
    written = build_pdf(
        options.results, out, options.tables, latex=options.latex, gallery_dir=options.gallery,
        intervals=options.intervals, tolerance=options.tolerance, ranking_file=options.ranking,
        mix_devices=options.mix_devices,
    )  # fmt: skip
    print(written)
    return EXIT_OK


def _gallery(options: argparse.Namespace) -> int:
    made = collect(read_rows(options.results), options.images, options.out, shots=options.shots, edge=options.edge)
    for gallery in made:
        print(f"{gallery.folder}: {len(gallery.shots)} images of {len(gallery.sheets)} variants")
    return EXIT_OK


def _importance(options: argparse.Namespace) -> int:
    for path in build_importance(options.ranking, options.out):
        print(path)
    return EXIT_OK


def _claims(options: argparse.Namespace) -> int:
    return _show(
        build_claims(read_rows(options.results), options.ranking, mix_devices=options.mix_devices), options.out
    )


def _diff(options: argparse.Namespace) -> int:
    return _show(difference(options.committed, options.fresh), options.out)


def _why(options: argparse.Namespace) -> int:
    print(why(read_rows(options.results), options.table, options.row, options.column))
    return EXIT_OK


def _show(table: Table, out: Path | None) -> int:
    if out is None:
        print(to_markdown(table), end="")
    else:
        print(write_text(out, to_markdown(table)))
    return EXIT_OK


def _rebuild(options: argparse.Namespace) -> int:
    if not options.check:
        for path in replace_all(PACKAGE, PACKAGE.parent / "README.md"):
            print(path.relative_to(PACKAGE.parent))
        return EXIT_OK
    faults = check(PACKAGE, PACKAGE.parent / "README.md")
    for fault in faults:
        print(f"reports/generated: {fault}", file=sys.stderr)
    if faults:
        print("error: run `nox -s reports` and commit what it writes.", file=sys.stderr)
        return EXIT_ERROR
    print("The committed documents are what the committed records give.")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
