"""What `python -m reports` takes: its commands, their options and examples."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import get_args

from bench.tables import TABLES
from reports.build import ALL_FORMATS, FORMATS
from reports.figures.gallery import LONGEST_EDGE, SHOTS, SHOTS_OF_LARGE
from reports.grouping import DEFAULT_TOLERANCE
from reports.render.latex.tables import Numbers
from reports.why import EXPLAINED

_BUILD_EXAMPLES = """examples:
  python -m reports build --results runs/shapes/selected -o runs/shapes/tables
  python -m reports build --results runs/shapes/selected --tables table1,table6 --format md,tex -o out
  python -m reports build --results reports/data/results/cpu/shapes --gallery reports/data/galleries/cpu/shapes -o out
  python -m reports build --results runs/shapes/selected --gallery runs/shapes/gallery --format html -o out
  python -m reports build --results runs/shapes/selected --format csv,parquet -o data
  python -m reports build --results runs/shapes/selected --tables my_tables.toml --format md,tex --latex siunitx -o out
"""
_PDF_EXAMPLES = """examples:
  python -m reports pdf
  python -m reports pdf --results runs/shapes/selected --gallery runs/shapes/gallery -o runs/shapes/reports
  python -m reports pdf --results my_records --tables table1,my_tables.toml --latex siunitx -o out
"""
_CLAIMS_EXAMPLES = """examples:
  python -m reports claims --results reports/data/results/cpu/shapes
  python -m reports claims --results runs/shapes/selected --ranking bench/profiles/rankings/shapes.json -o claims.md
"""
_GALLERY_EXAMPLES = """examples:
  python -m reports gallery --results runs/shapes/selected --images runs/shapes -o reports/data/galleries/cpu/shapes
"""
_WHY_EXAMPLES = """examples:
  python -m reports why table1 FastFLUX-10% averaged
  python -m reports why table6 fastflux-20 latency.median_ms --results runs/shapes/results
"""
_COMMITTED = Path(os.path.relpath(Path(__file__).parent / "data" / "results" / "cpu" / "shapes"))
_RANKING = "ranking of the blocks for claims about them; default: the committed one of the profile"
_MIX = "let latency, memory and seconds of several devices stand in one table, with a note; refused otherwise"
_DIFF_EXAMPLES = """examples:
  python -m reports diff reports/data/results/cpu/shapes runs/shapes/selected
  python -m reports diff reports/data/results/cpu/shapes runs/shapes/selected -o difference.md
"""


def parser() -> argparse.ArgumentParser:
    """The parser of `python -m reports`; what it reads names its `command`."""
    whole = argparse.ArgumentParser(
        prog="python -m reports",
        description="Tables and figures from the records of an evaluation.",
        epilog=_BUILD_EXAMPLES + "\n" + _DIFF_EXAMPLES.replace("examples:\n", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    _add_documents(commands)
    _add_answers(commands)
    return whole


def _add_documents(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Commands that write documents."""
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
    builder.set_defaults(command="build")
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
    printer.set_defaults(command="pdf")
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
    collector.set_defaults(command="gallery")
    rebuilder = commands.add_parser(
        "rebuild",
        help="make all committed documents anew",
        description="Write reports/generated and the tables of README.md from the committed records, rankings and "
        "galleries, and delete what nothing makes any more.",
    )
    rebuilder.add_argument(
        "--check", action="store_true", help="write nothing; say what differs and end with 1 when something does"
    )
    rebuilder.set_defaults(command="rebuild")


def _add_answers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Commands that answer a question about records, or draw one thing."""
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
    claimer.set_defaults(command="claims")
    ranker = commands.add_parser(
        "importance",
        help="draw the importance of every block",
        description="From a file of `python -m bench rank`: Figure 8 (importance.png, .svg), and how far the orders "
        "agree and what they cost (ranking.md, .tex).",
    )
    ranker.add_argument("ranking", type=Path, help="a ranking file, such as bench/profiles/rankings/shapes.json")
    ranker.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    ranker.set_defaults(command="importance")
    sizer = commands.add_parser(
        "full_size",
        help="tables of a full-size run",
        description="From the records of `python -m bench full_size`: latency against FLOPs and the paper's ratios, "
        "cost of pruning, scorers, as Markdown.",
    )
    sizer.add_argument("records", type=Path, help="folder of records, such as reports/data/full_size/flops")
    sizer.add_argument("-o", "--out", type=Path, metavar="FILE", help="write there instead of the terminal")
    sizer.set_defaults(command="full_size")
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
    differ.set_defaults(command="diff")
    asker = commands.add_parser(
        "why",
        help="tell where a number of a table comes from",
        description="Print the record behind one cell: value at full precision, interval, metric with its settings, "
        "commit, weights, pruning, seeds, device, date, and the command that measures it again.",
        epilog=_WHY_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    asker.add_argument("table", help=f"of {', '.join(EXPLAINED)}; or FILE.toml:NAME")
    asker.add_argument("row", help="a row's label, such as FastFLUX-10%%, or a variant's id")
    asker.add_argument("column", help="a column's heading, such as Averaged, or a value's key, such as hps.averaged")
    asker.add_argument("--results", type=Path, default=_COMMITTED, metavar="DIR", help="default: %(default)s")
    asker.set_defaults(command="why")
    trend = commands.add_parser(
        "history",
        help="draw the trend of a metric over commits",
        description="Draw history files as `python -m bench history` shows them.",
    )
    trend.add_argument("files", type=Path, nargs="+", help="history files, JSON lines")
    trend.add_argument("--metric", default="hps", help="such as hps, geneval, latency; default: %(default)s")
    trend.add_argument("--profile", default="shapes", help="default: %(default)s")
    trend.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="a .png or .svg")
    trend.set_defaults(command="history")


def _add_contents(parser: argparse.ArgumentParser) -> None:
    """What stands in the documents, and how."""
    parser.add_argument(
        "--tables",
        type=_names,
        default=list(TABLES),
        metavar="A,B",
        help=f"of {', '.join(TABLES)}; default all; or .toml files that declare tables (docs/tables.md)",
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
