r"""A table as a LaTeX fragment for `\input`: booktabs, never wider than the text."""

import re
from collections.abc import Mapping, Sequence
from textwrap import wrap

from reports.render.latex.text import escape_latex, signed
from reports.table import Cell, Direction, Header, Table, behind, display, letter

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


def to_latex(table: Table, *, records: bool = False, row_labels: Sequence[str] = ()) -> str:
    r"""The table as a LaTeX fragment for `\input`, which ends with a newline; pure ASCII.

    Its first line names the packages it needs. With `records` each row leads to its record in provenance.tex, which
    needs hyperref; `row_labels` are labels that others lead to, one for each row.
    """
    marks = {note: letter(index) for index, note in enumerate(table.footnotes)}
    sentences = any(header.width for header in table.headers)
    declarations = "".join(_declaration(header) for header in table.headers)
    heads = _row([_heading(header) for header in table.headers], sentences=sentences)
    body = _body(table, marks, records=records, row_labels=row_labels)
    # In a document LaTeX numbers the tables itself: the paper's number goes behind.
    title = re.sub(r"^(Table \d+): (.*)$", r"\2 (\1 of the paper)", table.title)
    captions = [escape_latex(f"{title}.")] + ([rf"\textbf{{{escape_latex(table.label)}}}"] if table.label else [])
    caption = rf"\caption{{{' '.join(captions)}}}"
    label = rf"tab:{re.sub('[^A-Za-z0-9]+', '-', table.name)}"
    notes = [rf"\textsuperscript{{{mark}}} {escape_latex(note)}" for note, mark in marks.items()]
    notes += [escape_latex(note) for note in table.notes]
    notes += [r"Records: Table~\ref{tab:provenance}."] if records else []
    below = [rf"\par\smallskip{{\footnotesize\raggedright {note}\par}}" for note in notes]
    needs = rf"% Needs \usepackage{{booktabs}} and \usepackage{{{'longtable' if sentences else 'graphicx'}}}."
    if sentences:  # they may fill pages, which a float cannot
        top = [r"\toprule", heads]
        lines = [
            needs, *([r"\providecommand{\phantomsection}{}"] if row_labels else []), r"{\small",
            r"\setlength{\LTcapwidth}{\linewidth}", rf"\begin{{longtable}}{{{declarations}}}",
            rf"{caption} \label{{{label}}} \\", *top, r"\endfirsthead", *top, r"\endhead",
            r"\bottomrule", r"\endlastfoot", *body, r"\end{longtable}", *below, "}",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"
    setup = [r"\small"] if len(table.headers) > _MANY_COLUMNS else []
    lines = [needs, r"\begin{table}[t]", r"\centering", caption, rf"\label{{{label}}}", *setup]
    for number, part in enumerate(_parts(body)):
        if number:  # what does not fit a page goes on in a table of its own
            lines += [r"\end{table}", r"\begin{table}[t]", r"\centering", *setup]
            lines.append(rf"Table~\ref{{{label}}}, continued.\par\smallskip")
        lines += [f"{FIT}%", rf"\begin{{tabular}}{{{declarations}}}", r"\toprule", heads]
        lines += [*part, r"\bottomrule", r"\end{tabular}}"]
    return "\n".join([*lines, *below, r"\end{table}"]) + "\n"


def _body(table: Table, marks: Mapping[str, str], *, records: bool, row_labels: Sequence[str]) -> list[str]:
    """The lines of all groups, each behind a rule and its heading."""
    labels = iter(row_labels)
    body: list[str] = []
    for group in table.groups:
        body.append(_RULE)
        if group.heading:
            heading = _broken(rf"\textit{{{escape_latex(group.heading)}}}", 1)
            body.append(rf"\multicolumn{{{len(table.headers)}}}{{l}}{{{heading}}} \\")
        for row in group.rows:
            cells = [_cell(cell, header, marks) for cell, header in zip(row, table.headers, strict=True)]
            if records and (origin := next((cell.origin for cell in row if cell.origin), None)):
                ragged = _RAGGED if cells[0].startswith(_RAGGED) else ""  # it holds to the end of a paragraph
                cells[0] = rf"{ragged}\hyperref[{anchor(origin[0])}]{{{cells[0].removeprefix(_RAGGED)}}}"
            if label := next(labels, ""):
                cells[0] = rf"\phantomsection\label{{{label}}}{cells[0]}"
            body.append(_row(cells, sentences=any(header.width for header in table.headers)))
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


def _declaration(header: Header) -> str:
    """What stands for the column in tabular's argument."""
    if header.width:
        return rf"p{{\dimexpr {header.width:g}\linewidth-2\tabcolsep\relax}}"
    return "r" if header.align == "right" else "l"


def _cell(cell: Cell, header: Header, marks: Mapping[str, str]) -> str:
    mark = rf"\textsuperscript{{{marks[cell.footnote]}}}" if cell.footnote else ""
    text = signed(escape_latex(display(cell, header)))
    text = rf"\textbf{{{text}}}" if cell.bold else text
    text = rf"\underline{{{text}}}" if cell.underline else text
    text = " ".join([text, *(signed(escape_latex(part)) for part in behind(cell, header))]) + mark
    return f"{_RAGGED}{text}" if header.width else _broken(text)


def _heading(header: Header) -> str:
    """The heading, in several lines when it is long: a table of the paper's eight columns has to fit a page."""
    if header.width:
        return f"{_RAGGED}{escape_latex(header.text)}"
    lines = [
        escape_latex(line) for line in wrap(header.text, _LONG_HEADING, break_long_words=False, break_on_hyphens=False)
    ]
    text = _broken(r"\\".join(lines or [""]) + _ARROWS[header.direction])
    return rf"\shortstack[{header.align[0]}]{{{text}}}" if len(lines) > 1 else text


def _broken(text: str, width: float = 0.4) -> str:
    """Escaped text in lines when it is very long: a row wider than 5 m is more than TeX can count, and shrink."""
    return rf"\parbox[t]{{{width:g}\linewidth}}{{\raggedright {text}\strut}}" if len(text) > _LONGEST_TEXT else text


def _row(cells: Sequence[str], *, sentences: bool = False) -> str:
    # Behind the \raggedright of a sentence \\ means another thing.
    return " & ".join(cells) + (r" \tabularnewline" if sentences else r" \\")
