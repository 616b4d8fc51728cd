"""All tables that the records of a full-size run give, as one Markdown document."""

from collections.abc import Callable, Iterator
from pathlib import Path

from bench.records.results import read_records
from reports.full_size.costs import end_to_end, pruning, replacement, scorers
from reports.full_size.records import LABEL, Records, on_device, ordered, paper_ratio, sizes_of
from reports.full_size.steps import equal_latency, exports, in_all_ways, latencies, step_profiles
from reports.table import Cell, Group, Header, Table, to_markdown


def full_size_document(folder: Path) -> str:
    """All tables that the records of a folder give, as Markdown.

    Raises:
        RecordError: no folder of records.
    """
    records = {record.variant: record for record in read_records(folder)}
    makers: tuple[Callable[[Records], Iterator[Table]], ...] = (
        _flops, latencies, exports, equal_latency, in_all_ways, step_profiles, end_to_end, replacement, pruning,
        scorers, _failures,
    )  # fmt: skip
    tables = [to_markdown(table) for maker in makers for table in maker(records)]
    return "\n".join([_heading(records), *tables])


def _failures(records: Records) -> Iterator[Table]:
    """What was taken and failed, with the reason."""
    rows = tuple(
        (Cell(text=record.label), Cell(text=found.info.name.replace("_", " ")), Cell(text=found.reason))
        for record in records.values()
        for found in record.measurements
        if found.status == "failed"
    )
    if rows:
        headers = (
            Header("Model", align="left"), Header("Measurement", align="left"), Header("Reason", align="left"),
        )  # fmt: skip
        yield Table("full-size-failures", "What failed", headers, (Group(rows),), label=LABEL)


def _heading(records: Records) -> str:
    machines = sorted({str(record.environment.get("device")) for record in records.values() if on_device(record)})
    where = ", ".join(machines) or "counted on no device"
    return f"# FLUX.1-dev at full size, random weights: {where}\n\n{LABEL}\n"


def _flops(records: Records) -> Iterator[Table]:
    rows, sizes = [], sizes_of(records)
    for record in ordered(records):
        counted, parameters = record.measurement("flops_by_block"), record.measurement("parameters")
        if counted is None or counted.status != "ok":
            continue
        cells = [Cell(text=record.label)]
        for size in sizes:
            cells.append(Cell(counted.values[f"{size}.forward"] / 1e12))
            cells.append(Cell(counted.values.get(f"{size}.ratio_to_dense")))
        total = None if parameters is None else parameters.values.get("total")
        cells.append(Cell(None if total is None else total / 1e9))
        rows.append((*cells, Cell(paper_ratio(record.variant))))
    if rows:
        headers = [Header("Model", align="left")]
        for size in sizes:
            headers += [Header(f"TFLOPs {size}", spec="z.3f"), Header(f"of dense {size}", spec="z.4f")]
        headers += [Header("Parameters (10^9)", spec="z.3f"), Header("Paper's latency ratio", spec="z.3f")]
        note = "FLOPs are 2 x MACs of one transformer step on one image with 512 text tokens, attention included."
        yield Table("full-size-flops", "FLOPs and parameters", tuple(headers), (Group(tuple(rows)),), notes=(note,))
