"""Paired differences: every variant against its dense model, and FastFLUX against L1-norm pruning as fast as it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench.records.comparison import SIGNIFICANT
from bench.tables import BY_LATENCY, BY_NUMBER, SCORES, TABLES
from reports.compare import chance, compare
from reports.grouping import DEFAULT_TOLERANCE, pairs_of
from reports.table import Cell, Group, Header, Table
from reports.tables import metric_notes, model_name, profile_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.tables import Column
    from reports.rows import Row


def differences_table(rows: Sequence[Row], tolerance: float = DEFAULT_TOLERANCE) -> Table:
    """Differences of the overall scores with 95% interval and p-value, prompt by prompt; significant ones are bold.

    The partners in latency are those of Tables 1 and 2 (within `tolerance`) and those that were pruned to be as fast.
    """
    named = {row.variant: row for row in rows}
    against_dense = [
        (row.label, row, named[row.baseline])
        for row in rows
        if row.id.repeated is None and row.variant != row.baseline and row.baseline in named
    ]
    pairs = [*pairs_of(rows, BY_LATENCY, tolerance).pairs, *pairs_of(rows, BY_NUMBER).pairs]
    fast = [(named[pair.candidate], named[pair.baseline]) for pair in pairs]
    partners = [(f"{ours.label} against {theirs.label}", ours, theirs) for ours, theirs in fast]
    headers = (
        Header("Model", align="left"),
        *(Header(column.heading, spec=f"+{column.spec.lstrip('z')}") for column in SCORES),
    )
    groups = [
        Group(tuple(_line(*pair) for pair in pairs), heading)
        for heading, pairs in (
            ("Against the dense model", against_dense),
            ("FastFLUX against L1-norm pruning of its latency", partners),
        )
        if pairs
    ]
    note = (
        "Differences are paired by prompt and seed; in brackets the 95% interval (prompt-cluster bootstrap, stratified "
        "by style or task), behind it the two-sided p-value of a sign-flip permutation test. Bold: p < "
        f"{SIGNIFICANT:g}. The p-values are not corrected for the number of comparisons."
    )
    return Table(
        "differences",
        f"{TABLES['differences'].title}, {model_name(rows)}",
        headers,
        tuple(groups),
        label=profile_label(rows),
        notes=(note, *metric_notes(SCORES, rows)),
    )


def _line(label: str, candidate: Row, baseline: Row) -> tuple[Cell, ...]:
    return (Cell(text=label), *(_cell(column, candidate, baseline) for column in SCORES))


def _cell(column: Column, candidate: Row, baseline: Row) -> Cell:
    found = compare(candidate, baseline, column.key)
    cell = Cell(origin=(candidate.variant, column.key), others=(baseline.variant,))
    if isinstance(found, str):
        return replace(cell, footnote=found)
    chances = chance(found.p_value)
    return replace(cell, value=found.difference, bold=found.sign != 0, interval=found.interval, suffix=chances)
