"""Where a number of a table comes from: its record, measurement, commit, weights, seeds, device, date and command."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from bench.records.results import JSON, Measurement, RunRecord
from bench.records.variant_id import EXTERNAL, VariantId
from bench.tables import TABLES, Column
from fastflux.errors import unknown_name
from reports.rows import Row
from reports.table import Cell, Group, Header, Table
from reports.tables import model_name, read_tables, value_cell

Found = TypeVar("Found")
#: The tables whose cells are values of a variant.
EXPLAINED = {name: spec for name, spec in TABLES.items() if not spec.worked_out}
#: What is known by name: ("commit", "5b1445c...").
Fact = tuple[str, str]
#: A setting's text is cut here: an order of all blocks is longer than a line.
_LONGEST = 100


def why(rows: Sequence[Row], table: str, row: str, column: str) -> str:
    """All that is known of one cell, a line each.

    `table` is a name, or FILE.toml:NAME for a declared one (`reports.tables`), `row` a label or a variant's id,
    `column` a heading or a value's key, both without regard to case.

    Raises FastFluxError with a suggestion for a table, row or column that is not there.
    """
    file, _, name = table.rpartition(":")
    specs = read_tables(Path(file)) if file.endswith(".toml") else EXPLAINED
    if name not in specs:
        raise unknown_name("table", name, specs)
    spec = specs[name]
    chosen = spec.chosen(rows)
    found = _pick("row", row, {name: entry for entry in chosen for name in (entry.label, entry.variant)})
    named: dict[str, Column] = {}
    for each in spec.columns:
        named |= {each.heading: each, each.key: each, each.key.partition(".")[2]: each}
        if each.si:  # as it is printed: the prefix hangs on the other rows
            named |= {f"{each.heading} ({prefix})": each for prefix in "PTGMk"}
    return "\n".join(_lines(spec.title, found, _pick("column", column, named)))


def _lines(title: str, row: Row, column: Column) -> list[str]:
    value = row.value(column.key)
    facts = [(title, f"{row.label}, {column.heading}")]
    facts.append(("value", value_cell(column, row, 1.0).text or value.note))
    if value.value is not None:
        facts.append(("at full precision", repr(value.value)))
    if value.interval is not None:
        facts.append(("95% interval", f"{value.interval[0]!r} to {value.interval[1]!r}"))
    record = row.record
    if record is None:
        facts.append(("record", "none, the row is the paper's"))
    else:
        measurement = record.measurement(column.metric)
        if measurement is not None:
            facts += measurement_facts(measurement)
        elif column.metric != "plan":
            facts.append(("metric", f"{column.metric}, not measured"))
        facts += record_facts(record)
    return [f"{name}: {text}" for name, text in facts]


def measurement_facts(measurement: Measurement) -> list[Fact]:
    """What a measurement says of its metric, how many were scored, and its settings."""
    info = measurement.info
    return [
        ("metric", f"{info.name} (version {info.version}), {info.reference}, in {info.unit}"),
        (
            "scored",
            f"{measurement.scored}, missing: {measurement.missing}, status: {measurement.status}"
            + (f", {measurement.reason}" if measurement.reason else ""),
        ),
        ("settings", _settings(measurement.settings.items())),
    ]


def record_facts(record: RunRecord) -> list[Fact]:
    """What a record says of the run: commit, weights, pruning, sampling with its seeds, device, date and command."""
    environment = record.environment
    commit = environment.get("commit")
    written = (
        f"{commit.get('hash')}{', with uncommitted changes' if commit.get('dirty') else ''}"
        if isinstance(commit, dict)
        else "unknown"
    )
    plan = record.plan or {}
    pruned = f"{plan.get('method')}, {_settings(_config(plan))}" if plan else "not pruned"
    libraries = environment.get("libraries")
    name, threads, system = (environment.get(key, "unknown") for key in ("device", "threads", "os"))
    device = f"{name}, {threads} threads, {system}"
    return [
        ("record", f"{record.variant}, profile {record.profile}, key {record.key}, created {record.created}"),
        ("commit", written),
        ("base model", f"{record.base_model}, weights {record.base_revision}"),
        ("pruning", pruned),
        ("sampling", _settings(record.sampling.items())),
        ("device", device),
        ("libraries", _settings(libraries.items()) if isinstance(libraries, dict) else "unknown"),
        ("measured again by", _command(record)),
    ]


def _command(record: RunRecord) -> str:
    variant = VariantId.parse(record.variant)
    if variant.family == EXTERNAL:
        return f"python -m bench score IMAGES --name {variant.number} --profile {record.profile}"
    return f"nox -s reproduce_tables -- --profile {record.profile} --variants {record.variant} --force"


def _config(plan: dict[str, JSON] | object) -> Iterable[tuple[str, JSON]]:
    config = plan.get("config") if isinstance(plan, dict) else None
    return config.items() if isinstance(config, dict) else ()


def _settings(items: Iterable[tuple[str, JSON]]) -> str:
    """Settings in one line; an order of all blocks is cut short."""
    shown = []
    for key, value in sorted(items):
        text = str(value)
        shown.append(f"{key} {text if len(text) <= _LONGEST else text[:_LONGEST] + '...'}")
    return ", ".join(shown) or "none"


def _pick(what: str, name: str, known: Mapping[str, Found]) -> Found:
    folded = {key.lower(): found for key, found in known.items()}
    if name.lower() not in folded:
        raise unknown_name(what, name, known)
    return folded[name.lower()]


PROVENANCE = "provenance"
_NOTE = (
    "Weights: the base model and the digest of its weights; seeds and whatever else determines the images stand under "
    "sampling. `python -m reports why TABLE ROW COLUMN` adds the metric behind one number: its settings, how many were "
    "scored, the value at full precision."
)


def provenance_table(rows: Sequence[Row]) -> Table:
    """One row for each recorded row, in order: record, date, commit, weights, pruning, seeds, device and command."""
    headers = (
        ("Model", 0.12), ("Record", 0.15), ("Commit and weights", 0.16), ("Pruning and sampling", 0.32),
        ("Device", 0.1), ("Measured again by", 0.15),
    )  # fmt: skip
    return Table(
        PROVENANCE,
        f"{TABLES[PROVENANCE].title}, {model_name(rows)}",
        tuple(Header(text, align="left", width=width) for text, width in headers),
        (Group(tuple(_line(row.record) for row in rows if row.record is not None)),),
        notes=(_NOTE,),
    )


def _line(record: RunRecord) -> tuple[Cell, ...]:
    facts = dict(record_facts(record))
    created = record.created.replace("T", " ")
    return tuple(
        Cell(text=text)
        for text in (
            f"{record.label} ({record.variant})",
            f"key {record.key}, created {created}, profile {record.profile}",
            f"commit {facts['commit']}; weights {record.base_model}, {record.base_revision}",
            f"{facts['pruning']}; sampling: {facts['sampling']}",
            facts["device"],
            facts["measured again by"],
        )
    )
