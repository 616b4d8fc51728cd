"""Tables as text: whole golden documents, escaping, footnotes."""

# Golden documents stand here as they are read: with dashes, and longer than code lines.
# ruff: noqa: RUF001

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.table import Cell, Group, Header, Table, escape_latex, escape_markdown, letter, to_latex, to_markdown

if TYPE_CHECKING:
    from pathlib import Path

TABLE = Table(
    name="sample_1",
    title="A_B & C",
    headers=(Header("Model|name", align="left"), Header("Score", "up"), Header("Time (ms)", "down", "z.1f")),
    groups=(
        Group(((Cell(text="a*b_c"), Cell(1.005, bold=True, underline=True), Cell(-0.01)),)),
        Group(
            (
                (
                    Cell(text="[x] 5%"),
                    Cell(footnote="failed: no | weights"),
                    Cell(-12.34, suffix="(-3%)", interval=(-13.0, -12.0)),
                ),
                (Cell(text="<y>", footnote="alone"), Cell(footnote="failed: no | weights"), Cell(text="$n/a$")),
            ),
            heading="Group #1",
        ),
    ),
    label="Not ~ HPS",
    notes=("n = 3 \\ all",),
)

MARKDOWN = r"""### A\_B \& C

**Not \~ HPS**

| Model\|name       |         Score ↑ |                  Time (ms) ↓ |
| ----------------- | --------------: | ---------------------------: |
| a\*b\_c           | <u>**1.00**</u> |                          0.0 |
| *Group #1*        |                 |                              |
| \[x\] 5%          |   –<sup>a</sup> | -12.3 \[-13.0, -12.0\] (-3%) |
| \<y\><sup>b</sup> |   –<sup>a</sup> |                      \$n/a\$ |

<sup>a</sup> failed: no \| weights

<sup>b</sup> alone

n = 3 \\ all
"""

LATEX = r"""% Needs \usepackage{booktabs}.
\begin{table}[t]
\centering
\caption{A\_B \& C. \textbf{Not \textasciitilde{} HPS}}
\label{tab:sample-1}
\begin{tabular}{lrr}
\toprule
Model\textbar{}name & Score $\uparrow$ & Time (ms) $\downarrow$ \\
\midrule
a{*}b\_c & \underline{\textbf{1.00}} & 0.0 \\
\midrule
\multicolumn{3}{l}{\textit{Group \#1}} \\
{[}x{]} 5\% & --\textsuperscript{a} & $-$12.3 {[}$-$13.0, $-$12.0{]} ($-$3\%) \\
\textless{}y\textgreater{}\textsuperscript{b} & --\textsuperscript{a} & \$n/a\$ \\
\bottomrule
\end{tabular}
\par\smallskip{\footnotesize \textsuperscript{a} failed: no \textbar{} weights\par}
\par\smallskip{\footnotesize \textsuperscript{b} alone\par}
\par\smallskip{\footnotesize n = 3 \textbackslash{} all\par}
\end{table}
"""


def test_markdown_is_exactly_this() -> None:
    assert to_markdown(TABLE) == MARKDOWN


def test_latex_is_exactly_this() -> None:
    assert to_latex(TABLE) == LATEX


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="'t' has 2 columns, but a row of 1 cells"):
        Table("t", "T", (Header("a"), Header("b")), (Group(((Cell(1.0),),)),))


def test_a_table_without_label_has_no_empty_bold_line() -> None:
    assert (
        to_markdown(Table("t", "T", (Header("a"),), (Group(((Cell(2.0),),)),)))
        == "### T\n\n|    a |\n| ---: |\n| 2.00 |\n"
    )


def test_footnote_letters_go_on_after_z() -> None:
    assert [letter(index) for index in (0, 1, 25, 26, 27, 51, 52)] == ["a", "b", "z", "aa", "ab", "az", "ba"]


@given(st.text())
def test_escaped_markdown_reads_back_as_the_same_words(text: str) -> None:
    escaped = escape_markdown(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[|*_`<>]", re.sub(r"\\.", "", escaped))
    assert re.sub(r"\\(.)", r"\1", escaped) == " ".join(text.split())


@given(st.text(alphabet="\\{}$&#%_^~<>|*[] ax-"))
def test_escaped_latex_has_no_active_character_left(text: str) -> None:
    commands = r"\\text[a-z]+\{\}|\\[{}$&#%_]|\{[*\[\]]\}"
    assert not re.search(r"[\\{}$&#%_^~<>|*\[\]]", re.sub(commands, "", escape_latex(text)))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_latex_fragment_compiles(tmp_path: Path) -> None:
    sentences = replace(TABLE, headers=(replace(TABLE.headers[0], width=0.4), *TABLE.headers[1:]))
    (tmp_path / "table.tex").write_text(to_latex(TABLE) + to_latex(sentences), encoding="utf-8")
    packages = r"\usepackage{booktabs}\usepackage{longtable}"
    main = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{table.tex}}\end{{document}}"
    (tmp_path / "main.tex").write_text(main, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
