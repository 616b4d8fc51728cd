"""The page's image browser as data: what every tile of a gallery shows, and the verdicts and scores it got."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from bench.records.results import JSON
from bench.records.variant_id import DENSE, FASTFLUX
from bench.tables import CLIP, GENEVAL, HPS
from fastflux.errors import FastFluxError
from fastflux.text import one_line
from reports.figures.gallery import Gallery, GalleryShot
from reports.rows import Row

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
