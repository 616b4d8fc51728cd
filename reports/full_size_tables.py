"""Tables of a full-size run with random weights: latency against FLOPs and the paper, cost of pruning, scorers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.results import Measurement, RunRecord, read_records
from reports.paper import paper_rows
from reports.rows import DENSE
from reports.table import Cell, Group, Header, Table, to_markdown

WITHIN = 0.03
"""How far a latency ratio may lie from its FLOPs ratio."""
CALIBRATION_RATIO = 1.5
MEMORY_GB = {True: 24.0, False: 40.0}
"""Of pruning, with and without offload."""
LABEL = "Random weights: these are costs, and say nothing of quality."
_L1_OF_PAPER = {"l1-4of24": "l1-12", "l1-7of24": "l1-21", "l1-9of24": "l1-27"}
_LATENCY = re.compile(r"^latency_(\d+x\d+)(.*)$")
_WAYS = {"": "eager", "_compiled": "compiled", "_graphs": "CUDA graph", "_compiled_graphs": "compiled, CUDA graph"}
Records = Mapping[str, RunRecord]
MIB_PER_GB = 1e9 / 2**20


def full_size_document(folder: Path) -> str:
    """All tables that the records of a folder give, as Markdown.

    Raises:
        RecordError: no folder of records.
    """
    records = {record.variant: record for record in read_records(folder)}
    makers: tuple[Callable[[Records], Iterator[Table]], ...] = (
        _flops, _latencies, _exports, _equal, _end_to_end, _replacement, _pruning, _scorers,
    )  # fmt: skip
    tables = [to_markdown(table) for maker in makers for table in maker(records)]
    return "\n".join([_heading(records), *tables])


def _heading(records: Records) -> str:
    machines = sorted({str(record.environment.get("device")) for record in records.values() if _on_device(record)})
    where = ", ".join(machines) or "counted on no device"
    return f"# FLUX.1-dev at full size, random weights: {where}\n\n{LABEL}\n"


def _on_device(record: RunRecord) -> bool:
    return any(item.info.name not in ("flops_by_block", "parameters") for item in record.measurements)


def _flops(records: Records) -> Iterator[Table]:
    rows, sizes = [], _sizes(records)
    for record in _ordered(records):
        counted, parameters = record.measurement("flops_by_block"), record.measurement("parameters")
        if counted is None or counted.status != "ok":
            continue
        cells = [Cell(text=record.label)]
        for size in sizes:
            cells.append(Cell(counted.values[f"{size}.forward"] / 1e12))
            cells.append(Cell(counted.values.get(f"{size}.ratio_to_dense")))
        total = None if parameters is None else parameters.values.get("total")
        cells.append(Cell(None if total is None else total / 1e9))
        rows.append((*cells, Cell(_paper_ratio(record.variant))))
    if rows:
        headers = [Header("Model", align="left")]
        for size in sizes:
            headers += [Header(f"TFLOPs {size}", spec="z.3f"), Header(f"of dense {size}", spec="z.4f")]
        headers += [Header("Parameters (10^9)", spec="z.3f"), Header("Paper's latency ratio", spec="z.3f")]
        note = "FLOPs are 2 x MACs of one transformer step on one image with 512 text tokens, attention included."
        yield Table("full-size-flops", "FLOPs and parameters", tuple(headers), (Group(tuple(rows)),), notes=(note,))


def _latencies(records: Records) -> Iterator[Table]:
    """A table for each resolution and way, each ratio held against the FLOPs."""
    for name in _metrics(records, _LATENCY):
        match = _LATENCY.match(name)
        if match is None:
            continue
        size, suffix = match.groups()
        rows = []
        for record in _ordered(records):
            found = record.measurement(name)
            if found is None or found.status == "skipped":
                continue
            if found.status != "ok":
                rows.append((Cell(text=record.label), *(Cell(),) * 6, Cell(text=f"failed: {found.reason}")))
                continue
            ratio, flops = found.values.get("ratio_to_dense"), _flops_ratio(record, size)
            memory = record.measurement(f"memory_{size}") if not suffix else None
            rows.append((
                Cell(text=record.label), Cell(found.values["median_ms"]),
                Cell(ratio, interval=found.intervals.get("ratio_to_dense")), Cell(flops), _deviation(ratio, flops),
                Cell(_paper_ratio(record.variant)), Cell(None if memory is None else memory.values.get("peak_mib")),
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
                f"full-size-{name}", title, headers, (Group(tuple(rows)),), label=LABEL, notes=_notes(records, name)
            )


def _exports(records: Records) -> Iterator[Table]:
    """Folded and merged against not folded, and against LoRA that is not merged."""
    rows = []
    for name in _metrics(records, _LATENCY):
        for variant, record in records.items():
            family, _, ratio = variant.rpartition("-")
            found = record.measurement(name)
            if family != "run_folded" or found is None or found.status != "ok":
                continue
            for other in ("run", "run_lora"):
                against = records.get(f"{other}-{ratio}")
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


def _equal(records: Records) -> Iterator[Table]:
    rows = []
    for record in _ordered(records):
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


def _end_to_end(records: Records) -> Iterator[Table]:
    rows = []
    for record in _ordered(records):
        found, memory = record.measurement("latency_end_to_end"), record.measurement("memory_end_to_end")
        if found is None or found.status != "ok":
            continue
        stages = {} if memory is None else memory.values
        rows.append((
            Cell(text=record.label), Cell(found.values["median_ms"]),
            Cell(found.values.get("ratio_to_dense"), interval=found.intervals.get("ratio_to_dense")),
            *(Cell(stages.get(f"{stage}_mib")) for stage in ("text_encoding", "denoising", "decoding")),
        ))  # fmt: skip
    if rows:
        headers = (
            Header("Model", align="left"), Header("Call (ms)", "down", "z,.0f"), Header("Of dense", "down", "z.3f"),
            *(Header(f"{stage} (MiB)", "down", "z,.0f") for stage in ("Text", "Denoising", "Decoding")),
        )  # fmt: skip
        yield Table(
            "full-size-calls", "Whole pipeline calls", headers, (Group(tuple(rows)),), label=LABEL,
            notes=_notes(records, "latency_end_to_end"),
        )  # fmt: skip


def _replacement(records: Records) -> Iterator[Table]:
    record = records.get("replacement")
    for found in () if record is None else record.measurements:
        names = dict.fromkeys(key.rpartition(".")[0] for key in found.values)
        rows = [
            (
                Cell(text=name.replace("_", " ")), Cell(found.values.get(f"{name}.median_ms")),
                Cell(found.values.get(f"{name}.ratio_to_single")), Cell(found.values.get(f"{name}.relative_error")),
            )
            for name in names
        ]  # fmt: skip
        if rows:
            headers = (
                Header("Block", align="left"), Header("Median (ms)", "down", "z.4f"),
                Header("Of a dense single block", "down", "z.3f"), Header("Relative error", "down", ".1e"),
            )  # fmt: skip
            size = found.info.name.rpartition("_")[2]
            title = f"A replaced block at {size}"
            note = "The library runs the way called separate. Errors are against float64, of the image's stream."
            yield Table(f"full-size-{found.info.name}", title, headers, (Group(tuple(rows)),), LABEL, (note,))


def _pruning(records: Records) -> Iterator[Table]:
    rows: list[tuple[Cell, ...]] = []
    calibration = _ok(records, DENSE, "calibration_cost")
    if calibration is not None:
        values = calibration.values
        rows += [
            _line("Calibration: samples", values["samples"], ",.0f"),
            _line("Calibration: plain forwards (s)", values["plain_seconds"], ",.1f"),
            _line("Calibration: with statistics (s)", values["statistics_seconds"], ",.1f"),
            _line("Calibration: ratio", values["ratio"], ".3f", values["ratio"] <= CALIBRATION_RATIO, "at most 1.5"),
            *_peaks("Calibration", calibration),
        ]
    ranking = _ok(records, "fastflux-20", "ranking_cost")
    if ranking is not None:
        rows.append(_line("Fits and order of all blocks (s)", ranking.values["seconds"], ",.1f"))
    cost, by_block = _ok(records, "fastflux-20", "pruning_cost"), _ok(records, "fastflux-20", "pruning_cost_by_block")
    if cost is not None and by_block is not None:
        rows += [
            _line("Pruning to 20 %: blocks", by_block.values["blocks"], ",.0f"),
            _line("Pruning to 20 %: seconds", cost.values["seconds"], ",.1f"),
            _line("Pruning to 20 %: longest block (s)", max(by_block.samples["seconds"]), ",.1f"),
            _line("Pruning to 20 %: samples x blocks run", cost.values["block_forwards"], ",.0f"),
            _line("Pruning to 20 %: training steps", cost.values["training_steps"], ",.0f"),
            *_peaks("Pruning to 20 %", by_block, cost.values.get("peak_memory_mib")),
        ]
    if rows:
        headers = (Header("What", align="left"), Header("Measured", "down"), Header("Goal", align="left"))
        note = "GB are 10^9 bytes. Random weights give the cost of pruning, not its quality."
        yield Table("full-size-pruning", "Cost of pruning", headers, (Group(tuple(rows)),), label=LABEL, notes=(note,))


def _peaks(what: str, found: Measurement, device_mib: float | None = None) -> Iterator[tuple[Cell, ...]]:
    offload = bool(found.settings.get("offload"))
    peak = device_mib if device_mib is not None else found.values.get("peak_device_mib")
    if peak is not None:
        gigabytes, most = peak / MIB_PER_GB, MEMORY_GB[offload]
        with_it = "with" if offload else "without"
        goal = f"under {most:.0f} GB {with_it} offload"
        yield _line(f"{what}: peak memory of the device (GB)", gigabytes, ".2f", gigabytes < most, goal)
    if (host := found.values.get("peak_host_mib")) is not None:
        yield _line(f"{what}: peak memory of the process on the host (GB)", host / MIB_PER_GB, ".2f")


def _line(what: str, value: float, spec: str, met: bool | None = None, goal: str = "") -> tuple[Cell, ...]:
    verdict = "" if met is None else f"{'yes' if met else 'no'}, {goal}"
    return Cell(text=what), Cell(value, text=format(value, spec)), Cell(text=verdict)


def _scorers(records: Records) -> Iterator[Table]:
    record = records.get("scorers")
    if record is None:
        return
    batches = sorted(
        {int(key.removeprefix("batch")) for found in record.measurements for key in found.values if "batch" in key}
    )
    rows = []
    for found in record.measurements:
        name = found.info.name.removeprefix("scorer_throughput_").replace("_", " ")
        cells = (Cell(found.values.get(f"batch{batch}")) for batch in batches)
        rows.append((Cell(text=f"{name} ({found.settings.get('architecture', found.reason)})"), *cells))
    headers = (
        Header("Scorer", align="left"), *(Header(f"Images/s, batches of {batch}", "up", "z,.2f") for batch in batches)
    )  # fmt: skip
    note = "Float32; preparing the images on the CPU counts. The detector runs one image at a time, as GenEval does."
    yield Table("full-size-scorers", "Scorers", headers, (Group(tuple(rows)),), label=LABEL, notes=(note,))


def _ok(records: Records, variant: str, name: str) -> Measurement | None:
    record = records.get(variant)
    found = None if record is None else record.measurement(name)
    return found if found is not None and found.status == "ok" else None


def _ordered(records: Records) -> list[RunRecord]:
    """Dense first, then by family and ratio."""
    families = ("dense", "fastflux", "mix", "run", "run_folded", "run_lora", "l1", "l1_equal")
    known = [record for record in records.values() if record.variant.partition("-")[0] in families]
    return sorted(known, key=lambda record: (families.index(record.variant.partition("-")[0]), record.variant))


def _sizes(records: Records) -> list[str]:
    keys = {
        key.partition(".")[0]
        for record in records.values()
        if (found := record.measurement("flops_by_block")) is not None
        for key in found.values
    }
    return sorted(keys, key=lambda size: int(size.partition("x")[0]))


def _metrics(records: Records, pattern: re.Pattern[str]) -> list[str]:
    names = {item.info.name for record in records.values() for item in record.measurements}
    return sorted((name for name in names if pattern.match(name)), key=lambda name: (len(name), name))


def _flops_ratio(record: RunRecord, size: str) -> float | None:
    counted = record.measurement("flops_by_block")
    return None if counted is None else counted.values.get(f"{size}.ratio_to_dense")


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


def _paper_ratio(variant: str) -> float | None:
    """The paper's latency ratio of the same rate of pruning; its mix of double and single blocks is not known."""
    wanted = _L1_OF_PAPER.get(variant, variant.replace("mix-", "fastflux-"))
    rows = {row.variant: row.number("latency.median_ms") for row in (*paper_rows("table6"), *paper_rows("table1"))}
    own, dense = rows.get(wanted), rows.get(DENSE)
    return None if own is None or not dense else own / dense


def _notes(records: Records, name: str) -> tuple[str, ...]:
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
