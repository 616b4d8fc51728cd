"""`python -m reports pdf`: all tables and figures of a folder of records as one PDF, set by pdflatex."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from bench.tables import TABLES
from fastflux.errors import FastFluxError
from fastflux.files import whole_file, write_text
from reports.build import REPORT, build, build_importance, committed_ranking
from reports.figures.ranking import Ranking
from reports.grouping import DEFAULT_TOLERANCE, device_of
from reports.render.latex.tables import FIT, escape_latex
from reports.rows import Row, read_rows
from reports.tables import model_name, profile_label
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


#: The packages it loads: with them compile all fragments. Debian's package is named for those outside its base.
PACKAGES = {
    "geometry": "texlive-latex-base",
    "graphicx": "texlive-latex-base",
    "longtable": "texlive-latex-base",
    "hyperref": "texlive-latex-base",
    "booktabs": "texlive-latex-recommended",
    "pdflscape": "texlive-latex-recommended",
}
_OPTIONS = {"geometry": "margin=15mm,includefoot", "hyperref": "hidelinks"}
_CLAIMS = "claims"
#: A row of more characters is set on its side.
_WIDE = 118
_PREAMBLE = r"""% The same records give the same bytes: no dates, no file names of this machine.
\pdfinfoomitdate=1 \pdftrailerid{} \pdfsuppressptexinfo=-1
\documentclass[10pt,a4paper]{article}
PACKAGES
\hypersetup{pdftitle={TITLE}}
\hyphenpenalty=1000 \emergencystretch=2em
% Tables and figures stand where they are named, not where a float would go.
\makeatletter
% One that fits a page is not broken.
\newsavebox{\whole}
\newenvironment{inplace}[1]
  {\par\bigskip\setbox\whole=\vbox\bgroup\def\@captype{#1}}
  {\par\egroup\ifdim\dimexpr\ht\whole+\dp\whole\relax<\textheight\box\whole\else\unvbox\whole\fi\par\bigskip}
\renewenvironment{table}[1][]{\inplace{table}}{\endinplace}
\renewenvironment{figure}[1][]{\inplace{figure}}{\endinplace}
% article's own, with room between a caption and its table.
\renewcommand{\@makecaption}[2]{%
  \sbox\@tempboxa{#1: #2}%
  \ifdim\wd\@tempboxa>\hsize #1: #2\par\else\hb@xt@\hsize{\hfil\box\@tempboxa\hfil}\fi
  \nobreak\vskip 4pt\nobreak}
\makeatother
\setlength{\parindent}{0pt}
\begin{document}
"""


def report_document(rows: Sequence[Row], fragments: Mapping[str, str], figures: Sequence[str]) -> str:
    r"""The document for fragments beside it (their texts by file name without .tex) and figures (.pdf or .png).

    First what the records say of themselves, then the claims, the paper's tables, the others, the figures, and last the
    records to which the rows of all tables lead.
    """
    title = f"FastFLUX evaluation: {model_name(rows)}"
    paper = [name for name in fragments if _of_paper(name)]
    sections = {
        "Claims of the paper": [name for name in (_CLAIMS,) if name in fragments],
        "Tables of the paper, measured and as printed": paper,
        "Further tables": [name for name in fragments if name not in {*paper, _CLAIMS, PROVENANCE}],
        "Figures": [],
        "Records": [name for name in (PROVENANCE,) if name in fragments],
    }
    parts = [
        _PREAMBLE.replace("PACKAGES", "\n".join(map(_usepackage, PACKAGES))).replace(
            "TITLE", re.sub(r"[^A-Za-z0-9 .:-]", "", title)
        ),
        rf"\begin{{center}}{{\Large\bfseries {escape_latex(title)}\par}}\end{{center}}",
        _about(rows),
    ]
    for heading, names in sections.items():
        shown = [_input(name, fragments[name]) for name in names]
        shown += [_figure(name) for name in figures] if heading == "Figures" else []
        part = [rf"\section{{{heading}}}", *shown] if shown else []
        parts += [r"\begin{landscape}", *part, r"\end{landscape}"] if heading == "Records" and shown else part
    return "\n".join([*parts, r"\end{document}"]) + "\n"


def _input(name: str, fragment: str) -> str:
    """A table, on a page turned on its side where it would have to shrink too far."""
    body = fragment.partition(r"\midrule")[2].splitlines()
    rows = [
        re.sub(r"\\hyperref\[[^]]*\]|\\[A-Za-z]+ ?|[{}$&\\]| (?= )", "", line) for line in body if line.endswith(r"\\")
    ]
    if max(map(len, rows), default=0) > _WIDE and "longtable" not in fragment:
        return rf"\begin{{landscape}}\input{{{name}}}\end{{landscape}}"
    return rf"\input{{{name}}}"


def _of_paper(name: str) -> bool:
    spec = TABLES.get(name.removesuffix("_paper"))
    return spec is not None and spec.paper


def _usepackage(name: str) -> str:
    options = f"[{_OPTIONS[name]}]" if name in _OPTIONS else ""
    return rf"\usepackage{options}{{{name}}}"


def _about(rows: Sequence[Row]) -> str:
    """What the records say of the run: profile, models, device, commit and dates, each with all it was."""
    records = [row.record for row in rows if row.record is not None]
    dates = sorted(record.created[:10] for record in records)
    facts = {
        "Records": f"{len(records)}, profile {rows[0].profile}, of {' to '.join(dict.fromkeys((dates[0], dates[-1])))}",
        "Base models": _distinct(f"{record.base_model} (weights {record.base_revision})" for record in records),
        "Devices": _distinct(map(device_of, rows)),
        "Commits": _distinct(_commit(record.environment.get("commit")) for record in records),
        "Libraries": _distinct(_libraries(record.environment.get("libraries")) for record in records),
    }
    label = profile_label(rows)
    lines = [rf"\noindent\textbf{{{escape_latex(label)}}}\par\medskip"] if label else []
    lines += [
        r"\begin{list}{}{\labelwidth=26mm \leftmargin=28mm \labelsep=2mm \itemsep=0pt \parsep=0pt",
        r"\def\makelabel#1{#1\hfil}\raggedright}",
        *(rf"\item[{name}] {escape_latex(text)}" for name, text in facts.items()),
        r"\end{list}\medskip",
    ]
    return "\n".join(lines)


def _distinct(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _commit(commit: object) -> str:
    if not isinstance(commit, dict):
        return "unknown"
    return f"{str(commit.get('hash'))[:12]}{', with uncommitted changes' if commit.get('dirty') else ''}"


def _libraries(libraries: object) -> str:
    if not isinstance(libraries, dict):
        return "unknown"
    return ", ".join(f"{name} {version}" for name, version in sorted(libraries.items()) if version)


def _figure(name: str) -> str:
    """A figure in its own size, or as wide as the line where that is less; its title stands in it."""
    return f"\\begin{{figure}}\n\\centering\n{FIT}\\includegraphics{{{name}}}}}\n\\end{{figure}}"
