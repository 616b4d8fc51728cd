"""The page: tables, plot, image browser and records of one profile in one HTML file that needs nothing beside it.

Its templates, styles and scripts lie in assets/. Whatever a record holds is escaped by jinja2 and shows as its
characters. Styles and scripts are allowed by their hashes, so that no other script can run in the page, and nothing can
be asked of the network.
"""

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fastflux.text import one_line
from reports.figures.gallery import Gallery
from reports.render.html.images import browser_data, sheet_uris
from reports.render.html.pareto import pareto_data
from reports.rows import Row
from reports.table import Header, Table, behind, display, letter
from reports.tables import model_name, profile_label
from reports.why import Fact, measurement_facts, record_facts

PAGE = "page.html"
_SCRIPTS = ("dom.js", "theme.js", "tips.js", "tables.js", "plot.js", "images.js", "start.js")
_CLAIMS = "claims"
_TWIN = "_paper"
#: Facts of a run that differ between any two of them, so that they say nothing of how it was measured.
_OF_ONE_RUN = ("record", "pruning", "measured again by")


def page_html(rows: Sequence[Row], tables: Mapping[str, Sequence[Table]], gallery: Gallery | None = None) -> str:
    """The whole page of these rows and their `tables` by document name; the same input gives the same text.

    Raises FastFluxError for a gallery's sheet that cannot be shown.
    """
    records = {row.variant: f"record-{index}" for index, row in enumerate(rows) if row.record is not None}
    declared = {name: parts for name, parts in tables.items() if name != _CLAIMS}
    shown = gallery if gallery is not None and gallery.sheets and gallery.shots else None
    style, script = _asset("page.css"), "\n".join(_asset(name) for name in _SCRIPTS)
    page = environment().get_template(PAGE).render(
        model=model_name(rows), about=_about(rows), scores=_whose_scores(rows), rows=rows, records=records,
        style=Markup(style), style_hash=_hash(style), script=Markup(script), script_hash=_hash(script),  # noqa: S704
        claims=tables.get(_CLAIMS, ()), verdicts=_counts(tables.get(_CLAIMS, ())),
        tables=[(name.endswith(_TWIN), parts) for name, parts in declared.items()],
        conditions=_conditions(rows), record_facts=record_facts, measurement_facts=measurement_facts,
        plot_data=pareto_data(rows, records),
        image_data=None if shown is None else browser_data(rows, shown, records),
        sheets=[] if shown is None else sheet_uris(rows, shown),
    )  # fmt: skip
    return f"{page}\n"


@cache
def environment() -> Environment:
    """Where the page's templates are found; any text is on one line, escaped, without characters that have no glyph."""
    made = Environment(
        autoescape=True, loader=PackageLoader("reports.render.html", "assets"), undefined=StrictUndefined,
        finalize=_shown, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    made.filters |= {"element_id": element_id, "kind": _kind, "one_line": one_line, "signed": _signed}
    made.globals |= {"behind": behind, "display": display, "isfinite": math.isfinite, "letter": letter, "share": _share}
    return made


def element_id(name: str) -> str:
    """`name` as an id that needs no escaping in a link either."""
    return re.sub("[^A-Za-z0-9]+", "-", name).strip("-")


def _shown(value: Any) -> Any:
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _kind(header: Header) -> str:
    return "sentence" if header.width else header.align


def _signed(text: str) -> str:
    """A minus sign instead of a hyphen before numbers."""
    return re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", text)


def _share(header: Header, headers: Sequence[Header]) -> str:
    """The share of the width that a column of sentences asks for, of the whole when all columns are."""
    whole = sum(each.width for each in headers) if all(each.width for each in headers) else 1.0
    return f"{header.width / whole:.0%}"


def _asset(name: str) -> str:
    return files("reports.render.html").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The source expression by which a content security policy allows an inline element with this very text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _about(rows: Sequence[Row]) -> str:
    devices = dict.fromkeys(str(row.record.environment.get("device", "unknown")) for row in rows if row.record)
    days = sorted(row.record.created[:10] for row in rows if row.record)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return f"{len(rows)} variants, profile {rows[0].profile}, measured on {', '.join(devices)}, {when}"


def _whose_scores(rows: Sequence[Row]) -> str:
    """Whose scores these are, without what the label says of its own table."""
    label = profile_label(rows)
    return f"{label.partition(';')[0]}." if ";" in label else label


def _counts(tables: Sequence[Table]) -> Counter[str]:
    """How many claims got which verdict."""
    return Counter(
        row[index].text or ""
        for table in tables
        for index, header in enumerate(table.headers)
        if header.text == "Verdict"
        for group in table.groups
        for row in group.rows
    )


def _conditions(rows: Sequence[Row]) -> list[Fact]:
    """How it was measured: each fact of the runs once, with the variants it holds for where they differ."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for name, text in [] if row.record is None else record_facts(row.record):
            if name not in _OF_ONE_RUN:
                found.setdefault(name, {}).setdefault(text, []).append(row.label)
    return [
        (name, text if len(texts) == 1 else f"{text} ({_listed(labels)})")
        for name, texts in found.items()
        for text, labels in texts.items()
    ]


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels) if len(labels) <= 4 else f"{', '.join(labels[:3])} and {len(labels) - 3} more"
