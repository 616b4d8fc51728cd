"""Tables of what is no step: whole calls, a replaced block, pruning, scorers."""

from collections.abc import Iterator

from bench.records.results import Measurement
from bench.records.variant_id import DENSE
from reports.full_size.records import LABEL, Records, measured, notes_of, ordered
from reports.table import Cell, Group, Header, Table

CALIBRATION_RATIO = 1.5
MEMORY_GB = {True: 24.0, False: 40.0}
"""Of pruning, with and without offload."""
MIB_PER_GB = 1e9 / 2**20


def end_to_end(records: Records) -> Iterator[Table]:
    """Calls of the pipeline with VAE and text encoders."""
    rows = []
    for record in ordered(records):
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
            notes=notes_of(records, "latency_end_to_end"),
        )  # fmt: skip


def replacement(records: Records) -> Iterator[Table]:
    """One replaced block in several ways, at each resolution."""
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


def pruning(records: Records) -> Iterator[Table]:
    """Calibration, ranking and Sandwich Training against their goals."""
    rows: list[tuple[Cell, ...]] = []
    calibration = measured(records, DENSE, "calibration_cost")
    if calibration is not None:
        values = calibration.values
        rows += [
            _line("Calibration: samples", values["samples"], ",.0f"),
            _line("Calibration: forwards, as many plain ones", values["forwards"], ",.0f"),
            _line("Calibration: plain forwards (s)", values["plain_seconds"], ",.1f"),
            _line("Calibration: with statistics (s)", values["statistics_seconds"], ",.1f"),
            _line("Calibration: ratio", values["ratio"], ".3f", values["ratio"] <= CALIBRATION_RATIO, "at most 1.5"),
            *_peaks("Calibration", calibration),
        ]
    ranking = measured(records, "fastflux-20", "ranking_cost")
    if ranking is not None:
        rows += [
            _line("Fits and order of all blocks: seconds", ranking.values["seconds"], ",.1f"),
            *_peaks("Fits and order of all blocks", ranking),
        ]
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
    if rows:
        headers = (Header("What", align="left"), Header("Measured", "down"), Header("Goal", align="left"))
        note = "GB are 10^9 bytes. Random weights give the cost of pruning, not its quality."
        yield Table("full-size-pruning", "Cost of pruning", headers, (Group(tuple(rows)),), label=LABEL, notes=(note,))


def scorers(records: Records) -> Iterator[Table]:
    """Images a second of every scorer."""
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
