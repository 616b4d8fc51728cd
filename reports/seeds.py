"""How far the scores hang on the seed of pruning: mean and spread over variants that differ in their seed alone."""

from collections.abc import Sequence
from statistics import mean, stdev

from bench.records.variant_id import DENSE
from bench.tables import SCORES, TABLES, Column
from reports.rows import Row
from reports.table import Cell, Group, Header, Table
from reports.tables import headers, metric_notes, model_name, profile_label, value_cell


def seeds_table(rows: Sequence[Row]) -> Table:
    """A row for each variant that was pruned with other seeds too, under the dense model; it says if none was."""
    repeated = {
        row.variant: [row, *repeats]
        for row in rows
        if (repeats := [repeat for repeat in rows if repeat.id.repeated == row.id])
    }
    shown = [row for members in repeated.values() for row in members]
    dense = [row for row in rows if row.variant == DENSE]
    model, *scores = headers(SCORES, rows, [""] * len(SCORES))
    lines = [
        (Cell(text=row.label), Cell(text=""), *(value_cell(column, row, 1.0) for column in SCORES)) for row in dense
    ]
    for members in repeated.values():
        cells = [_spread(column, members) for column in SCORES]
        lines.append((Cell(text=members[0].label), Cell(float(len(members))), *cells))
    notes = [
        "Mean and standard deviation over prunings with different seeds, in brackets the lowest and the highest."
        if repeated
        else "No variant was pruned with more than one seed."
    ]
    return Table(
        "seeds",
        f"{TABLES['seeds'].title}, {model_name(rows)}",
        (model, Header("Seeds", spec=".0f"), *scores),
        (Group(tuple(lines)),),
        label=profile_label(rows),
        notes=(*notes, *metric_notes(SCORES, [*dense, *shown])),
    )


def _spread(column: Column, rows: Sequence[Row]) -> Cell:
    found = [number for row in rows if (number := row.number(column.key)) is not None]
    gaps = [f"{row.label}: {row.value(column.key).note}" for row in rows if row.number(column.key) is None]
    note = f"of {len(found)} of {len(rows)} seeds; {'; '.join(gaps)}" if gaps else ""
    origin, others = (rows[0].variant, column.key), tuple(row.variant for row in rows[1:])
    if not found:
        return Cell(footnote="; ".join(gaps), origin=origin, others=others)
    text = format(mean(found), column.spec)
    if len(found) == 1:
        return Cell(found[0], text, note, origin=origin, others=others)
    text += f" \N{PLUS-MINUS SIGN} {stdev(found):{column.spec}}"
    return Cell(mean(found), text, note, interval=(min(found), max(found)), origin=origin, others=others)
