"""The paper's own figures beside the measured ones: two tables of the same rows and columns, never one mixed table."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

from msgspec import structs

from bench.metrics.cost.plausibility import implausible
from bench.records.variant_id import DENSE, EXTERNAL, VariantId
from bench.tables import FLOPS, LATENCY, Column, TableSpec
from reports.grouping import device_notes
from reports.rows import Row, Value
from reports.table import Cell, Group, Table
from reports.tables import headers, metric_notes, model_name, profile_label, scale_of, value_cell

_CHANGE_NOTE = "In parentheses: change against the dense model of the same table."
_BASES_NOTE = "In parentheses: change against the dense model of the same base, as far as the table has it."
_FLUX_512 = 21.503e12
"""FLOPs of one step of FLUX.1-dev at 512x512 with 512 text tokens (tests/bench/metrics/test_flops.py)."""
_MACS_1024 = 74.385e12 / 2
"""Of one step at 1024x1024 (reports/data/full_size/flops)."""


@cache
def paper_data() -> dict[str, Any]:
    """The contents of paper_tables.json: source, model, device and the rows of each table the paper shares with us."""
    data: dict[str, Any] = json.loads(
        files("reports").joinpath("data", "paper_tables.json").read_text(encoding="utf-8")
    )
    return data


def paper_rows(name: str) -> tuple[Row, ...]:
    """The paper's rows of table `name`: variants of ours, dense included, and its other models as external ones."""
    return tuple(
        Row(
            id=VariantId.parse(entry["variant"]),
            label=entry["label"],
            profile="paper",
            values={key: Value(float(value)) for key, value in entry["values"].items()},
            missing="{metric}: the paper gives none",
            baseline=entry.get("base", DENSE),
        )
        for entry in paper_data()["tables"][name]["rows"]
    )


def paper_against_measured(
    name: str, spec: TableSpec, rows: Sequence[Row], *, mix_devices: bool = False
) -> tuple[Table, Table]:
    """The paper's table and the measured one, the same variants in one order, values with their change against dense.

    Only the changes can be compared when the measured model is not the paper's: so each table keeps to its own scores.
    Raises FastFluxError for values that hang on the machine from several devices unless `mix_devices`.
    """
    data = paper_data()
    printed = paper_rows(name)
    measured = {row.variant: row for row in rows}
    # Other models are drawn and scored apart: where that was not done, a row of dashes would say nothing.
    ours = [
        measured.get(row.variant, _unmeasured(row))
        for row in printed
        if row.variant in measured or row.family != EXTERNAL
    ]
    columns = tuple(structs.replace(column, share="") for column in spec.columns)
    devices = device_notes(ours, [column.key for column in columns], f"Table {name}", mix=mix_devices)
    source = f"{data['tables'][name]['source']}, latency on {data['device']}, {data['source']}"
    first = _change_table(
        f"{name}-paper", f"{spec.title}, {data['model']} as printed in the paper", columns, printed, rows
    )
    second = _change_table(f"{name}-measured", f"{spec.title}, {model_name(rows)} as measured", columns, ours, rows)
    return (
        replace(first, notes=(f"Source: {source}.", *_latency_note(printed), *_flops_note(printed), *first.notes)),
        replace(second, label=profile_label(rows), notes=(*second.notes, *devices, *metric_notes(columns, rows))),
    )


def _latency_note(printed: Sequence[Row]) -> tuple[str, ...]:
    """What arithmetic says of the dense model's latency; the paper names neither its size nor its number format."""
    dense = next((row.number(LATENCY.key) for row in printed if row.variant == DENSE), None)
    found = None if dense is None else implausible(dense, _FLUX_512, paper_data()["device"], "float16")
    if found is None:
        return ()
    return (f"The latency cannot be that of one step at 512x512 or above: {found}",)


def _flops_note(printed: Sequence[Row]) -> tuple[str, ...]:
    """What the paper's FLOPs must be, and that they do not fall evenly."""
    points = [(row.number("plan.dropped_blocks"), row.number(FLOPS.key)) for row in printed]
    known = [(blocks, flops / 1e12) for blocks, flops in points if blocks is not None and flops is not None]
    saved = [(first[1] - second[1]) / (second[0] - first[0]) for first, second in pairwise(known)]
    if not saved:
        return ()
    text = (
        f"The FLOPs must be multiply-accumulates, of which {_MACS_1024 / 1e12:.2f} T are counted in one step at "
        f"1024x1024, half of its FLOPs; and all blocks cost the same, yet each one dropped saves from {min(saved):.2f} "
        f"to {max(saved):.2f} T."
    )
    return (text,)


def _unmeasured(row: Row) -> Row:
    return replace(row, values={}, missing=f"{row.label}: not measured")


def _change_table(
    name: str, title: str, columns: Sequence[Column], rows: Sequence[Row], directions: Sequence[Row]
) -> Table:
    scales = [scale_of(column, rows) for column in columns]
    dense = {row.variant: row for row in rows if row.variant == row.baseline}
    body = tuple(
        (
            Cell(text=row.label),
            *(
                _change_cell(column, row, dense.get(row.baseline), scale)
                for column, (scale, _) in zip(columns, scales, strict=True)
            ),
        )
        for row in rows
    )
    return Table(
        name,
        title,
        headers(columns, directions, [prefix for _, prefix in scales]),
        (Group(body),),
        notes=(_CHANGE_NOTE if len({row.baseline for row in rows}) == 1 else _BASES_NOTE,),
    )


def _change_cell(column: Column, row: Row, dense: Row | None, scale: float) -> Cell:
    cell = value_cell(column, row, scale)
    start = dense.number(column.key) if dense is not None else None
    if cell.value is None or not start or column.metric == "plan" or row is dense:
        return cell
    others = (*cell.others, dense.variant) if dense is not None and dense.record is not None else cell.others
    return replace(cell, suffix=f"({cell.value / start - 1:+z.1%})", others=others)
