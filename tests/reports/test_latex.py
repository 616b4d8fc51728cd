r"""Tables as LaTeX: a whole golden fragment, any text escaped, nothing wider than the page."""

# Golden documents stand here as they are read: longer than code lines.
# ruff: noqa: E501, RUF001

import re
import tempfile
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from reports.pdf import compile_latex
from reports.render.latex.tables import anchor, escape_latex, to_latex
from reports.table import Cell, Group, Header, Table
from tests.reports.conftest import overfull

TABLE = Table(
    name="sample_1",
    title="A_B & C",
    headers=(
        Header("Model|name", align="left"), Header("Score", "up"), Header("Time (ms)", "down", "z.1f"),
        Header("Images drawn", spec=",.0f"), Header("p", spec=".0e"),
    ),
    groups=(
        Group(((Cell(text="a*b_c"), Cell(1.005, bold=True, underline=True), Cell(-0.01), Cell(148480.0), Cell(1e-12)),)),
        Group(
            (
                (
                    Cell(text="[x] 5%"),
                    Cell(footnote="failed: no | weights"),
                    Cell(-12.34, suffix="(-3%)", interval=(-13.0, -12.0)),
                    Cell(3.0, bold=True),
                    Cell(),
                ),
                (
                    Cell(text="<y>", footnote="alone"), Cell(-10.0, underline=True),
                    Cell(2.0, "2.0 ± 0.1", "alone"), Cell(text="$n/a$"), Cell(2.0),
                ),
            ),
            heading="Group #1",
        ),
    ),
    label="Not ~ HPS",
    notes=("n = 3 \\ all --force",),
)  # fmt: skip

PLAIN = r"""% Needs \usepackage{booktabs} and \usepackage{graphicx}.
\begin{table}[t]
\centering
\caption{A\_B \& C. \textbf{Not \textasciitilde{} HPS}}
\label{tab:sample-1}
\resizebox{\ifdim\width>\linewidth \linewidth\else \width\fi}{!}{%
\begin{tabular}{lrrrr}
\toprule
Model\textbar{}name & Score $\uparrow$ & Time (ms) $\downarrow$ & \shortstack[r]{Images\\drawn} & p \\
\midrule
a{*}b\_c & \underline{\textbf{1.00}} & 0.0 & 148,480 & 1e-12 \\
\midrule
\multicolumn{5}{l}{\textit{Group \#1}} \\
{[}x{]} 5\% & --\textsuperscript{a} & $-$12.3 {[}$-$13.0, $-$12.0{]} ($-$3\%) & \textbf{3} & -- \\
\textless{}y\textgreater{}\textsuperscript{b} & \underline{$-$10.00} & 2.0 $\pm$ 0.1\textsuperscript{b} & \$n/a\$ & 2e+00 \\
\bottomrule
\end{tabular}}
\par\smallskip{\footnotesize\raggedright \textsuperscript{a} failed: no \textbar{} weights\par}
\par\smallskip{\footnotesize\raggedright \textsuperscript{b} alone\par}
\par\smallskip{\footnotesize\raggedright n = 3 \textbackslash{} all -{}-force\par}
\end{table}
"""

#: What breaks LaTeX, Markdown or a terminal, or is not in pdflatex's default fonts.
HOSTILE = (
    r"\input{/etc/passwd}", r"\immediate\write18{touch x}", r"\end{table}\end{document}", r"} \\ & % $ # _ ^ ~ { ", "[2em] *",
    "\\", "$", "&", "^^M^^41", "``quoted'' -- --- ?` !` << >> ,,", "<script>alert(1)</script>", "| a | b |", "\x00\x07\x1b[31m",
    "a\u202eb\u200b\ufeff", "中文 字", "Привет", "Ελλάς Ωμέγα", "naïve Łódź Åß œuvre ế ȩ", "😀👨‍👩‍👧 🇩🇪", "\ud800 half",
    "e\u0301\u0323 \u0301", "x" * 300, "漢" * 200, "∑ ≤ ≥ ± × → ⟨⟩ ²³ ½ € © ™", "=1+1", "-5 --5 –5", "ﬁ ﷽ \U000e0041", "",
)  # fmt: skip


def compiled(fragments: Iterable[str], packages: str = "", width: str = "") -> str:
    """The log of a plain article that `\\input`s the fragments; an error fails the test with the log's lines."""
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for number, fragment in enumerate(fragments):
            names.append(f"part{number}")
            Path(folder, f"part{number}.tex").write_text(fragment, encoding="ascii")
        inputs = "\n".join(rf"\input{{{name}}}\clearpage" for name in names)
        used = r"\usepackage{booktabs}\usepackage{graphicx}\usepackage{longtable}"
        main = rf"\documentclass{{article}}{used}{packages}\begin{{document}}{width}{inputs}\end{{document}}"
        document = Path(folder, "main.tex")
        document.write_text(main, encoding="ascii")
        return compile_latex(document, Path(folder, "out", "main.pdf")).with_suffix(".log").read_text(errors="replace")


def test_latex_is_exactly_this() -> None:
    assert to_latex(TABLE) == PLAIN


@given(st.text(alphabet='\\{}$&#%_^~<>|*[]"` ax-'))
def test_escaped_latex_has_no_active_character_left(text: str) -> None:
    commands = r"\\text[a-z]+\{\}|\\texttt\{\\char34\}|\\allowbreak\{\}|\\`\{\}|\\[{}$&#%_]|\{[*\[\]]\}|\{\}"
    assert not re.search(r"[\\{}$&#%_^~<>|*\[\]\"`]|--", re.sub(commands, "\0", escape_latex(text)))


