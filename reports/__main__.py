"""The command line: `python -m reports build` writes tables and figures, `python -m reports diff` compares records."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fastflux.errors import FastFluxError
from fastflux.files import write_text
from reports.build import build, build_importance
from reports.command_line import parser
from reports.contents import build_claims
from reports.difference import difference
from reports.figures.gallery_files import collect
from reports.full_size.document import full_size_document
from reports.pdf import build_pdf
from reports.rebuild import PACKAGE, check, replace_all
from reports.rows import read_rows
from reports.table import Table, to_markdown
from reports.why import why

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

EXIT_OK, EXIT_ERROR = 0, 1  # argparse itself ends with 2 when the command line cannot be read


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when done, 1 after an error told in one sentence, 2 (by argparse) for wrong arguments."""
    options = parser().parse_args(arguments)
    try:
        status = _COMMANDS[options.command](options)
    except FastFluxError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(
            f"error: Cannot read or write{where}: {error.strerror or error}; what was written before is whole.",
            file=sys.stderr,
        )
        return EXIT_ERROR
    return status


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


def _history(options: argparse.Namespace) -> int:
    from reports.figures.history import history_figure  # matplotlib takes a second to import
    from reports.figures.style import save_figure

    if options.out.suffix not in (".png", ".svg"):
        raise FastFluxError(f"{options.out} is neither .png nor .svg; name such a file.")
    print(save_figure(history_figure(options.files, options.metric, options.profile), options.out))
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


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "build": _build,
    "pdf": _pdf,
    "gallery": _gallery,
    "claims": _claims,
    "importance": _importance,
    "full_size": _full_size,
    "diff": _diff,
    "why": _why,
    "history": _history,
    "rebuild": _rebuild,
}


if __name__ == "__main__":
    sys.exit(main())
