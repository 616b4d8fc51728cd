"""Tables of step times: each way of running a step against the FLOPs, exports, equal latency; and what they share."""

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


WITHIN = 0.03
"""How far a latency ratio may lie from its FLOPs ratio."""
EQUAL_WITHIN = 0.02
END_TO_END = "latency_end_to_end"
_LATENCY = re.compile(r"^latency_(\d+x\d+)(.*)$")
_WAYS = {"": "eager", "_compiled": "compiled", "_graphs": "CUDA graph", "_compiled_graphs": "compiled, CUDA graph"}


def latencies(records: Records) -> Iterator[Table]:
    """A table for each resolution and way, each ratio held against the FLOPs."""
    columns = (
        "Model", ("Median (ms)", "down", "z.3f"), ("Of dense", "down", "z.3f"), ("FLOPs of dense", "", "z.3f"),
        ("Off by", "", "+z.1%"), ("Paper's ratio", "", "z.3f"), ("Peak memory (MiB)", "down", "z,.0f"), "Within 3 %",
    )  # fmt: skip
    for name in metric_names(records, _LATENCY):
        size, suffix = _LATENCY.findall(name)[0]
        rows = []
        for record in ordered(records):
            found = record.measurement(name)
            if found is None or found.status == "skipped":
                continue
            if found.status != "ok":
                rows.append((Cell(text=record.label), *(Cell(),) * 6, Cell(text=f"failed: {found.reason}")))
                continue
            ratio, flops = found.values.get("ratio_to_dense"), flops_of(record, f"{size}.ratio_to_dense")
            off = None if ratio is None or not flops else ratio / flops - 1
            met = "not counted" if off is None else "yes" if abs(off) <= WITHIN else "no"
            memory = record.measurement(f"memory_{size}") if not suffix else None
            rows.append((
                Cell(text=record.label), Cell(found.values["median_ms"]),
                Cell(ratio, interval=found.intervals.get("ratio_to_dense")), Cell(flops), Cell(off),
                Cell(paper_ratio(record.variant)), Cell(None if memory is None else memory.values.get("peak_mib")),
                Cell(text=met if record.variant != DENSE else ""),
            ))  # fmt: skip
        yield from made(name, f"One step at {_step(name)}", columns, rows, notes_of(records, name))


def exports(records: Records) -> Iterator[Table]:
    """Folded and merged against not folded, and against LoRA that is not merged."""
    rows = []
    for name in metric_names(records, _LATENCY):
        for exported in map(VariantId.parse, records):
            found = measured(records, str(exported), name)
            if exported.family != "run_folded" or found is None:
                continue
            others = (str(replace(exported, family=other)) for other in ("run", "run_lora"))
            rows += [
                (
                    Cell(text=name.removeprefix("latency_").replace("_", " ")), Cell(text=records[other].label),
                    Cell(found.values["median_ms"]), Cell(slower.values["median_ms"]),
                    Cell(text=_not_slower(found, slower)),
                )
                for other in others
                if (slower := measured(records, other, name)) is not None
            ]  # fmt: skip
    columns = (
        "Step", "Against", ("Export (ms)", "down", "z.3f"), ("Other (ms)", "down", "z.3f"), "Export not slower",
    )  # fmt: skip
    return made("export", "Folded and merged export", columns, rows)


def equal_latency(records: Records) -> Iterator[Table]:
    """What the searches for equal latency found."""
    rows = []
    for record, found in all_measured(records, "equal_latency"):
        values = found.values
        rows.append((
            Cell(text=record.label), Cell(values["ratio"]), Cell(values["heads"]), Cell(values["mlp_channels"]),
            Cell(values["ratio_to_target"], interval=found.intervals.get("ratio_to_target")),
            Cell(values["flops_ratio_to_dense"]), Cell(text="yes" if found.settings.get("met") else "no"),
        ))  # fmt: skip
    columns = (
        "Model", ("Parameters sliced", "", "z.1%"), ("Heads", "", ".0f"), ("MLP channels", "", ".0f"),
        ("Time to target's", "", "z.3f"), ("FLOPs of dense", "", "z.3f"), "Within 2 %",
    )  # fmt: skip
    return made("equal", "L1-norm pruning at equal latency", columns, rows)


