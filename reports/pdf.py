"""`python -m reports pdf`: all tables and figures of a folder of records as one PDF, set by pdflatex."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from bench.tables import TABLES
from fastflux.errors import FastFluxError
from fastflux.files import whole_file, write_text
from reports.build import REPORT, build, build_importance, committed_ranking
from reports.figures.ranking import Ranking
from reports.grouping import DEFAULT_TOLERANCE
from reports.render.latex.document import PACKAGES, report_document
from reports.rows import read_rows
from reports.why import PROVENANCE

#: pdflatex itself, and the least that sets `report.tex`.
DEBIAN = "apt-get install --no-install-recommends texlive-latex-recommended"
_RUNS, _SECONDS = 4, 300
_SHOWN = 6


def build_pdf(
    results_dir: Path,
    out_dir: Path,
    tables: Sequence[str] = tuple(TABLES),
    *,
    gallery: Path | None = None,
    intervals: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
    ranking: Path | None = None,
    mix_devices: bool = False,
) -> Path:
    """Write `report.pdf`, and the LaTeX it was made of in the folder `latex` beside it; returns the PDF's path.

    The arguments are those of `reports.build.build`. The same records give the same bytes.

    Raises FastFluxError when pdflatex or one of its packages is missing, before anything is written, as `build` does,
    and with the lines of the log that tell why when the document does not compile.
    """
    check_latex(PACKAGES)
    rows = read_rows(results_dir)
    sources = out_dir / "latex"
    names = [*tables, *([PROVENANCE] if PROVENANCE not in tables else [])]
    written = build(
        results_dir, sources, names, ("tex", "pdf"), intervals=intervals, tolerance=tolerance,
        ranking=ranking, mix_devices=mix_devices, records=True,
    )  # fmt: skip
    order = ranking or committed_ranking(rows)
    if order is not None and (ranking is not None or Ranking.read(order).is_of(rows)):
        written += build_importance(order, sources, ("tex", "pdf"))
    if gallery is not None:  # grids of images, as PNG: they are pixels
        written += build(results_dir, sources, (), (), gallery, ranking=ranking, tolerance=tolerance)
    fragments = {path.stem: path.read_text(encoding="utf-8") for path in written if path.suffix == ".tex"}
    figures = [path.name for path in written if path.suffix in {".pdf", ".png"}]
    document = write_text(sources / f"{REPORT}.tex", report_document(rows, fragments, figures))
    newest = max(datetime.fromisoformat(row.record.created).timestamp() for row in rows if row.record is not None)
    return compile_latex(document, out_dir / f"{REPORT}.pdf", epoch=int(newest))


def check_latex(packages: Mapping[str, str]) -> None:
    """Raise FastFluxError unless pdflatex and all `packages` (with the Debian package of each) are installed."""
    if shutil.which("pdflatex") is None or shutil.which("kpsewhich") is None:
        raise FastFluxError(f"pdflatex is not installed, which makes the PDF: {DEBIAN}")
    asked = [f"{name}.sty" for name in packages]
    # pdflatex and kpsewhich from the path, with our own arguments
    found = subprocess.run(["kpsewhich", *asked], capture_output=True, text=True, check=False).stdout  # noqa: S603, S607
    there = {Path(line).stem for line in found.splitlines()}
    if missing := [name for name in packages if name not in there]:
        where = " ".join(dict.fromkeys(packages[name] for name in missing))
        raise FastFluxError(f"LaTeX lacks {', '.join(missing)}: apt-get install --no-install-recommends {where}")


def compile_latex(document: Path, pdf: Path, *, epoch: int = 0) -> Path:
    """Set `document` by pdflatex, without shell escape, until its references are settled; returns `pdf`.

    What pdflatex writes besides goes to a folder that is removed. `epoch` is the time it takes for now, in seconds.

    Raises FastFluxError with the lines of the log that matter when it does not compile.
    """
    environment = os.environ | {
        "SOURCE_DATE_EPOCH": str(epoch), "FORCE_SOURCE_DATE": "1",
        "max_print_line": "10000",  # a line of the log is a line
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape"]
        command += [f"-output-directory={scratch}", document.name]
        log = Path(scratch, document.stem).with_suffix(".log")
        for _ in range(_RUNS):
            try:
                done = subprocess.run(  # noqa: S603
                    command, cwd=document.parent, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                    check=False, timeout=_SECONDS,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise FastFluxError(f"pdflatex did not end within {_SECONDS} s on {document}.") from None
            text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
            if done.returncode:
                raise FastFluxError(
                    f"pdflatex cannot set {document}: {_why(text) or f'it ended with {done.returncode}'}"
                )
            if "Rerun to get" not in text and "Rerun LaTeX" not in text:
                break
        with whole_file(pdf) as partial:
            shutil.copyfile(log.with_suffix(".pdf"), partial)
        shutil.copyfile(log, pdf.with_suffix(".log"))
    return pdf


def _why(log: str) -> str:
    """From the log of a run that failed: each error with the line of the source it stands in."""
    lines = log.splitlines()
    shown: list[str] = []
    for place, line in enumerate(lines):
        if line.startswith("!"):
            shown.append(line.removeprefix("! "))
            shown += [each for each in lines[place + 1 : place + 12] if re.match(r"l\.\d+", each)][:1]
    return " / ".join(shown[:_SHOWN])
