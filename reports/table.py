"""A table as data: cells keep their value apart from the text shown; rendered as Markdown."""

import re
from dataclasses import dataclass
from typing import Literal

from fastflux.text import one_line

Direction = Literal["up", "down", ""]

DASH = "\N{EN DASH}"
#: Behind a value that is not significantly worse than the best.
NEAR = "\N{ALMOST EQUAL TO}"
_MARKDOWN_ARROWS: dict[Direction, str] = {"up": " \N{UPWARDS ARROW}", "down": " \N{DOWNWARDS ARROW}", "": ""}
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~$&#])")
_NUMBER = re.compile(r"(?P<sign>[-+]?)(?P<whole>\d[\d,]*)(?:\.(?P<part>\d+))?(?:e(?P<exponent>[-+]?\d+))?")
#: At the start of a paragraph these would begin a list or draw a line.
_MARKDOWN_START = re.compile(r"(?P<number>\d{1,9})[.)](?: |$)|[-+](?:[ -]|$)")


@dataclass(frozen=True)
class Cell:
    """One cell.

    `value` is the number at full precision (None where there is none), `text` replaces its formatted form, `interval`
    and then `suffix` are shown behind it and never marked, `footnote` is the sentence a raised letter leads to. `near`
    sets a sign behind the value: it is not significantly worse than the best.
    `origin` is where the number was read: a record's variant and the value's key; `others` are the variants of further
    records it was worked out from (the baseline of a difference, other seeds). Neither changes what is shown.
    """

    value: float | None = None
    text: str | None = None
    footnote: str = ""
    bold: bool = False
    underline: bool = False
    near: bool = False
    interval: tuple[float, float] | None = None
    suffix: str = ""
    origin: tuple[str, str] | None = None
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """A column's heading: which direction is better, the format of its values and its alignment.

    A column of sentences has a `width`, the part of the line's width that LaTeX breaks them to. `scale` is what a
    shown 1 stands for: 1e6 under "FLOPs (M)", where cells keep the number of FLOPs as their value.
    """

    text: str
    direction: Direction = ""
    spec: str = "z.2f"
    align: Literal["left", "right"] = "right"
    width: float = 0.0
    scale: float = 1.0


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


def number_parts(cell: Cell, header: Header) -> tuple[re.Match[str], str] | None:
    """A shown number and the text that goes on behind it; None for a cell that shows something else."""
    if cell.value is None:
        return None
    shown = display(cell, header)
    match = _NUMBER.match(shown)
    return None if match is None else (match, shown[match.end() :])


def behind(cell: Cell, header: Header) -> list[str]:
    """What follows the value, unmarked: the sign of `near`, its interval and its suffix, those that there are."""
    interval = (
        "" if cell.interval is None else "[{}, {}]".format(*(format(bound, header.spec) for bound in cell.interval))
    )
    return [text for text in (NEAR if cell.near else "", interval, cell.suffix) if text]


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
    return _MARKDOWN_SPECIAL.sub(r"\\\1", one_line(text))


def _paragraph(text: str) -> str:
    """`text` as a paragraph of its own that is no list, heading or rule, whatever it begins with."""
    escaped = escape_markdown(text)
    start = _MARKDOWN_START.match(escaped)
    if start is None:
        return escaped
    place = start.end("number") if start["number"] else 0
    return f"{escaped[:place]}\\{escaped[place:]}"


def to_markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown, padded so that the source can be read too; ends with a newline."""
    marks = {note: letter(index) for index, note in enumerate(table.footnotes)}

    def cell_text(cell: Cell, header: Header) -> str:
        text = escape_markdown(display(cell, header))
        text = f"**{text}**" if cell.bold and text else text
        text = f"<u>{text}</u>" if cell.underline and text else text
        text = " ".join([text, *(escape_markdown(part) for part in behind(cell, header))])
        return text + (f"<sup>{marks[cell.footnote]}</sup>" if cell.footnote else "")

    lines = [[escape_markdown(header.text) + _MARKDOWN_ARROWS[header.direction] for header in table.headers]]
    for group in table.groups:
        if group.heading:
            heading = escape_markdown(group.heading)
            lines.append([f"*{heading}*" if heading else ""] + [""] * (len(table.headers) - 1))
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
    blocks += [_paragraph(note) for note in table.notes]
    return "\n\n".join(block for block in blocks if block != "****") + "\n"


def _padded(line: list[str], widths: list[int], headers: tuple[Header, ...]) -> str:
    cells = (
        text.rjust(width) if header.align == "right" else text.ljust(width)
        for text, width, header in zip(line, widths, headers, strict=True)
    )
    return "| " + " | ".join(cells) + " |"
