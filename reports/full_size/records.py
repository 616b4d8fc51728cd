"""What all tables of full-size records share: their order, which metrics there are, what a ratio is held against."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from bench.records.results import Measurement, RunRecord
from bench.records.variant_id import DENSE, FASTFLUX, VariantId
from bench.tables import LATENCY
from reports.paper import paper_rows
from reports.table import Cell, Group, Header, Table

LABEL = "Random weights: these are costs, and say nothing of quality."
Records = Mapping[str, RunRecord]
"""By variant."""
Cells = tuple[Cell, ...]
_L1_OF_PAPER = {"l1-4of24": "l1-12", "l1-7of24": "l1-21", "l1-9of24": "l1-27"}


def measured(records: Records, variant: str, name: str) -> Measurement | None:
    """A variant's measurement, if it was made and did not fail."""
    return None if variant not in records else _ok(records[variant].measurement(name))


def all_measured(records: Records, name: str) -> Iterator[tuple[RunRecord, Measurement]]:
    """The records that have such a measurement, which did not fail, in the order of tables."""
    return ((record, found) for record in ordered(records) if (found := _ok(record.measurement(name))) is not None)


def _ok(found: Measurement | None) -> Measurement | None:
    return found if found is not None and found.status == "ok" else None


def made(
    name: str,
    title: str,
    columns: Sequence[str | Sequence[str]],
    rows: Sequence[Cells] | Sequence[Group],
    notes: Sequence[str] = (),
    label: str = LABEL,
) -> Iterator[Table]:
    """A table of rows or groups, none where there are none; columns of text, or of (heading, direction, format)."""
    headers = (Header(each, align="left") if isinstance(each, str) else Header(*each) for each in columns)  # type: ignore[arg-type]
    groups = [row for row in rows if isinstance(row, Group)] or [Group(tuple(rows))]  # type: ignore[arg-type]
    if rows:
        yield Table(f"full-size-{name}", title, tuple(headers), tuple(groups), label, tuple(notes))


def ordered(records: Records) -> list[RunRecord]:
    """Dense first, then by family and ratio."""
    families = ("dense", "fastflux", "mix", "run", "run_folded", "run_lora", "attention", "mlp", "l1", "l1_equal")
    known = [(VariantId.parse(record.variant).family, record) for record in records.values()]
    shown = [(families.index(family), record.variant, record) for family, record in known if family in families]
    return [record for *_, record in sorted(shown, key=lambda entry: entry[:2])]


def metric_names(records: Records, pattern: re.Pattern[str]) -> list[str]:
    """Metrics of any record whose names match, short names first."""
    names = {item.info.name for record in records.values() for item in record.measurements}
    return sorted((name for name in names if pattern.match(name)), key=lambda name: (len(name), name))


def flops_of(record: RunRecord, key: str) -> float | None:
    """What was counted of a model, such as "512x512.ratio_to_dense"; None where it was not."""
    counted = record.measurement("flops_by_block")
    return None if counted is None else counted.values.get(key)


def paper_ratio(variant: str) -> float | None:
    """The paper's latency ratio of the same rate of pruning; its mix of double and single blocks is not known."""
    own = VariantId.parse(variant)
    wanted = str(replace(own, family=FASTFLUX)) if own.family == "mix" else _L1_OF_PAPER.get(variant, variant)
    rows = {row.variant: row.number(LATENCY.key) for row in (*paper_rows("table6"), *paper_rows("table1"))}
    pruned, dense = rows.get(wanted), rows.get(DENSE)
    return None if pruned is None or not dense else pruned / dense


def notes_of(records: Records, name: str) -> tuple[str, ...]:
    """The conditions of a table, as its records tell them."""
    found = (record.measurement(name) for record in records.values())
    settings = next((item.settings for item in found if item is not None and item.settings), None)
    if settings is None:
        return ()
    shown = ("dtype", "batch", "rounds", "warmup", "clock", "compile_backend", "steps", "other_work")
    return (
        "; ".join(f"{key.replace('_', ' ')} {settings[key]}" for key in shown if settings.get(key) not in (None, "")),
    )
