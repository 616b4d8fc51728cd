"""Tables as pandas DataFrames and CSV: numbers at full precision, everything else of the table beside them."""

from pathlib import Path

import pandas as pd

from fastflux.files import whole_file
from fastflux.text import one_line
from reports.table import Cell, Header, Table, display, number_parts

#: A spreadsheet takes text that begins so for a formula; an apostrophe before it says that it is none.
_FORMULA = ("=", "+", "-", "@")


def to_frame(table: Table) -> pd.DataFrame:
    """The table as a DataFrame, one row for each of its rows, in order.

    A column of numbers is float64 at full precision in the unit of its heading, NaN where there is none; where the
    table holds intervals they follow as `<heading> low` and `<heading> high`, what else is shown behind a number (a
    share, a p-value, a deviation) as text in `<heading> suffix`. Columns of text are strings. `group` is the heading a
    row stands under, `notes` its footnotes, `scores` the line that says whose scores these are; each is there where the
    table has any. `attrs` holds name, title, label and notes.
    """
    lines = [(group.heading, row) for group in table.groups for row in group.rows]
    columns: dict[str, list[str] | list[float]] = {}

    def add(name: str, values: list[str] | list[float]) -> None:
        unique, number = name, 2
        while unique in columns:
            unique, number = f"{name} ({number})", number + 1
        columns[unique] = values

    if any(heading for heading, _ in lines):
        add("group", [one_line(heading) for heading, _ in lines])
    for place, header in enumerate(table.headers):
        cells = [row[place] for _, row in lines]
        name = one_line(header.text)
        if not _numeric(header, cells):
            add(
                name, [one_line(display(cell, header)) if cell.text or cell.value is not None else "" for cell in cells]
            )
            continue
        add(name, [float("nan") if cell.value is None else cell.value / header.scale for cell in cells])
        if any(cell.interval for cell in cells):
            for side, bound in enumerate(("low", "high")):
                add(
                    f"{name} {bound}",
                    [float("nan") if cell.interval is None else cell.interval[side] for cell in cells],
                )
        suffixes = [_suffix(cell, header) for cell in cells]
        if any(suffixes):
            add(f"{name} suffix", suffixes)
    notes = [_notes(row, table.headers) for _, row in lines]
    if any(notes):
        add("notes", notes)
    if table.label:
        add("scores", [one_line(table.label)] * len(lines))
    frame = pd.DataFrame(
        {name: pd.Series(values, dtype="float64" if _floats(values) else "str") for name, values in columns.items()}
    )
    frame.attrs = {"name": table.name, "title": table.title, "label": table.label, "notes": list(table.notes)}
    return frame


def write_csv(table: Table, path: Path) -> Path:
    """Write the table as CSV, whole or not at all; returns `path`.

    Text that a spreadsheet would take for a formula gets an apostrophe in front. The same table gives the same bytes.
    `pandas.read_csv(path, keep_default_na=False, na_values=[""])` reads every number exactly.
    """
    with whole_file(path) as partial:
        _spreadsheet(to_frame(table)).to_csv(partial, index=False, encoding="utf-8", lineterminator="\n")
    return path


def _spreadsheet(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy whose text, headings included, holds no formula."""
    safe = {
        _harmless(str(name)): column if column.dtype == "float64" else column.map(_harmless)
        for name, column in frame.items()
    }
    return pd.DataFrame(safe)


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _numeric(header: Header, cells: list[Cell]) -> bool:
    """Whether a column holds numbers: one that is aligned like numbers, unless all it holds is text."""
    if header.align != "right" or header.width:
        return False
    return any(cell.value is not None for cell in cells) or not any(cell.text for cell in cells)


def _suffix(cell: Cell, header: Header) -> str:
    parts = number_parts(cell, header)
    rest = parts[1] if parts is not None and parts[1].startswith(" ") else ""
    return one_line(f"{rest} {cell.suffix}")


def _floats(values: list[str] | list[float]) -> bool:
    return not values or isinstance(values[0], float)


def _notes(row: tuple[Cell, ...], headers: tuple[Header, ...]) -> str:
    """The footnotes of a row, and what is shown in a column of numbers without being one."""
    found: dict[str, list[str]] = {}
    for cell, header in zip(row, headers, strict=True):
        if cell.footnote:
            found.setdefault(cell.footnote, []).append(header.text)
        if cell.text and cell.value is None and header.align == "right":
            found.setdefault(cell.text, []).append(header.text)
    return one_line("; ".join(f"{', '.join(where)}: {note}" for note, where in found.items()))
