"""Paired differences: every variant against its dense model, and FastFLUX against L1-norm pruning as fast as it."""

from collections.abc import Sequence
from dataclasses import replace

from bench.tables import BY_LATENCY, BY_NUMBER, SCORES, TABLES
from reports.compare import TEST, chance, compare, prunings, told
from reports.grouping import DEFAULT_TOLERANCE, pairs_of
from reports.rows import Row
from reports.table import Cell, Group, Header, Table
from reports.tables import metric_notes, model_name, profile_label


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
    chances = chance(found.paired.p_value)
    return replace(cell, value=found.estimate.value, bold=found.sign != 0, interval=found.interval, suffix=chances)
