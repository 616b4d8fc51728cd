"""Tables prompt by prompt and seed by seed: paired differences, and how far scores hang on the seed of pruning."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, stdev

from bench.records.variant_id import DENSE
from bench.tables import BY_LATENCY, BY_NUMBER, SCORES, TABLES, Column
from reports.compare import TEST, chance, compare, prunings, told
from reports.grouping import DEFAULT_TOLERANCE, pairs_of
from reports.rows import Row
from reports.table import Cell, Group, Header, Table
from reports.tables import headers, metric_notes, model_name, profile_label, value_cell


def differences_table(rows: Sequence[Row], tolerance: float = DEFAULT_TOLERANCE) -> Table:
    """Differences of the overall scores with 95% interval and p-value, prompt by prompt; significant ones are bold.

    A variant that was pruned with several seeds stands for the mean of its prunings.

    The partners in latency are those of Tables 1 and 2 (within `tolerance`) and those that were pruned to be as fast.
    """
    named = {row.variant: row for row in rows}
    against_dense = [
        (row, named[row.baseline])
        for row in rows
        if row.id.repeated is None and row.variant != row.baseline and row.baseline in named
    ]
    pairs = [*pairs_of(rows, BY_LATENCY, tolerance).pairs, *pairs_of(rows, BY_NUMBER).pairs]
    partners = [(named[pair.candidate], named[pair.baseline]) for pair in pairs]
    headers = (
        Header("Model", align="left"),
        *(Header(column.heading, spec=f"+{column.spec.lstrip('z')}") for column in SCORES),
    )
    groups = [
        Group(tuple(_line(ours, theirs, rows, named=named) for ours, theirs in pairs), heading)
        for heading, pairs, named in (
            ("Against the dense model", against_dense, False),
            ("FastFLUX against L1-norm pruning of its latency", partners, True),
        )
        if pairs
    ]
    note = (
        f"Differences are paired by prompt and seed; {TEST}. Bold: the interval excludes 0. The p-values are not "
        "corrected for the number of comparisons."
    )
    return Table(
        "differences",
        f"{TABLES['differences'].title}, {model_name(rows)}",
        headers,
        tuple(groups),
        label=profile_label(rows),
        notes=(note, *metric_notes(SCORES, rows)),
    )


def _line(ours: Row, theirs: Row, rows: Sequence[Row], *, named: bool) -> tuple[Cell, ...]:
    sides = [{column.key: prunings(row, rows, column.key) for column in SCORES} for row in (ours, theirs)]
    label, other = (told(max(side.values(), key=len)) for side in sides)
    return (
        Cell(text=f"{label} against {other}" if named else label),
        *(_cell(column.key, *(side[column.key] for side in sides)) for column in SCORES),
    )


def _cell(key: str, candidates: Sequence[Row], baselines: Sequence[Row]) -> Cell:
    found = compare(candidates, baselines, key)
    others = tuple(row.variant for row in (*candidates[1:], *baselines))
    cell = Cell(origin=(candidates[0].variant, key), others=others)
    if isinstance(found, str):
        return replace(cell, footnote=found)
    paired, chances = found.paired, chance(found.paired.p_value)
    estimate = paired.difference
    return replace(cell, value=estimate.value, bold=paired.sign != 0, interval=estimate.interval, suffix=chances)


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
