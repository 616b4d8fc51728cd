"""A table as data: cells keep their value apart from the text shown; rendered as Markdown or as a LaTeX fragment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Direction = Literal["up", "down", ""]

DASH = "\N{EN DASH}"
_MARKDOWN_ARROWS: dict[Direction, str] = {"up": " \N{UPWARDS ARROW}", "down": " \N{DOWNWARDS ARROW}", "": ""}
_LATEX_ARROWS: dict[Direction, str] = {"up": r" $\uparrow$", "down": r" $\downarrow$", "": ""}
_LONG_HEADING, _MANY_COLUMNS = 9, 6
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~$&])")
_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # A row may begin with these, and the \\ before it would take them for its own star or option.
    "*": "{*}", "[": "{[}", "]": "{]}",
    DASH: "--", "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{PLUS-MINUS SIGN}": r"$\pm$",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One cell.

    `value` is the number at full precision (None where there is none), `text` replaces its formatted form, `interval`
    and then `suffix` are shown behind it and never marked, `footnote` is the sentence a raised letter leads to.
    `origin` is where the number was read: a record's variant and the value's key; `others` are the variants of further
    records it was worked out from (the baseline of a difference, other seeds). Neither changes what is shown.
    """

    value: float | None = None
    text: str | None = None
    footnote: str = ""
    bold: bool = False
    underline: bool = False
    interval: tuple[float, float] | None = None
    suffix: str = ""
    origin: tuple[str, str] | None = None
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """A column's heading: which direction is better, the format of its values and its alignment.

    A column of sentences has a `width`, the part of the line's width that LaTeX breaks them to.
    """

    text: str
    direction: Direction = ""
    spec: str = "z.2f"
    align: Literal["left", "right"] = "right"
    width: float = 0.0


@dataclass(frozen=True)
class Group:
    """Rows that belong together, under a heading of their own when there is one."""

    rows: tuple[tuple[Cell, ...], ...]
    heading: str = ""


@dataclass(frozen=True)
class Table:
    """A titled table. `label` is a line no reader may miss (whose scores these are); `notes` stand below.

    Raises ValueError when a row has another number of cells than there are headers.
    """

    name: str
    title: str
    headers: tuple[Header, ...]
    groups: tuple[Group, ...]
    label: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse ragged rows: a shifted value would stand under another metric's heading."""
        for group in self.groups:
            for row in group.rows:
                if len(row) != len(self.headers):
                    raise ValueError(
                        f"Table {self.name!r} has {len(self.headers)} columns, but a row of {len(row)} cells was given."
                    )

    @property
    def footnotes(self) -> tuple[str, ...]:
        """The distinct footnotes in reading order; the n-th is shown as the n-th letter."""
        cells = (cell for group in self.groups for row in group.rows for cell in row)
        return tuple(dict.fromkeys(cell.footnote for cell in cells if cell.footnote))


def display(cell: Cell, header: Header) -> str:
    """The plain text of a cell before markup: its override, its formatted value, or a dash."""
    if cell.text is not None:
        return cell.text
    return DASH if cell.value is None else format(cell.value, header.spec)


def behind(cell: Cell, header: Header) -> list[str]:
    """What follows the value, unmarked: its interval and its suffix, those that there are."""
    interval = (
        "" if cell.interval is None else "[{}, {}]".format(*(format(bound, header.spec) for bound in cell.interval))
    )
    return [text for text in (interval, cell.suffix) if text]


def letter(index: int) -> str:
    """The mark of the footnote with this index from 0: a to z, then aa, ab and so on."""
    mark = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        mark = chr(ord("a") + rest) + mark
    return mark


def escape_markdown(text: str) -> str:
    """`text` as a GitHub-flavoured Markdown table cell that shows exactly these characters on one line."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))


def escape_latex(text: str) -> str:
    """`text` as LaTeX that typesets exactly these characters on one line."""
    return "".join(_LATEX_SPECIAL.get(character, character) for character in " ".join(text.split()))


def to_markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown, padded so that the source can be read too; ends with a newline."""
    marks = {note: letter(index) for index, note in enumerate(table.footnotes)}

    def cell_text(cell: Cell, header: Header) -> str:
        text = escape_markdown(display(cell, header))
        text = f"**{text}**" if cell.bold else text
        text = f"<u>{text}</u>" if cell.underline else text
        text = " ".join([text, *(escape_markdown(part) for part in behind(cell, header))])
        return text + (f"<sup>{marks[cell.footnote]}</sup>" if cell.footnote else "")

    lines = [[escape_markdown(header.text) + _MARKDOWN_ARROWS[header.direction] for header in table.headers]]
    for group in table.groups:
        if group.heading:
            lines.append([f"*{escape_markdown(group.heading)}*"] + [""] * (len(table.headers) - 1))
        lines += [
            [cell_text(cell, header) for cell, header in zip(row, table.headers, strict=True)] for row in group.rows
        ]
    # A group's heading may run past its column in the source: it would widen the first column of every row.
    plain = [line for line in lines if len(line) == 1 or any(line[1:])]
    # Sentences are not padded: one long one would widen the source of every row.
    widths = [
        3 if header.width else max(3, *(len(line[column]) for line in plain))
        for column, header in enumerate(table.headers)
    ]
    rule = [
        "-" * (width - 1) + ":" if header.align == "right" else "-" * width
        for width, header in zip(widths, table.headers, strict=True)
    ]
    padded = [_padded(line, widths, table.headers) for line in lines]
    padded.insert(1, "| " + " | ".join(rule) + " |")
    blocks = [f"### {escape_markdown(table.title)}", f"**{escape_markdown(table.label)}**", "\n".join(padded)]
    blocks += [f"<sup>{mark}</sup> {escape_markdown(note)}" for note, mark in marks.items()]
    blocks += [escape_markdown(note) for note in table.notes]
    return "\n\n".join(block for block in blocks if block != "****") + "\n"


