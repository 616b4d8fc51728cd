r"""The stand-alone LaTeX document that `\input`s all tables and shows all figures of one folder of records."""

import re
from collections.abc import Iterable, Mapping, Sequence

from bench.tables import TABLES
from reports.grouping import device_of
from reports.render.latex.tables import FIT
from reports.render.latex.text import escape_latex
from reports.rows import Row
from reports.tables import model_name, profile_label
from reports.why import PROVENANCE

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
