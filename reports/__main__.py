"""The command line: `python -m reports build` writes tables and figures, `python -m reports diff` compares records."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fastflux.errors import FastFluxError
from reports.build import FORMATS, NAMES, build, build_claims, build_importance, write_text
from reports.difference import difference
from reports.full_size import full_size_document
from reports.grouping import DEFAULT_TOLERANCE
from reports.readme import update
from reports.rows import read_rows
from reports.specs import TABLES
from reports.table import Table, to_markdown
from reports.why import why

EXIT_OK, EXIT_ERROR = 0, 1  # argparse itself ends with 2 when the command line cannot be read

_BUILD_EXAMPLES = """examples:
  python -m reports build --results runs/shapes/records -o runs/shapes/tables
  python -m reports build --results runs/shapes/records --tables table1,table6 --format md,tex -o out
  python -m reports build --results runs/shapes/records --format md,png --images runs/shapes -o out
"""
_CLAIMS_EXAMPLES = """examples:
  python -m reports claims --results reports/results/cpu/shapes
  python -m reports claims --results runs/shapes/results --ranking runs/shapes/ranking.json -o claims.md
"""
_WHY_EXAMPLES = """examples:
  python -m reports why table1 FastFLUX-10% averaged
  python -m reports why table6 fastflux-20 latency.median_ms --results runs/shapes/results
"""
_COMMITTED = Path("reports", "results", "cpu", "shapes")
_RANKING = "ranking of the blocks for claims about them; default: the committed one of the profile"
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
    commands = parser.add_subparsers(required=True, metavar="{build,claims,importance,full_size,diff,why,readme}")
    builder = commands.add_parser(
        "build",
        help="write tables and figures",
        description="Write the declared tables, their twins with the paper's figures, and figures.",
        epilog=_BUILD_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    builder.add_argument(
        "--results", type=Path, required=True, metavar="DIR", help="folder of records, one JSON file a variant"
    )
    builder.add_argument(
        "--tables", type=_names, default=list(NAMES), metavar="A,B", help=f"of {', '.join(NAMES)}; default all"
    )
    builder.add_argument(
        "--format", type=_names, default=list(FORMATS), metavar="A,B", help=f"of {', '.join(FORMATS)}; default all"
    )
    builder.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of <variant>/manifest.jsonl: draws the image grid"
    )
    builder.add_argument("--intervals", action="store_true", help="show 95%% intervals behind the values")
    builder.add_argument(
        "--tolerance",
        type=float,
        default=DEFAULT_TOLERANCE,
        metavar="FRACTION",
        help="latency difference within a group; default 0.05",
    )
    builder.add_argument("--ranking", type=Path, metavar="FILE", help=_RANKING)
    builder.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="folder the documents are written to"
    )
    builder.set_defaults(run=_build)
    claimer = commands.add_parser(
        "claims",
        help="hold the paper's claims against records",
        description="Show a verdict for each claim of the paper with the figures that decided it, as Markdown.",
        epilog=_CLAIMS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    claimer.add_argument("--results", type=Path, required=True, metavar="DIR", help="folder of records")
    claimer.add_argument("--ranking", type=Path, metavar="FILE", help=_RANKING)
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
    sizer = commands.add_parser(
        "full_size",
        help="tables of a full-size run",
        description="From the records of `python -m bench full_size`: latency against FLOPs and the paper's ratios, "
        "cost of pruning, scorers, as Markdown.",
    )
    sizer.add_argument("records", type=Path, help="folder of records, such as reports/full_size/flops")
    sizer.add_argument("-o", "--out", type=Path, metavar="FILE", help="write there instead of the terminal")
    sizer.set_defaults(run=_full_size)
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
    asker.add_argument("table", help=f"of {', '.join(TABLES)}")
    asker.add_argument("row", help="a row's label, such as FastFLUX-10%%, or a variant's id")
    asker.add_argument("column", help="a column's heading, such as Averaged, or a value's key, such as hps.averaged")
    asker.add_argument("--results", type=Path, default=_COMMITTED, metavar="DIR", help="default: %(default)s")
    asker.set_defaults(run=_why)
    filler = commands.add_parser(
        "readme",
        help="put the generated tables into README.md",
        description="Fill the places of README.md that are marked `<!-- generated: NAME -->` ... `<!-- end -->`.",
    )
    filler.add_argument("--readme", type=Path, default=Path("README.md"), help="default: %(default)s")
    filler.add_argument("--generated", type=Path, default=Path("reports/generated"), help="default: %(default)s")
    filler.set_defaults(run=_readme)
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _build(options: argparse.Namespace) -> int:
    written = build(
        options.results, options.out, options.tables, options.format, options.images,
        intervals=options.intervals, tolerance=options.tolerance, ranking_file=options.ranking,
    )  # fmt: skip
    for path in written:
        print(path)
    return EXIT_OK


def _importance(options: argparse.Namespace) -> int:
    for path in build_importance(options.ranking, options.out):
        print(path)
    return EXIT_OK


def _claims(options: argparse.Namespace) -> int:
    return _show(build_claims(read_rows(options.results), options.ranking), options.out)


def _full_size(options: argparse.Namespace) -> int:
    text = full_size_document(options.records)
    if options.out is None:
        print(text, end="")
    else:
        print(write_text(options.out, text))
    return EXIT_OK


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


def _readme(options: argparse.Namespace) -> int:
    print("README.md was filled anew." if update(options.readme, options.generated) else "README.md is as generated.")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
