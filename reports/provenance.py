"""The records behind the rows as a table of its own: what a footnote to every number would have to say, once a row."""

from collections.abc import Sequence

from bench.records.results import RunRecord
from bench.tables import TABLES
from reports.rows import Row
from reports.table import Cell, Group, Header, Table
from reports.tables import model_name
from reports.why import record_facts

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
        (Group(tuple(_line(row.record) for row in recorded(rows) if row.record is not None)),),
        notes=(_NOTE,),
    )


def recorded(rows: Sequence[Row]) -> list[Row]:
    """The rows that come from a record."""
    return [row for row in rows if row.record is not None]


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
