"""The page: tables, plot, image browser and records of one profile in one HTML file that needs nothing beside it.

Styles and scripts are read from assets/. They are allowed by their hashes, so that no other script can run in the
page, and nothing can be asked of the network.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from reports.render.html.html_table import to_html
from reports.render.html.html_text import element_id, escape_html, script_json
from reports.render.html.images import browser_data, sheets_html
from reports.render.html.pareto import pareto_data
from reports.render.html.records import conditions_html, record_ids, records_html
from reports.tables import model_name, profile_label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reports.figures.gallery import Gallery
    from reports.rows import Row
    from reports.table import Table

PAGE = "page.html"
_SCRIPTS = ("dom.js", "theme.js", "tips.js", "tables.js", "plot.js", "images.js", "start.js")
_CLAIMS = "claims"
_TWIN = "_paper"
_NO_GALLERY = (
    "No images were given: <code>python -m reports build --gallery DIR</code> adds those of a gallery, "
    "which <code>python -m reports gallery --help</code> tells how to make."
)


def page_html(rows: Sequence[Row], tables: Mapping[str, Sequence[Table]], gallery: Gallery | None = None) -> str:
    """The whole page of these rows and their `tables` by document name; the same input gives the same text.

    Raises FastFluxError for a gallery's sheet that cannot be shown.
    """
    records = record_ids(rows)
    declared = {name: parts for name, parts in tables.items() if name != _CLAIMS}
    claims = "".join(to_html(table, records) for table in tables.get(_CLAIMS, ()))
    images = gallery is not None and bool(gallery.sheets) and bool(gallery.shots)
    style, script = _asset("page.css"), "\n".join(_asset(name) for name in _SCRIPTS)
    return Template(_asset("page.html")).substitute(
        title=escape_html(f"FastFLUX evaluation, {model_name(rows)}"),
        heading=escape_html(model_name(rows)),
        about=escape_html(_about(rows)),
        whose=f'<p class="whose banner">{escape_html(label)}</p>' if (label := _whose(rows)) else "",
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        contents=_contents(declared, claims=bool(claims)),
        claims=f'<section id="claims-section"><h2>Verdicts</h2>{_counts(tables[_CLAIMS])}{claims}</section>'
        if claims
        else "",
        tables="\n".join(_document(name, parts, records) for name, parts in declared.items()),
        conditions=conditions_html(rows),
        records=records_html(rows, records),
        no_images="" if images else f'<p class="empty">{_NO_GALLERY}</p>',
        plot_data=script_json(pareto_data(rows, records)),
        image_data=script_json(browser_data(rows, gallery, records) if images and gallery is not None else None),
        sheets=sheets_html(rows, gallery) if images and gallery is not None else "",
    )


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


def _whose(rows: Sequence[Row]) -> str:
    """Whose scores these are, without what the label says of its own table."""
    label = profile_label(rows)
    return f"{label.partition(';')[0]}." if ";" in label else label


def _counts(tables: Sequence[Table]) -> str:
    """How many claims got which verdict."""
    verdicts = Counter(
        row[index].text or ""
        for table in tables
        for index, header in enumerate(table.headers)
        if header.text == "Verdict"
        for group in table.groups
        for row in group.rows
    )
    items = (f"<li><strong>{count}</strong> {escape_html(verdict)}</li>" for verdict, count in verdicts.items())
    return f'<ul class="counts">{"".join(items)}</ul>'


def _contents(documents: Mapping[str, Sequence[Table]], *, claims: bool) -> str:
    """Links to the sections, and below "Tables" to each of them."""
    named = [(element_id(parts[0].name), parts[0].title.partition(",")[0]) for name, parts in documents.items()
             if not name.endswith(_TWIN)]  # fmt: skip
    inner = "".join(f'<li><a href="#{name}">{escape_html(title)}</a></li>' for name, title in named)
    entries = [("plot-section", "Quality against cost", ""), ("images-section", "Images", "")]
    entries += [("claims-section", "Verdicts", "")] if claims else []
    entries += [("tables-section", "Tables", f"<ul>{inner}</ul>" if inner else "")]
    entries += [("conditions-section", "How it was measured", ""), ("records-section", "Records", "")]
    return "".join(f'<li><a href="#{name}">{title}</a>{below}</li>' for name, title, below in entries)


def _document(name: str, parts: Sequence[Table], records: Mapping[str, str]) -> str:
    """A document's tables; those beside the paper's own figures are folded."""
    shown = "".join(to_html(table, records) for table in parts)
    if not name.endswith(_TWIN):
        return shown
    title = parts[0].title.partition(":")[0]
    return f'<details class="twin"><summary>{escape_html(title)} beside the paper\'s figures</summary>{shown}</details>'
