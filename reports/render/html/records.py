"""The page's records: every value at full precision and where it comes from, once; and what all runs had in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reports.render.html.html_text import escape_html, fact_list
from reports.why import measurement_facts, record_facts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reports.rows import Row
    from reports.why import Fact

#: Facts of a run that differ between any two of them, so that they say nothing of how it was measured.
_OF_ONE_RUN = ("record", "pruning", "measured again by")


def record_ids(rows: Sequence[Row]) -> dict[str, str]:
    """The id of each record's element by variant."""
    return {row.variant: f"record-{index}" for index, row in enumerate(rows) if row.record is not None}


def records_html(rows: Sequence[Row], ids: Mapping[str, str]) -> str:
    """A folded element for each record: its facts, its values with 95% intervals, its measurements' facts."""
    return "\n".join(_record(row, ids[row.variant]) for row in rows if row.variant in ids)


def conditions_html(rows: Sequence[Row]) -> str:
    """How it was measured: each fact of the runs once, with the variants it holds for where they differ."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for name, text in [] if row.record is None else record_facts(row.record):
            if name not in _OF_ONE_RUN:
                found.setdefault(name, {}).setdefault(text, []).append(row.label)
    facts: list[Fact] = []
    for name, texts in found.items():
        facts += [(name, text if len(texts) == 1 else f"{text} ({_listed(labels)})") for text, labels in texts.items()]
    return fact_list(facts)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels) if len(labels) <= 4 else f"{', '.join(labels[:3])} and {len(labels) - 3} more"


def _record(row: Row, name: str) -> str:
    record = row.record
    if record is None:
        return ""
    values = []
    for key, value in sorted(row.values.items()):
        if value.value is not None:
            low, high = ("", "") if value.interval is None else (repr(bound) for bound in value.interval)
            cells = f"<td>{value.value!r}</td><td>{low}</td><td>{high}</td>"
            values.append(f'<tr data-key="{escape_html(key)}"><th scope="row">{escape_html(key)}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{text}</th>' for text in ("Value", "At full precision", "95% from", "to"))
    metrics = [
        fact_list(measurement_facts(measurement), f'data-metric="{escape_html(measurement.info.name)}"')
        for measurement in record.measurements
    ]
    return "\n".join(
        [
            f'<details class="record" id="{name}" data-label="{escape_html(row.label)}">',
            f"<summary>{escape_html(row.label)} <code>{escape_html(row.variant)}</code></summary>",
            fact_list(record_facts(record), "data-run"),
            f'<div class="scroll"><table class="values"><thead><tr>{heads}</tr></thead><tbody>',
            *values,
            "</tbody></table></div>",
            *metrics,
            "</details>",
        ]
    )
