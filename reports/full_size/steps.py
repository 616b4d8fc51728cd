"""Tables of step times: each way of running a step against the FLOPs, exports, models of equal latency."""

import re
from collections.abc import Iterator
from dataclasses import replace

from bench.records.results import Measurement, RunRecord
from bench.records.variant_id import DENSE, VariantId
from reports.full_size.records import LABEL, Records, flops_ratio, metric_names, notes_of, ordered, paper_ratio
from reports.table import Cell, Group, Header, Table

WITHIN = 0.03
"""How far a latency ratio may lie from its FLOPs ratio."""
EQUAL_WITHIN = 0.02
END_TO_END = "latency_end_to_end"
_LATENCY = re.compile(r"^latency_(\d+x\d+)(.*)$")
_WAYS = {"": "eager", "_compiled": "compiled", "_graphs": "CUDA graph", "_compiled_graphs": "compiled, CUDA graph"}


def latencies(records: Records) -> Iterator[Table]:
    """A table for each resolution and way, each ratio held against the FLOPs."""
    for name in metric_names(records, _LATENCY):
        match = _LATENCY.match(name)
        if match is None:
            continue
        size, suffix = match.groups()
        rows = []
        for record in ordered(records):
            found = record.measurement(name)
            if found is None or found.status == "skipped":
                continue
            if found.status != "ok":
                rows.append((Cell(text=record.label), *(Cell(),) * 6, Cell(text=f"failed: {found.reason}")))
                continue
            ratio, flops = found.values.get("ratio_to_dense"), flops_ratio(record, size)
            memory = record.measurement(f"memory_{size}") if not suffix else None
            rows.append((
                Cell(text=record.label), Cell(found.values["median_ms"]),
                Cell(ratio, interval=found.intervals.get("ratio_to_dense")), Cell(flops), _deviation(ratio, flops),
                Cell(paper_ratio(record.variant)), Cell(None if memory is None else memory.values.get("peak_mib")),
                Cell(text=_met(ratio, flops) if record.variant != DENSE else ""),
            ))  # fmt: skip
        if rows:
            headers = (
                Header("Model", align="left"), Header("Median (ms)", "down", "z.3f"),
                Header("Of dense", "down", "z.3f"), Header("FLOPs of dense", spec="z.3f"),
                Header("Off by", spec="+z.1%"), Header("Paper's ratio", spec="z.3f"),
                Header("Peak memory (MiB)", "down", "z,.0f"),
                Header("Within 3 %", align="left"),
            )  # fmt: skip
            title = f"One step at {size}, {_WAYS.get(suffix, suffix.strip('_'))}"
            yield Table(
                f"full-size-{name}", title, headers, (Group(tuple(rows)),), label=LABEL, notes=notes_of(records, name)
            )


def exports(records: Records) -> Iterator[Table]:
    """Folded and merged against not folded, and against LoRA that is not merged."""
    rows = []
    for name in metric_names(records, _LATENCY):
        for variant, record in records.items():
            exported = VariantId.parse(variant)
            found = record.measurement(name)
            if exported.family != "run_folded" or found is None or found.status != "ok":
                continue
            for other in ("run", "run_lora"):
                against = records.get(str(replace(exported, family=other)))
                slower = None if against is None else against.measurement(name)
                if slower is not None and slower.status == "ok" and against is not None:
                    rows.append((
                        Cell(text=name.removeprefix("latency_").replace("_", " ")), Cell(text=against.label),
                        Cell(found.values["median_ms"]), Cell(slower.values["median_ms"]),
                        Cell(text=_not_slower(found, slower)),
                    ))  # fmt: skip
    if rows:
        headers = (
            Header("Step", align="left"), Header("Against", align="left"), Header("Export (ms)", "down", "z.3f"),
            Header("Other (ms)", "down", "z.3f"), Header("Export not slower", align="left"),
        )  # fmt: skip
        yield Table("full-size-export", "Folded and merged export", headers, (Group(tuple(rows)),), label=LABEL)


def equal_latency(records: Records) -> Iterator[Table]:
    """What the searches for equal latency found."""
    rows = []
    for record in ordered(records):
        found = record.measurement("equal_latency")
        if found is not None and found.status == "ok":
            values = found.values
            rows.append((
                Cell(text=record.label), Cell(values["ratio"]), Cell(values["heads"]), Cell(values["mlp_channels"]),
                Cell(values["ratio_to_target"], interval=found.intervals.get("ratio_to_target")),
                Cell(values["flops_ratio_to_dense"]), Cell(text="yes" if found.settings.get("met") else "no"),
            ))  # fmt: skip
    if rows:
        headers = (
            Header("Model", align="left"), Header("Parameters sliced", spec="z.1%"), Header("Heads", spec=".0f"),
            Header("MLP channels", spec=".0f"), Header("Time to target's", spec="z.3f"),
            Header("FLOPs of dense", spec="z.3f"), Header("Within 2 %", align="left"),
        )  # fmt: skip
        yield Table("full-size-equal", "L1-norm pruning at equal latency", headers, (Group(tuple(rows)),), label=LABEL)


