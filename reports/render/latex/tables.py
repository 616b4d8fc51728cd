r"""A table as a LaTeX fragment for `\input`: booktabs, plain columns or siunitx's, never wider than the text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Literal

from reports.render.latex.text import escape_latex, signed
from reports.table import behind, display, letter, number_parts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reports.table import Cell, Direction, Header, Table

Numbers = Literal["plain", "siunitx"]
#: Where a row's record is told in the document, by its variant's anchor.
ANCHOR = "prov:"
_ARROWS: dict[Direction, str] = {"up": r" $\uparrow$", "down": r" $\downarrow$", "": ""}
_LONG_HEADING, _MANY_COLUMNS = 11, 6  # letters, columns
#: Longer text is broken to lines, whatever its column.
_LONGEST_TEXT = 200
#: More lines than this do not fit a page with what stands around them.
_MOST_LINES = 40
_RULE = r"\midrule"
_RAGGED = r"\raggedright "
#: Shrinks what is wider than the text and nothing else, so one fragment fits one column and two.
FIT = r"\resizebox{\ifdim\width>\linewidth \linewidth\else \width\fi}{!}{"
# Right-aligned, since all numbers of a column have as many decimals: so marked ones, which are braced, keep in line.
# detect-weight is understood by versions 2 and 3 of siunitx, which gave it another name.
_SISETUP = (
    r"\sisetup{detect-weight = true, retain-explicit-plus = true, table-number-alignment = right, "
    r"table-text-alignment = right}"
)


@dataclass(frozen=True)
class _Column:
    """How a column is set: siunitx's `number_format` ("" for text), and whether something stands behind the numbers."""

    header: Header
    number_format: str = ""
    trailing: bool = False

    @property
    def declaration(self) -> str:
        """What stands for it in tabular's argument."""
        if self.header.width:
            return rf"p{{\dimexpr {self.header.width:g}\linewidth-2\tabcolsep\relax}}"
        if self.number_format:
            return f"S[table-format = {self.number_format}]" + ("@{}l" if self.trailing else "")
        return "r" if self.header.align == "right" else "l"

    @property
    def places(self) -> int:
        """How many columns of tabular it takes."""
        return 2 if self.trailing else 1


