"""A table as an HTML fragment: what Markdown shows, with numbers to sort by and each cell's way to its record."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from reports.render.html.html_text import element_id, escape_html
from reports.table import behind, display, letter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reports.table import Cell, Direction, Header, Table

_ARROWS: Mapping[Direction, str] = {
    "up": '&nbsp;<span class="arrow" role="img" aria-label="higher is better">\N{UPWARDS ARROW}</span>',
    "down": '&nbsp;<span class="arrow" role="img" aria-label="lower is better">\N{DOWNWARDS ARROW}</span>',
    "": "",
}


def to_html(table: Table, records: Mapping[str, str] | None = None) -> str:
    """The table as a `figure` with the id of its name; ends with a newline.

    `records` holds, by variant, the id of the element that shows its record. A cell with an origin names it: the ids
    stand in data-record and data-others, the value's key in data-key. data-value is the number at full precision.
    """
    name = element_id(table.name)
    marks = {note: letter(index) for index, note in enumerate(table.footnotes)}
    sentences = " sentences" if all(header.width for header in table.headers) else ""
    lines = [f'<figure class="table{sentences}" id="{name}">', '<div class="scroll">', "<table>"]
    label = f'<p class="whose">{escape_html(table.label)}</p>' if table.label else ""
    lines.append(f'<caption><div class="caption"><h3>{escape_html(table.title)}</h3>{label}</div></caption>')
    lines += _columns(table.headers)
    lines += ["<thead>", "<tr>", *(_heading(header) for header in table.headers), "</tr>", "</thead>"]
    for group in table.groups:
        lines.append("<tbody>")
        if group.heading:
            span = f'scope="rowgroup" colspan="{len(table.headers)}"'
            lines.append(f'<tr class="group"><th {span}><span>{escape_html(group.heading)}</span></th></tr>')
        for row in group.rows:
            cells = [
                _cell(cell, header, index, _mark(cell, name, marks), records or {})
                for index, (cell, header) in enumerate(zip(row, table.headers, strict=True))
            ]
            lines.append(f"<tr>{''.join(cells)}</tr>")
        lines.append("</tbody>")
    lines += ["</table>", "</div>"]
    notes = [
        f'<p id="{name}-note-{mark}"><sup>{mark}</sup> {escape_html(note)}</p>' for note, mark in marks.items()
    ] + [f"<p>{escape_html(note)}</p>" for note in table.notes]
    if notes:
        lines += ['<figcaption class="notes">', *notes, "</figcaption>"]
    return "\n".join([*lines, "</figure>"]) + "\n"


def _columns(headers: Sequence[Header]) -> list[str]:
    """The shares of the width that columns of sentences ask for, of the whole when all columns are."""
    total = sum(header.width for header in headers)
    if not total:
        return []
    whole = total if all(header.width for header in headers) else 1.0
    shares = (f' width="{header.width / whole:.0%}"' if header.width else "" for header in headers)
    return [f"<colgroup>{''.join(f'<col{share}>' for share in shares)}</colgroup>"]


def _kind(header: Header) -> str:
    return "sentence" if header.width else header.align


def _heading(header: Header) -> str:
    better = f' data-better="{header.direction}"' if header.direction else ""
    button = f'<button type="button">{escape_html(header.text)}{_ARROWS[header.direction]}</button>'
    return f'<th scope="col" class="{_kind(header)}" aria-sort="none"{better}>{button}</th>'


def _mark(cell: Cell, name: str, marks: Mapping[str, str]) -> str:
    """The raised letter that leads to the cell's footnote."""
    if not cell.footnote:
        return ""
    mark = marks[cell.footnote]
    return f'<sup><a href="#{name}-note-{mark}" aria-label="note {mark}">{mark}</a></sup>'


def _cell(cell: Cell, header: Header, index: int, mark: str, records: Mapping[str, str]) -> str:
    text = _signed(escape_html(display(cell, header)))
    text = f"<strong>{text}</strong>" if cell.bold else text
    text = f"<u>{text}</u>" if cell.underline else text
    text += "".join(f' <span class="behind">{_signed(escape_html(part))}</span>' for part in behind(cell, header))
    attributes = [f'class="{_kind(header)}"']
    if cell.value is not None and math.isfinite(cell.value):
        attributes.append(f'data-value="{cell.value!r}"')
    if cell.origin is not None and cell.origin[0] in records:
        variant, key = cell.origin
        attributes += [f'data-record="{records[variant]}"', f'data-key="{escape_html(key)}"']
        if others := [records[other] for other in cell.others if other in records]:
            attributes.append(f'data-others="{" ".join(others)}"')
    if header.width:
        attributes.append(f'data-heading="{escape_html(header.text)}"')  # where cells stand below one another
    tag = "td" if index else "th"
    scope = "" if index else ' scope="row"'
    return f"<{tag}{scope} {' '.join(attributes)}>{text}{mark}</{tag}>"


def _signed(text: str) -> str:
    """A minus sign instead of a hyphen before numbers."""
    return re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", text)
