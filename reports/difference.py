"""How freshly measured records differ from the committed ones: a small table of the numbers the claims rest on."""

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from bench.tables import FLOPS_RATIO, GENEVAL, HPS, LATENCY_RATIO, Column
from reports.rows import Row, read_rows
from reports.table import Cell, Group, Header, Table
from reports.tables import model_name, profile_label

COMPARED = (HPS, GENEVAL, replace(FLOPS_RATIO, spec="z.4f"), LATENCY_RATIO)
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
        lines = [line for column in COMPARED if (line := _line(column, old, new)) is not None]
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


def _line(column: Column, old: Row | None, new: Row | None) -> tuple[Cell, ...] | None:
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
