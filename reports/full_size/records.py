"""What all tables of full-size records share: their order, which metrics there are, what a ratio is held against."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.records.results import Measurement, RunRecord
from bench.records.variant_id import DENSE, FASTFLUX, VariantId
from bench.tables import LATENCY
from reports.paper import paper_rows

LABEL = "Random weights: these are costs, and say nothing of quality."
Records = Mapping[str, RunRecord]
"""By variant."""
_L1_OF_PAPER = {"l1-4of24": "l1-12", "l1-7of24": "l1-21", "l1-9of24": "l1-27"}


def measured(records: Records, variant: str, name: str) -> Measurement | None:
    """A variant's measurement, if it was made and did not fail."""
    record = records.get(variant)
    found = None if record is None else record.measurement(name)
    return found if found is not None and found.status == "ok" else None


def ordered(records: Records) -> list[RunRecord]:
    """Dense first, then by family and ratio."""
    families = ("dense", "fastflux", "mix", "run", "run_folded", "run_lora", "attention", "mlp", "l1", "l1_equal")
    known = [(VariantId.parse(record.variant).family, record) for record in records.values()]
    shown = [(families.index(family), record.variant, record) for family, record in known if family in families]
    return [record for *_, record in sorted(shown, key=lambda entry: entry[:2])]


def sizes_of(records: Records) -> list[str]:
    """The resolutions that FLOPs were counted at, such as "512x512", the smallest first."""
    keys = {
        key.partition(".")[0]
        for record in records.values()
        if (found := record.measurement("flops_by_block")) is not None
        for key in found.values
    }
    return sorted(keys, key=lambda size: int(size.partition("x")[0]))


def metric_names(records: Records, pattern: re.Pattern[str]) -> list[str]:
    """Metrics of any record whose names match, short names first."""
    names = {item.info.name for record in records.values() for item in record.measurements}
    return sorted((name for name in names if pattern.match(name)), key=lambda name: (len(name), name))


def flops_ratio(record: RunRecord, size: str) -> float | None:
    """A model's FLOPs by the dense model's at one resolution; None where they were not counted."""
    counted = record.measurement("flops_by_block")
    return None if counted is None else counted.values.get(f"{size}.ratio_to_dense")


def paper_ratio(variant: str) -> float | None:
    """The paper's latency ratio of the same rate of pruning; its mix of double and single blocks is not known."""
    own = VariantId.parse(variant)
    wanted = str(replace(own, family=FASTFLUX)) if own.family == "mix" else _L1_OF_PAPER.get(variant, variant)
    rows = {row.variant: row.number(LATENCY.key) for row in (*paper_rows("table6"), *paper_rows("table1"))}
    pruned, dense = rows.get(wanted), rows.get(DENSE)
    return None if pruned is None or not dense else pruned / dense


def notes_of(records: Records, name: str) -> tuple[str, ...]:
    """The conditions of a table, as its records tell them."""
    found: Sequence[Measurement] = [
        item for record in records.values() for item in record.measurements if item.info.name == name and item.settings
    ]
    if not found:
        return ()
    settings = found[0].settings
    shown = ("dtype", "batch", "rounds", "warmup", "clock", "compile_backend", "steps", "other_work")
    return (
        "; ".join(f"{key.replace('_', ' ')} {settings[key]}" for key in shown if settings.get(key) not in (None, "")),
    )


def on_device(record: RunRecord) -> bool:
    """Whether anything of it was measured on a device, rather than counted."""
    return any(item.info.name not in ("flops_by_block", "parameters") for item in record.measurements)
