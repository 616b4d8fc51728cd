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
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.records.results import JSON
from bench.records.variant_id import DENSE, EXTERNAL, FASTFLUX, L1, L1_EQUAL, PLUS, WIDTH, WIDTH_EQUAL
from bench.tables import CLIP, FLOPS_RATIO, GENEVAL, HPS, LATENCY_RATIO, SCORES, Column
from fastflux.errors import FastFluxError
from fastflux.text import one_line
from reports.figures.gallery import Gallery, GalleryShot
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


_MEDIA_TYPES = {".avif": "image/avif", ".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}
#: By their name in the data.
_SCORES = {"hps": HPS, "clip": CLIP}


def shown_variants(rows: Sequence[Row], gallery: Gallery) -> list[str]:
    """The variants with a sheet: in the rows' order, then those without a row."""
    named = [row.variant for row in rows if row.variant in gallery.sheets]
    return named + [variant for variant in gallery.sheets if variant not in named]


def browser_data(rows: Sequence[Row], gallery: Gallery, records: Mapping[str, str]) -> dict[str, JSON]:
    """Shots, variants as `shown_variants` has them, and which two are compared at first.

    Of each variant: `verdicts`, a character a shot (1 right, 0 wrong, - none), and a list for each score. A verdict or
    score is left out where the record does not say which sample it belongs to. `records` is the element id by variant.
    """
    by_variant = {row.variant: row for row in rows}
    names = shown_variants(rows, gallery)
    kinds = sorted({shot.kind for shot in gallery.shots})
    pruned = [name for name in names if name in by_variant and by_variant[name].family == FASTFLUX]
    strongest = max(pruned, key=lambda name: (by_variant[name].number("plan.ratio") or 0.0, name), default=names[-1])
    return {
        "tile": list(gallery.tile),
        "kinds": [one_line(kind) for kind in kinds],
        "shots": [
            [
                one_line(shot.prompt_id), shot.sample, str(shot.seed), one_line(shot.prompt), kinds.index(shot.kind),
                *gallery.tile_box(index)[:2],
            ]
            for index, shot in enumerate(gallery.shots)
        ],
        "variants": [_variant(name, by_variant.get(name), gallery.shots, records.get(name, "")) for name in names],
        "left": names.index(DENSE) if DENSE in names else 0,
        "right": names.index(strongest),
    }  # fmt: skip


def sheet_uris(rows: Sequence[Row], gallery: Gallery) -> list[str]:
    """The sheets as data URIs, one for each of `shown_variants`.

    Raises FastFluxError for a sheet of a kind that browsers do not show, or that cannot be read.
    """
    return [_data_uri(gallery, variant) for variant in shown_variants(rows, gallery)]


def _variant(name: str, row: Row | None, shots: Sequence[GalleryShot], record: str) -> dict[str, JSON]:
    verdicts = _scores(row, GENEVAL.metric, shots)
    scores: dict[str, JSON] = {
        short: [
            None if score is None else round(score, column.decimals) for score in _scores(row, column.metric, shots)
        ]
        for short, column in _SCORES.items()
    }
    return {
        "label": one_line(name if row is None else row.label),
        "record": record,
        "verdicts": "".join("-" if verdict is None else str(int(verdict > 0.5)) for verdict in verdicts),
        **scores,
    }


def _scores(row: Row | None, metric: str, shots: Sequence[GalleryShot]) -> list[float | None]:
    """The score of each shot's image, None where there is none or where samples are missing before it."""
    measurement = None if row is None else row.measurements.get(metric)
    if row is None or row.record is None or measurement is None:
        return [None] * len(shots)
    series = {key.rpartition("/")[2]: scores for key, scores in measurement.samples.items()}
    wanted = row.record.sampling.get("samples")
    counts = wanted if isinstance(wanted, dict) else {}
    found: list[float | None] = []
    for shot in shots:
        scores = series.get(shot.prompt_id, [])
        # With a sample missing, the numbers behind it have moved up: which is whose cannot be told.
        whole = not measurement.missing or len(scores) == counts.get(shot.kind.partition(" ")[0])
        found.append(scores[shot.sample] if whole and 0 <= shot.sample < len(scores) else None)
    return found


def _data_uri(gallery: Gallery, variant: str) -> str:
    path = PurePath(gallery.sheets[variant])
    if path.suffix not in _MEDIA_TYPES:
        raise FastFluxError(
            f"The sheet {path.name} of {variant} is of a kind no browser shows; expected {', '.join(_MEDIA_TYPES)}."
        )
    try:
        encoded = base64.b64encode(gallery.sheet_bytes(variant)).decode("ascii")
    except OSError as error:
        raise FastFluxError(
            f"The sheet {path.name} of {variant} cannot be read ({error.strerror}); make the gallery again."
        ) from error
    return f"data:{_MEDIA_TYPES[path.suffix]};base64,{encoded}"


#: Ratios to the dense model, of which less is better; of the scores more is.
COSTS = (LATENCY_RATIO, FLOPS_RATIO)


@dataclass(frozen=True)
class Series:
    """Variants drawn alike: `joined` by a line, with their labels' last part beside them."""

    name: str
    title: str
    families: tuple[str, ...]
    joined: bool = False


OTHER = Series("other", "Other variants", ())
SERIES = (
    Series("dense", "Dense", (DENSE,)),
    Series("fastflux", "FastFLUX", (FASTFLUX,), joined=True),
    Series("plus", "FastFLUX+", (PLUS,), joined=True),
    Series("l1", "L1-norm pruning", (L1,), joined=True),
    Series("l1-equal", "L1-norm pruning to equal latency", (L1_EQUAL,), joined=True),
    Series("width", "Width pruning", (WIDTH,), joined=True),
    Series("width-equal", "Width pruning to equal latency", (WIDTH_EQUAL,), joined=True),
    OTHER,
)


def shown_rows(rows: Sequence[Row]) -> list[Row]:
    """The dense model and its variants: ratios of another base or of other models' images are not to this model."""
    return [row for row in rows if row.id.repeated is None and row.family != EXTERNAL and row.baseline == DENSE]


def series_of(row: Row) -> Series:
    """The series of a row's family."""
    return next((series for series in SERIES if row.family in series.families), OTHER)


def front(points: Sequence[tuple[float, float] | None]) -> list[int]:
    """The indices of the (cost, score) points that no other point beats, by rising cost; None are left out.

    A point is beaten by one of no more cost and no less score that is better in one of the two.
    """
    found = [
        (cost, -score, index) for index, point in enumerate(points) if point is not None for cost, score in [point]
    ]
    kept: list[int] = []
    best: tuple[float, float] | None = None
    for cost, loss, index in sorted(found):
        if best is None or loss < best[1] or (cost, loss) == best:
            kept.append(index)
            best = (cost, loss)
    return kept


def pareto_data(rows: Sequence[Row], records: Mapping[str, str]) -> dict[str, JSON]:
    """All that the page's plot draws, as JSON: axes, series, points by `records` (element id by variant), fronts.

    Costs and scores that no variant has are left out; without any of either the lists are empty.
    """
    chosen = shown_rows(rows)
    costs = [axis for axis in COSTS if any(row.number(axis.key) is not None for row in chosen)]
    scores = [axis for axis in SCORES if any(row.number(axis.key) is not None for row in chosen)]
    fronts: dict[str, JSON] = {}
    for cost, score in product(costs, scores):
        pairs = [(row.number(cost.key), row.number(score.key)) for row in chosen]
        fronts[f"{cost.key} {score.key}"] = front([None if x is None or y is None else (x, y) for x, y in pairs])
    return {
        "costs": [_axis(column) for column in costs],
        "scores": [_axis(column) for column in scores],
        "series": [
            {"name": series.name, "title": series.title, "joined": series.joined}
            for series in SERIES
            if any(series_of(row) is series for row in chosen)
        ],
        "points": [
            {
                "record": records[row.variant],
                "label": one_line(row.label),
                "series": series_of(row).name,
                "values": {
                    column.key: [value.value, *(value.interval or (None, None))]
                    for column in (*costs, *scores)
                    if (value := row.value(column.key)).value is not None
                },
            }
            for row in chosen
        ],
        "fronts": fronts,
    }


def _axis(column: Column) -> dict[str, JSON]:
    return {"key": column.key, "name": column.heading, "digits": column.decimals}
