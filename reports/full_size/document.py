"""All tables that the records of a full-size run give, as one Markdown document: here those of what is no step."""

from collections.abc import Callable, Iterator
from pathlib import Path

from bench.records.results import Measurement, read_records
from bench.records.variant_id import DENSE
from reports.full_size.steps import (
    LABEL,
    Cells,
    Records,
    all_measured,
    equal_latency,
    exports,
    in_all_ways,
    latencies,
    made,
    measured,
    notes_of,
    paper_ratio,
    step_profiles,
)
from reports.table import Cell, Table, to_markdown

CALIBRATION_RATIO = 1.5
MEMORY_GB = {True: 24.0, False: 40.0}
"""Of pruning, with and without offload."""
MIB_PER_GB = 1e9 / 2**20


def full_size_document(folder: Path) -> str:
    """All tables that the records of a folder give, as Markdown.

    Raises:
        RecordError: no folder of records.
    """
    records = {record.variant: record for record in read_records(folder)}
    makers: tuple[Callable[[Records], Iterator[Table]], ...] = (
        _flops, latencies, exports, equal_latency, in_all_ways, step_profiles, _end_to_end, _replacement, _pruning,
        _scorers, _failures,
    )  # fmt: skip
    tables = [to_markdown(table) for maker in makers for table in maker(records)]
    return "\n".join([_heading(records), *tables])


def _heading(records: Records) -> str:
    counted = {"flops_by_block", "parameters"}
    machines = {
        str(record.environment.get("device"))
        for record in records.values()
        if {item.info.name for item in record.measurements} - counted
    }
    where = ", ".join(sorted(machines)) or "counted on no device"
    return f"# FLUX.1-dev at full size, random weights: {where}\n\n{LABEL}\n"


def _failures(records: Records) -> Iterator[Table]:
    rows = [
        (Cell(text=record.label), Cell(text=found.info.name.replace("_", " ")), Cell(text=found.reason))
        for record in records.values()
        for found in record.measurements
        if found.status == "failed"
    ]
    return made("failures", "What failed", ("Model", "Measurement", "Reason"), rows)


def _flops(records: Records) -> Iterator[Table]:
    found = list(all_measured(records, "flops_by_block"))
    keys = {key.partition(".")[0] for _, counted in found for key in counted.values}
    sizes = sorted(keys, key=lambda size: int(size.partition("x")[0]))
    rows = []
    for record, counted in found:
        cells = [Cell(text=record.label)]
        for size in sizes:
            cells.append(Cell(counted.values[f"{size}.forward"] / 1e12))
            cells.append(Cell(counted.values.get(f"{size}.ratio_to_dense")))
        parameters = record.measurement("parameters")
        total = None if parameters is None else parameters.values.get("total")
        rows.append((*cells, Cell(None if total is None else total / 1e9), Cell(paper_ratio(record.variant))))
    columns = [
        column for size in sizes for column in ((f"TFLOPs {size}", "", "z.3f"), (f"of dense {size}", "", "z.4f"))
    ]
    last = (("Parameters (10^9)", "", "z.3f"), ("Paper's latency ratio", "", "z.3f"))
    note = "FLOPs are 2 x MACs of one transformer step on one image with 512 text tokens, attention included."
    return made("flops", "FLOPs and parameters", ("Model", *columns, *last), rows, (note,), label="")


def _end_to_end(records: Records) -> Iterator[Table]:
    rows = []
    for record, found in all_measured(records, "latency_end_to_end"):
        memory = record.measurement("memory_end_to_end")
        stages = {} if memory is None else memory.values
        rows.append((
            Cell(text=record.label), Cell(found.values["median_ms"]),
            Cell(found.values.get("ratio_to_dense"), interval=found.intervals.get("ratio_to_dense")),
            *(Cell(stages.get(f"{stage}_mib")) for stage in ("text_encoding", "denoising", "decoding")),
        ))  # fmt: skip
    columns = [(f"{stage} (MiB)", "down", "z,.0f") for stage in ("Text", "Denoising", "Decoding")]
    columns = [("Call (ms)", "down", "z,.0f"), ("Of dense", "down", "z.3f"), *columns]
    return made("calls", "Whole pipeline calls", ("Model", *columns), rows, notes_of(records, "latency_end_to_end"))


