"""Score against cost as data: the points of every variant, their series, and which of them no other one beats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from bench.records.results import JSON
from bench.records.variant_id import DENSE, EXTERNAL, FASTFLUX, L1, L1_EQUAL, PLUS, WIDTH, WIDTH_EQUAL
from bench.tables import FLOPS_RATIO, LATENCY_RATIO, SCORES, Column
from fastflux.text import one_line
from reports.rows import Row

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