def in_all_ways(records: Records) -> Iterator[Table]:
    """Models of equal latency beside their targets, in every way that they were timed in the same rounds."""
    rows = []
    for record in ordered(records):
        for name in (*metric_names(records, _LATENCY), END_TO_END):
            found = measured(records, record.variant, name)
            if found is None or (ratio := found.values.get("ratio_to_target")) is None:
                continue
            rows.append((
                Cell(text=record.label), Cell(text=_step(name)), Cell(found.values["median_ms"]),
                Cell(found.values.get("ratio_to_dense")),
                Cell(ratio, interval=found.intervals.get("ratio_to_target")),
                Cell(text="yes" if abs(ratio - 1) <= EQUAL_WITHIN else "no"),
            ))  # fmt: skip
    columns = (
        "Model", "Step", ("Median (ms)", "down", "z,.3f"), ("Of dense", "down", "z.3f"),
        ("Time to target's", "", "z.3f"), "Within 2 %",
    )  # fmt: skip
    note = "The ratio was searched for with eager steps at the largest resolution; in other ways it may differ."
    return made("equal-ways", "Models of equal latency beside their targets", columns, rows, (note,))


def _step(name: str) -> str:
    if name == END_TO_END:
        return "whole call"
    size, suffix = _LATENCY.findall(name)[0]
    return f"{size}, {_WAYS.get(suffix, suffix.strip('_'))}"


def _not_slower(export: Measurement, other: Measurement) -> str:
    if export.values["median_ms"] <= other.values["median_ms"]:
        return "yes"
    own, against = export.intervals.get("median_ms"), other.intervals.get("median_ms")
    return "within noise" if own is not None and against is not None and own[0] <= against[1] else "no"


_PROFILE = re.compile(r"^step_profile_(\d+x\d+)$")
_OPERATIONS = re.compile(r"^operations\.(.+)_ms$")
_KIND = re.compile(r"^block\.(.+)\.count$")
Profiles = list[tuple[RunRecord, Measurement]]


def step_profiles(records: Records) -> Iterator[Table]:
    """Two tables for each resolution."""
    for name in metric_names(records, _PROFILE):
        size, notes = name.removeprefix("step_profile_"), notes_of(records, name)
        found = list(all_measured(records, name))
        yield from _by_block(found, size, notes)
        yield from _by_operation([pair for pair in found if "operations_ms" in pair[1].values], size, notes)


def _by_block(profiles: Profiles, size: str, notes: tuple[str, ...]) -> Iterator[Table]:
    groups = []
    for record, profile in profiles:
        values = profile.values
        kinds = [match[1] for key in values if (match := _KIND.match(key))]
        parts = [
            (kind, values[f"block.{kind}.count"], values[f"block.{kind}.ms"], f"block.{kind}.total_ms")
            for kind in kinds
        ]
        rows = []
        for kind, count, each, total in (*parts, ("what no block does", None, values["rest_ms"], "rest_ms")):
            flops = flops_of(record, f"{size}.{kind if count is not None else 'rest'}")
            rows.append((
                Cell(text=record.label), Cell(text=kind), Cell(count), Cell(each),
                Cell(values[total] / values["forward_ms"]), Cell(None if flops is None else flops / 1e9),
                Cell(None if not flops or each <= 0 else flops / each / 1e9),
            ))  # fmt: skip
        groups.append(Group(tuple(rows)))
    columns = (
        "Model", "Block", ("Blocks", "", ".0f"), ("Each (ms)", "down", "z.4f"), ("Share of the step", "", "z.1%"),
        ("GFLOPs each", "", "z,.1f"), ("TFLOP/s", "up", "z,.3f"),
    )  # fmt: skip
    note = "Marks around the blocks of eager steps. A kind with fewer TFLOP/s than the others takes more than its part."
    return made(f"blocks-{size}", f"Where a step's time goes at {size}, by block", columns, groups, (note, *notes))


def _by_operation(profiles: Profiles, size: str, notes: tuple[str, ...]) -> Iterator[Table]:
    kinds = [match[1] for _, profile in profiles[:1] for key in profile.values if (match := _OPERATIONS.match(key))]
    keys = (*(f"operations.{kind}_ms" for kind in kinds), "operations_ms", "forward_ms")
    rows = [
        (
            Cell(text=record.label), *(Cell(profile.values[key]) for key in keys), Cell(profile.values.get("kernels")),
        )
        for record, profile in profiles
    ]  # fmt: skip
    columns = (
        "Model", *((f"{kind.replace('_', ' ').capitalize()} (ms)", "down", "z.3f") for kind in kinds),
        ("All operations (ms)", "down", "z.3f"), ("Step, not profiled (ms)", "down", "z.3f"),
        ("Kernels", "down", "z,.0f"),
    )  # fmt: skip
    note = (
        "On a GPU an operation's time is its kernels': a step that takes longer than all of them waits for launches. "
        "The records list the costliest operations and kernels by name."
    )
    title = f"Where a step's time goes at {size}, by operation"
    return made(f"operations-{size}", title, columns, rows, (note, *notes))
