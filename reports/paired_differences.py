"""Differences: between variants prompt by prompt, between seeds of pruning, of fresh records from committed ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import msgspec

from bench.records.variant_id import DENSE
from bench.tables import BY_LATENCY, BY_NUMBER, FLOPS_RATIO, GENEVAL, HPS, LATENCY_RATIO, SCORES, TABLES, Column
from reports.grouping import DEFAULT_TOLERANCE, TEST, chance, compare, pairs_of, prunings, told
from reports.rows import Row, read_rows
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


COMPARED = (HPS, GENEVAL, msgspec.structs.replace(FLOPS_RATIO, spec="z.4f"), LATENCY_RATIO)
_HEADERS = (
    Header("Model", align="left"),
    Header("Value", align="left"),
    Header("Committed"),
    Header("Fresh"),
    Header("Difference"),
)


def difference(committed: Path, fresh: Path) -> Table:
    """The table of both folders of records; raises FastFluxError as `reports.rows.read_rows` does."""
    return difference_of(read_rows(committed), read_rows(fresh))


def difference_of(committed: Sequence[Row], fresh: Sequence[Row]) -> Table:
    """A group a variant, a row a number: committed, fresh their difference, bold when the 95% intervals are apart."""
    before = {row.variant: row for row in committed}
    after = {row.variant: row for row in fresh}
    groups = []
    for variant in dict.fromkeys([*(row.variant for row in committed), *(row.variant for row in fresh)]):
        old, new = before.get(variant), after.get(variant)
        label = (old or new or committed[0]).label
        lines = [line for column in COMPARED if (line := _number_line(column, old, new)) is not None]
        lines = lines or [(Cell(text="none of these values"), Cell(), Cell(), Cell())]
        first = (Cell(text=label, footnote=_note(old, new)), *lines[0])
        groups.append(Group((first, *((Cell(text=""), *line) for line in lines[1:]))))
    return Table(
        "difference",
        f"Committed against fresh records, {model_name(committed)}",
        _HEADERS,
        tuple(groups),
        label=profile_label([*committed, *fresh]),
        notes=("Bold: the 95% intervals of the two do not overlap.",),
    )


def _note(old: Row | None, new: Row | None) -> str:
    if old is None:
        return "not among the committed records"
    if new is None:
        return "not measured afresh"
    if old.profile != new.profile:
        return f"other profile: {old.profile} committed, {new.profile} fresh"
    return (
        ""
        if old.record_key == new.record_key
        else "measured under other conditions (plan, model revision or sampling differ)"
    )


def _number_line(column: Column, old: Row | None, new: Row | None) -> tuple[Cell, ...] | None:
    """The row of one number, None when neither side has it."""
    values = [row.value(column.key) if row is not None else None for row in (old, new)]
    numbers = [value.value if value is not None else None for value in values]
    if numbers == [None, None]:
        return None
    cells = [
        Cell(number, None if number is None else format(number, column.spec), "" if value is None else value.note)
        for number, value in zip(numbers, values, strict=True)
    ]
    first, second = numbers
    change = None if first is None or second is None else second - first
    bounds = [value.interval for value in values if value is not None and value.interval is not None]
    apart = len(bounds) == 2 and (bounds[0][1] < bounds[1][0] or bounds[1][1] < bounds[0][0])
    text = None if change is None else format(change, f"+{column.spec}")
    return (Cell(text=column.heading), *cells, Cell(change, text, bold=apart and change is not None))