def to_latex(table: Table, numbers: Numbers = "plain", *, records: bool = False, row_labels: Sequence[str] = ()) -> str:
    r"""The table as a LaTeX fragment for `\input`, which ends with a newline; pure ASCII.

    Its first line names the packages it needs. With "siunitx" the numbers stand in S columns, and what is behind them
    (intervals, shares, footnote marks) in columns of their own. With `records` each row leads to its record in
    provenance.tex, which needs hyperref; `row_labels` are labels that others lead to, one for each row.
    """
    marks = {note: letter(index) for index, note in enumerate(table.footnotes)}
    columns = [_column(table, place, numbers) for place in range(len(table.headers))]
    siunitx = any(column.number_format for column in columns)
    sentences = any(header.width for header in table.headers)
    declarations = "".join(column.declaration for column in columns)
    heads = _row([_heading(column) for column in columns], sentences=sentences)
    body = _body(table, columns, marks, records=records, row_labels=row_labels)
    # In a document LaTeX numbers the tables itself: the paper's number goes behind.
    title = re.sub(r"^(Table \d+): (.*)$", r"\2 (\1 of the paper)", table.title)
    captions = [escape_latex(f"{title}.")] + ([rf"\textbf{{{escape_latex(table.label)}}}"] if table.label else [])
    caption = rf"\caption{{{' '.join(captions)}}}"
    label = rf"tab:{re.sub('[^A-Za-z0-9]+', '-', table.name)}"
    notes = [rf"\textsuperscript{{{mark}}} {escape_latex(note)}" for note, mark in marks.items()]
    notes += [escape_latex(note) for note in table.notes]
    notes += [r"Records: Table~\ref{tab:provenance}."] if records else []
    below = [rf"\par\smallskip{{\footnotesize\raggedright {note}\par}}" for note in notes]
    needs = _needs("longtable" if sentences else "graphicx", *(["siunitx"] if siunitx else []))
    setup = [_SISETUP] if siunitx else []
    if sentences:  # they may fill pages, which a float cannot
        top = [r"\toprule", heads]
        lines = [
            needs, *([r"\providecommand{\phantomsection}{}"] if row_labels else []), r"{\small", *setup,
            r"\setlength{\LTcapwidth}{\linewidth}", rf"\begin{{longtable}}{{{declarations}}}",
            rf"{caption} \label{{{label}}} \\", *top, r"\endfirsthead", *top, r"\endhead",
            r"\bottomrule", r"\endlastfoot", *body, r"\end{longtable}", *below, "}",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"
    setup = [*([r"\small"] if len(table.headers) > _MANY_COLUMNS else []), *setup]
    lines = [needs, r"\begin{table}[t]", r"\centering", caption, rf"\label{{{label}}}", *setup]
    for number, part in enumerate(_parts(body)):
        if number:  # what does not fit a page goes on in a table of its own
            lines += [r"\end{table}", r"\begin{table}[t]", r"\centering", *setup]
            lines.append(rf"Table~\ref{{{label}}}, continued.\par\smallskip")
        lines += [f"{FIT}%", rf"\begin{{tabular}}{{{declarations}}}", r"\toprule", heads]
        lines += [*part, r"\bottomrule", r"\end{tabular}}"]
    return "\n".join([*lines, *below, r"\end{table}"]) + "\n"


def _body(
    table: Table, columns: Sequence[_Column], marks: Mapping[str, str], *, records: bool, row_labels: Sequence[str]
) -> list[str]:
    """The lines of all groups, each behind a rule and its heading."""
    labels = iter(row_labels)
    spans = sum(column.places for column in columns)
    body: list[str] = []
    for group in table.groups:
        body.append(_RULE)
        if group.heading:
            heading = _broken(rf"\textit{{{escape_latex(group.heading)}}}", 1)
            body.append(rf"\multicolumn{{{spans}}}{{l}}{{{heading}}} \\")
        for row in group.rows:
            cells = [_cell(cell, column, marks) for cell, column in zip(row, columns, strict=True)]
            if records and (origin := next((cell.origin for cell in row if cell.origin), None)):
                ragged = _RAGGED if cells[0].startswith(_RAGGED) else ""  # it holds to the end of a paragraph
                cells[0] = rf"{ragged}\hyperref[{anchor(origin[0])}]{{{cells[0].removeprefix(_RAGGED)}}}"
            if label := next(labels, ""):
                cells[0] = rf"\phantomsection\label{{{label}}}{cells[0]}"
            body.append(_row(cells, sentences=any(column.header.width for column in columns)))
    return body


def _parts(body: Sequence[str]) -> list[list[str]]:
    """The body in parts that fit a page, each of which begins with a rule; a heading stays with its rows."""
    parts: list[list[str]] = [[]]
    for line in body:
        full = len(parts[-1]) >= _MOST_LINES
        if full and line == _RULE:
            parts.append([])
        elif full and len(parts[-1]) >= _MOST_LINES + 2:
            parts.append([_RULE])
        parts[-1].append(line)
    return parts


def anchor(variant: str) -> str:
    """The label of a variant's record in provenance.tex: of letters, digits and hyphens, other characters by number."""
    return ANCHOR + re.sub("[^A-Za-z0-9-]", lambda found: f".{ord(found[0]):x}.", variant)


def _needs(*packages: str) -> str:
    named = [rf"\usepackage{{{package}}}" for package in ("booktabs", *packages)]
    where = " (Debian: texlive-latex-recommended and texlive-science)" if "siunitx" in packages else ""
    return f"% Needs {', '.join(named[:-1])} and {named[-1]}{where}."


def _column(table: Table, place: int, numbers: Numbers) -> _Column:
    header = table.headers[place]
    cells = [row[place] for group in table.groups for row in group.rows]
    found = [(cell, parts) for cell in cells if (parts := number_parts(cell, header))]
    if numbers == "plain" or header.width or header.align != "right" or not found:
        return _Column(header)
    matches = [match for _, (match, _) in found]
    signs = {match["sign"] for match in matches}
    whole = max(len(match["whole"].replace(",", "")) for match in matches)
    part = max(len(match["part"] or "") for match in matches)
    exponents = [match["exponent"] for match in matches if match["exponent"]]
    digits = max((len(exponent.lstrip("+-")) for exponent in exponents), default=0)
    exponent = f"e{'-' if any('-' in each for each in exponents) else ''}{digits}" if exponents else ""
    sign = "-" if "-" in signs else "+" if "+" in signs else ""
    trailing = any(rest or behind(cell, header) or cell.footnote for cell, (_, rest) in found)
    return _Column(header, f"{sign}{whole}.{part}{exponent}", trailing)


def _cell(cell: Cell, column: _Column, marks: Mapping[str, str]) -> str:
    header = column.header
    mark = rf"\textsuperscript{{{marks[cell.footnote]}}}" if cell.footnote else ""
    after = [signed(escape_latex(part)) for part in behind(cell, header)]
    parts = number_parts(cell, header) if column.number_format else None
    if parts is not None:
        match, rest = parts
        number = _number(match[0].replace(",", ""), cell)
        if not column.trailing:
            return number
        gap = r"\ " if rest[:1].isspace() else ""
        tail = rf"\ {' '.join(after)}" if after else ""
        return f"{number} & " + _broken(f"{gap}{signed(escape_latex(rest))}{tail}{mark}")
    text = signed(escape_latex(display(cell, header)))
    text = rf"\textbf{{{text}}}" if cell.bold else text
    text = rf"\underline{{{text}}}" if cell.underline else text
    text = " ".join([text, *after]) + mark
    text = text if header.width else _broken(text)
    if column.number_format:  # braced, or siunitx would look for a number in it
        return f"{{{text}}} & " if column.trailing else f"{{{text}}}"
    return f"{_RAGGED}{text}" if header.width else text


def _number(number: str, cell: Cell) -> str:
    """A number of an S column; a marked one is braced, since siunitx takes no underline there, and set by its num."""
    if not (cell.bold or cell.underline):
        return number
    text = rf"\num{{{number}}}"
    text = rf"\bfseries{text}" if cell.bold else text
    return rf"{{\underline{{{text}}}}}" if cell.underline else f"{{{text}}}"


def _heading(column: _Column) -> str:
    """The heading, in several lines when it is long: a table of the paper's eight columns has to fit a page."""
    header = column.header
    if header.width:
        return f"{_RAGGED}{escape_latex(header.text)}"
    align = "c" if column.trailing else header.align[0]
    lines = [
        escape_latex(line) for line in wrap(header.text, _LONG_HEADING, break_long_words=False, break_on_hyphens=False)
    ]
    text = r"\\".join(lines or [""]) + _ARROWS[header.direction]
    text = _broken(text)
    if len(lines) > 1:
        text = rf"\shortstack[{align}]{{{text}}}"
    if column.trailing:
        return rf"\multicolumn{{2}}{{c}}{{{text}}}"
    return f"{{{text}}}" if column.number_format else text


def _broken(text: str, width: float = 0.4) -> str:
    """Escaped text in lines when it is very long: a row wider than 5 m is more than TeX can count, and shrink."""
    return rf"\parbox[t]{{{width:g}\linewidth}}{{\raggedright {text}\strut}}" if len(text) > _LONGEST_TEXT else text


def _row(cells: Sequence[str], *, sentences: bool = False) -> str:
    # Behind the \raggedright of a sentence \\ means another thing.
    return " & ".join(cells) + (r" \tabularnewline" if sentences else r" \\")