def in_all_ways(records: Records) -> Iterator[Table]:
    """Models of equal latency beside their targets, in every way that they were timed in the same rounds."""
    rows = []
    names = [*metric_names(records, _LATENCY), END_TO_END]
    for record in ordered(records):
        for name in names:
            found = record.measurement(name)
            if found is None or found.status != "ok" or "ratio_to_target" not in found.values:
                continue
            ratio = found.values["ratio_to_target"]
            rows.append((
                Cell(text=record.label), Cell(text=_step(name)), Cell(found.values["median_ms"]),
                Cell(found.values.get("ratio_to_dense")),
                Cell(ratio, interval=found.intervals.get("ratio_to_target")),
                Cell(text="yes" if abs(ratio - 1) <= EQUAL_WITHIN else "no"),
            ))  # fmt: skip
    if rows:
        headers = (
            Header("Model", align="left"), Header("Step", align="left"), Header("Median (ms)", "down", "z,.3f"),
            Header("Of dense", "down", "z.3f"), Header("Time to target's", spec="z.3f"),
            Header("Within 2 %", align="left"),
        )  # fmt: skip
        note = "The ratio was searched for with eager steps at the largest resolution; in other ways it may differ."
        yield Table(
            "full-size-equal-ways", "Models of equal latency beside their targets", headers, (Group(tuple(rows)),),
            label=LABEL, notes=(note,),
        )  # fmt: skip


def _step(name: str) -> str:
    match = _LATENCY.match(name)
    if match is None:
        return "whole call"
    size, suffix = match.groups()
    return f"{size}, {_WAYS.get(suffix, suffix.strip('_'))}"


def _deviation(ratio: float | None, flops: float | None) -> Cell:
    return Cell(None if ratio is None or not flops else ratio / flops - 1)


def _met(ratio: float | None, flops: float | None) -> str:
    if ratio is None or not flops:
        return "not counted"
    return "yes" if abs(ratio / flops - 1) <= WITHIN else "no"


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
        size = name.removeprefix("step_profile_")
        pairs = ((record, record.measurement(name)) for record in ordered(records))
        found = [(record, profile) for record, profile in pairs if profile is not None and profile.status == "ok"]
        if found:
            notes = notes_of(records, name)
            yield _by_block(found, size, notes)
            if seen := [(record, profile) for record, profile in found if "operations_ms" in profile.values]:
                yield _by_operation(seen, size, notes)


def _by_block(profiles: Profiles, size: str, notes: tuple[str, ...]) -> Table:
    groups = []
    for record, profile in profiles:
        forward = profile.values["forward_ms"]
        counted = record.measurement("flops_by_block")
        kinds = [match[1] for key in profile.values if (match := _KIND.match(key))]
        rows = []
        for kind in kinds:
            each, total = profile.values[f"block.{kind}.ms"], profile.values[f"block.{kind}.total_ms"]
            flops = None if counted is None else counted.values.get(f"{size}.{kind}")
            rows.append((
                Cell(text=record.label), Cell(text=kind), Cell(profile.values[f"block.{kind}.count"]), Cell(each),
                Cell(total / forward), Cell(None if flops is None else flops / 1e9),
                Cell(None if not flops or not each else flops / each / 1e9),
            ))  # fmt: skip
        rest = profile.values["rest_ms"]
        rows.append((
            Cell(text=record.label), Cell(text="what no block does"), Cell(), Cell(rest), Cell(rest / forward),
            *_rest_of(counted, size, rest),
        ))  # fmt: skip
        groups.append(Group(tuple(rows)))
    headers = (
        Header("Model", align="left"), Header("Block", align="left"), Header("Blocks", spec=".0f"),
        Header("Each (ms)", "down", "z.4f"), Header("Share of the step", spec="z.1%"),
        Header("GFLOPs each", spec="z,.1f"), Header("TFLOP/s", "up", "z,.3f"),
    )  # fmt: skip
    remark = (
        "Marks around the blocks of eager steps. A kind with fewer TFLOP/s than the others takes more than its part."
    )
    title = f"Where a step's time goes at {size}, by block"
    return Table(f"full-size-blocks-{size}", title, headers, tuple(groups), label=LABEL, notes=(remark, *notes))


def _rest_of(counted: Measurement | None, size: str, rest: float) -> tuple[Cell, Cell]:
    flops = None if counted is None else counted.values.get(f"{size}.rest")
    return Cell(None if flops is None else flops / 1e9), Cell(None if not flops or rest <= 0 else flops / rest / 1e9)


def _by_operation(profiles: Profiles, size: str, notes: tuple[str, ...]) -> Table:
    kinds = [match[1] for key in profiles[0][1].values if (match := _OPERATIONS.match(key))]
    rows = tuple(
        (
            Cell(text=record.label), *(Cell(profile.values[f"operations.{kind}_ms"]) for kind in kinds),
            Cell(profile.values["operations_ms"]), Cell(profile.values["forward_ms"]),
            Cell(profile.values.get("kernels")),
        )
        for record, profile in profiles
    )  # fmt: skip
    headers = (
        Header("Model", align="left"),
        *(Header(f"{kind.replace('_', ' ').capitalize()} (ms)", "down", "z.3f") for kind in kinds),
        Header("All operations (ms)", "down", "z.3f"), Header("Step, not profiled (ms)", "down", "z.3f"),
        Header("Kernels", "down", "z,.0f"),
    )  # fmt: skip
    remark = (
        "On a GPU an operation's time is its kernels': a step that takes longer than all of them waits for launches. "
        "The records list the costliest operations and kernels by name."
    )
    title = f"Where a step's time goes at {size}, by operation"
    return Table(f"full-size-operations-{size}", title, headers, (Group(rows),), label=LABEL, notes=(remark, *notes))
