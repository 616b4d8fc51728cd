"""Tables of where a step's time goes, by kind of block and by kind of operation."""

import re
from collections.abc import Iterator

from bench.records.results import Measurement, RunRecord
from reports.full_size.records import LABEL, Records, metric_names, notes_of, ordered
from reports.table import Cell, Group, Header, Table

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