def _padded(line: list[str], widths: list[int], headers: tuple[Header, ...]) -> str:
    cells = (
        text.rjust(width) if header.align == "right" else text.ljust(width)
        for text, width, header in zip(line, widths, headers, strict=True)
    )
    return "| " + " | ".join(cells) + " |"


def to_latex(table: Table) -> str:
    r"""The table as a LaTeX fragment for `\input`, which ends with a newline.

    It needs the booktabs package, and longtable when it has columns of sentences.
    """
    marks = {note: letter(index) for index, note in enumerate(table.footnotes)}

    def cell_text(cell: Cell, header: Header) -> str:
        text = _signed(escape_latex(display(cell, header)))
        text = rf"\textbf{{{text}}}" if cell.bold else text
        text = rf"\underline{{{text}}}" if cell.underline else text
        text = " ".join([text, *(_signed(escape_latex(part)) for part in behind(cell, header))])
        text += rf"\textsuperscript{{{marks[cell.footnote]}}}" if cell.footnote else ""
        return rf"{{\raggedright {text}\par}}" if header.width else text

    columns = "".join(_latex_column(header) for header in table.headers)
    heads = _latex_row(_latex_heading(header) for header in table.headers)
    captions = [escape_latex(f"{table.title}.")] + ([rf"\textbf{{{escape_latex(table.label)}}}"] if table.label else [])
    caption = rf"\caption{{{' '.join(captions)}}}"
    label = rf"\label{{tab:{re.sub('[^A-Za-z0-9]+', '-', table.name)}}}"
    body: list[str] = []
    for group in table.groups:
        body.append(r"\midrule")
        if group.heading:
            heading = rf"\textit{{{escape_latex(group.heading)}}}"
            body.append(rf"\multicolumn{{{len(table.headers)}}}{{l}}{{{heading}}} \\")
        body += _latex_rows(group.rows, table.headers, cell_text)
    notes = [rf"\textsuperscript{{{mark}}} {escape_latex(note)}" for note, mark in marks.items()]
    notes += [escape_latex(note) for note in table.notes]
    below = [rf"\par\smallskip{{\footnotesize {note}\par}}" for note in notes]
    if any(header.width for header in table.headers):
        # Sentences make a table longer than a page, which a float cannot be.
        top = [r"\toprule", heads]
        lines = [
            r"% Needs \usepackage{booktabs} and \usepackage{longtable}.", r"{\small",
            rf"\begin{{longtable}}{{{columns}}}", rf"{caption} {label} \\", *top, r"\endfirsthead",
            *top, r"\endhead", r"\bottomrule", r"\endlastfoot", *body, r"\end{longtable}", *below, "}",
        ]  # fmt: skip
    else:
        lines = [
            r"% Needs \usepackage{booktabs}.", r"\begin{table}[t]", r"\centering", caption, label,
            *([r"\small"] if len(table.headers) > _MANY_COLUMNS else []),
            rf"\begin{{tabular}}{{{columns}}}", r"\toprule", heads,
            *body, r"\bottomrule", r"\end{tabular}", *below, r"\end{table}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _latex_column(header: Header) -> str:
    if header.width:
        return rf"p{{{header.width:g}\linewidth}}"
    return "r" if header.align == "right" else "l"


def _latex_heading(header: Header) -> str:
    """The heading, in two lines when it is long: a table of the paper's eight columns has to fit a page."""
    first, _, last = escape_latex(header.text).rpartition(" ")
    if first and len(header.text) > _LONG_HEADING:
        return rf"\shortstack[{header.align[0]}]{{{first}\\{last}{_LATEX_ARROWS[header.direction]}}}"
    return escape_latex(header.text) + _LATEX_ARROWS[header.direction]


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_rows(
    rows: tuple[tuple[Cell, ...], ...], headers: tuple[Header, ...], cell_text: Callable[[Cell, Header], str]
) -> list[str]:
    return [_latex_row(cell_text(cell, header) for cell, header in zip(row, headers, strict=True)) for row in rows]


def _signed(text: str) -> str:
    """A minus sign instead of a hyphen before numbers."""
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", text)