@given(st.text())
@example("".join(HOSTILE))
def test_escaped_latex_is_ascii_on_one_line_and_keeps_every_character(text: str) -> None:
    escaped = escape_latex(text)
    assert escaped.isascii()
    assert escaped.isprintable()
    for character in unicodedata.normalize("NFC", text[:20]):
        if unicodedata.category(character) in {"Lo", "Co", "Cn"} and ord(character) > 0x2FF:
            assert f"U+{ord(character):04X}" in escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Łódź naïve", r"\L{}\'{o}d\'{z} na\"{\i}ve"),
        ("R² of α", r"R$^{2}$ of $\alpha$"),
        ("中文 a", r"$\langle$U+4E2D U+6587$\rangle$ a"),
        ("bell\x07", r"bell$\langle$U+0007$\rangle$"),
        ("--force", r"-{}-force"),
        ("1–5", "1--5"),
        ("0123456789" * 4, r"\allowbreak{}".join(["0123456789"] * 4)),
        ("\u6f22" * 30, rf"$\langle${' '.join(['U+6F22'] * 24)} and 6 more$\rangle$"),
    ],
)
def test_characters_are_typeset_or_shown_by_number(text: str, shown: str) -> None:
    assert escape_latex(text) == shown


def test_anchors_of_different_variants_differ() -> None:
    names = ["a-b", "a_b", "a b", "a.5f.b", "é"]
    assert len({anchor(name) for name in names}) == len(names)
    assert all(re.fullmatch(r"prov:[A-Za-z0-9.-]+", anchor(name)) for name in names)


def test_rows_lead_to_their_records_and_sentences_stay_ragged() -> None:
    rows = ((Cell(text="a"), Cell(1.0, origin=("fastflux-10", "hps.averaged"))), (Cell(text="b"), Cell(2.0)))
    for width, start in ((0.0, ""), (0.5, r"\raggedright ")):
        table = Table("t", "T", (Header("M", align="left", width=width), Header("S")), (Group(rows),))
        text = to_latex(table, records=True)
        assert f"\n{start}\\hyperref[prov:fastflux-10]{{a}} & 1.00" in text
        assert f"\n{start}b & 2.00" in text
        assert r"Records: Table~\ref{tab:provenance}." in text
        assert "hyperref" not in to_latex(table)


@pytest.mark.usefixtures("pdflatex")
def test_tables_compile_in_a_plain_article() -> None:
    sentences = replace(
        TABLE,
        headers=(replace(TABLE.headers[0], width=0.6), Header("Sentence", align="left", width=0.4)),
        groups=(Group(tuple((row[0], Cell(text="a sentence " * 20)) for row in TABLE.groups[1].rows * 20)),),
    )
    many = replace(TABLE, groups=(*TABLE.groups, *(replace(TABLE.groups[1], heading=str(n)) for n in range(25))))
    assert overfull(compiled([to_latex(table) for table in (TABLE, sentences, many)])) == []


@pytest.mark.usefixtures("pdflatex")
def test_a_table_wider_than_the_text_is_shrunk_in_one_column_and_in_two() -> None:
    wide = Table("w", "W", (Header("M", align="left"), *(Header(f"Heading {n}") for n in range(30))),
                 (Group(((Cell(text="a " * 40), *(Cell(float(n)) for n in range(30))),)),))  # fmt: skip
    assert overfull(compiled([to_latex(wide)])) == []
    assert (
        overfull(compiled([to_latex(wide)], width=r"\hsize=200pt\linewidth=200pt\textwidth=200pt\columnwidth=200pt"))
        == []
    )
    planted = re.sub(r"\\resizebox\{.*?\\fi\}\{!\}\{%\n|(?<=\\end\{tabular\})\}", "", to_latex(wide))
    assert overfull(compiled([planted])), "without the shrinking it would be overfull"


def hostile_table(texts: list[str], width: float = 0.0) -> Table:
    """Every text as title, label, heading, group, cell, suffix, footnote and note."""
    groups = tuple(
        Group(((Cell(text=text, bold=True), Cell(1.5, suffix=text, footnote=text), Cell(text=text)),), heading=text)
        for text in texts
    )
    headers = (Header(texts[0], align="left", width=width), Header(texts[-1], "up"), Header("x"))
    return Table("h", texts[0], headers, groups, label=texts[-1], notes=tuple(texts))


@pytest.mark.usefixtures("pdflatex")
@pytest.mark.parametrize("width", [0.0, 0.3])
def test_hostile_text_compiles(width: float) -> None:
    tables = [hostile_table(list(HOSTILE[start : start + 7]), width) for start in range(0, len(HOSTILE), 7)]
    compiled(map(to_latex, tables))


@pytest.mark.usefixtures("pdflatex")
@pytest.mark.parametrize("encoding", ["", r"\usepackage[T1]{fontenc}"])
@settings(max_examples=1, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(texts=st.lists(st.text(max_size=30), min_size=150, max_size=150))
def test_any_text_compiles(encoding: str, texts: list[str]) -> None:
    """150 strings in a document, each in eight places."""
    tables = [hostile_table(texts[start : start + 15]) for start in range(0, len(texts), 15)]
    compiled(map(to_latex, tables), encoding)