def _replacement(records: Records) -> Iterator[Table]:
    columns = (
        "Block", ("Median (ms)", "down", "z.4f"), ("Of a dense single block", "down", "z.3f"),
        ("Relative error", "down", ".1e"),
    )  # fmt: skip
    note = "The library runs the way called separate. Errors are against float64, of the image's stream."
    for found in records["replacement"].measurements if "replacement" in records else ():
        keys = ("median_ms", "ratio_to_single", "relative_error")
        rows = [
            (Cell(text=name.replace("_", " ")), *(Cell(found.values.get(f"{name}.{key}")) for key in keys))
            for name in dict.fromkeys(key.rpartition(".")[0] for key in found.values)
        ]
        name = found.info.name
        yield from made(name, f"A replaced block at {name.rpartition('_')[2]}", columns, rows, (note,))


def _pruning(records: Records) -> Iterator[Table]:
    rows: list[Cells] = []
    if (calibration := measured(records, DENSE, "calibration_cost")) is not None:
        values = calibration.values
        rows += [
            _line("Calibration: samples", values["samples"], ",.0f"),
            _line("Calibration: forwards, as many plain ones", values["forwards"], ",.0f"),
            _line("Calibration: plain forwards (s)", values["plain_seconds"], ",.1f"),
            _line("Calibration: with statistics (s)", values["statistics_seconds"], ",.1f"),
            _line("Calibration: ratio", values["ratio"], ".3f", values["ratio"] <= CALIBRATION_RATIO, "at most 1.5"),
            *_peaks("Calibration", calibration),
        ]
    if (ranking := measured(records, "fastflux-20", "ranking_cost")) is not None:
        what = "Fits and order of all blocks"
        rows += [_line(f"{what}: seconds", ranking.values["seconds"], ",.1f"), *_peaks(what, ranking)]
    cost = measured(records, "fastflux-20", "pruning_cost")
    by_block = measured(records, "fastflux-20", "pruning_cost_by_block")
    if cost is not None and by_block is not None:
        rows += [
            _line("Pruning to 20 %: blocks", by_block.values["blocks"], ",.0f"),
            _line("Pruning to 20 %: seconds", cost.values["seconds"], ",.1f"),
            _line("Pruning to 20 %: longest block (s)", max(by_block.samples["seconds"]), ",.1f"),
            _line("Pruning to 20 %: samples x blocks run", cost.values["block_forwards"], ",.0f"),
            _line("Pruning to 20 %: training steps", cost.values["training_steps"], ",.0f"),
            *_peaks("Pruning to 20 %", by_block, cost.values.get("peak_memory_mib")),
        ]
    note = "GB are 10^9 bytes. Random weights give the cost of pruning, not its quality."
    return made("pruning", "Cost of pruning", ("What", ("Measured", "down", "z.2f"), "Goal"), rows, (note,))


def _scorers(records: Records) -> Iterator[Table]:
    found = records["scorers"].measurements if "scorers" in records else ()
    batches = sorted({int(key.removeprefix("batch")) for each in found for key in each.values if "batch" in key})
    rows = []
    for each in found:
        name = each.info.name.removeprefix("scorer_throughput_").replace("_", " ")
        cells = (Cell(each.values.get(f"batch{batch}")) for batch in batches)
        rows.append((Cell(text=f"{name} ({each.settings.get('architecture', each.reason)})"), *cells))
    columns = [(f"Images/s, batches of {batch}", "up", "z,.2f") for batch in batches]
    note = "Float32; preparing the images on the CPU counts. The detector runs one image at a time, as GenEval does."
    return made("scorers", "Scorers", ("Scorer", *columns), rows, (note,))


def _peaks(what: str, found: Measurement, device_mib: float | None = None) -> Iterator[Cells]:
    offload = bool(found.settings.get("offload"))
    peak = device_mib if device_mib is not None else found.values.get("peak_device_mib")
    if peak is not None:
        gigabytes, most = peak / MIB_PER_GB, MEMORY_GB[offload]
        goal = f"under {most:.0f} GB {'with' if offload else 'without'} offload"
        yield _line(f"{what}: peak memory of the device (GB)", gigabytes, ".2f", gigabytes < most, goal)
    if (host := found.values.get("peak_host_mib")) is not None:
        yield _line(f"{what}: peak memory of the process on the host (GB)", host / MIB_PER_GB, ".2f")


def _line(what: str, value: float, spec: str, met: bool | None = None, goal: str = "") -> Cells:
    verdict = "" if met is None else f"{'yes' if met else 'no'}, {goal}"
    return Cell(text=what), Cell(value, text=format(value, spec)), Cell(text=verdict)
