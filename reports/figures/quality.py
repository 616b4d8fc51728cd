"""Quality against latency: what a variant's speed costs in HPS and GenEval, a series for each method."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records.variant_id import DENSE, FASTFLUX, L1, PLUS, WIDTH
from bench.tables import GENEVAL, HPS, RATIO
from reports.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILION,
    label_point,
    light_grid,
    new_figure,
    style,
)
from reports.rows import Row
from reports.tables import SHAPES_PROFILE, model_name


@dataclass(frozen=True)
class _Series:
    family: str
    name: str
    colour: str
    marker: str


_Curve: TypeAlias = Sequence[tuple[tuple[float, float], Row]]
_SERIES = (
    _Series(FASTFLUX, "FastFLUX", BLUE, "o"),
    _Series(PLUS, "FastFLUX+", GREEN, "^"),
    _Series(L1, "L1-norm pruning", VERMILION, "s"),
    _Series(WIDTH, "width pruning", PURPLE, "v"),
)


def quality_against_latency(rows: Sequence[Row]) -> Figure | None:
    """Two panels of score against latency ratio with 95% intervals where the records hold them.

    None when no variant has both a latency ratio and one of the two scores.
    """
    panels = [(panel.key, panel.heading) for panel in (HPS, GENEVAL) if any(_point(row, panel.key) for row in rows)]
    if not panels:
        return None
    figure = new_figure(5.6 * len(panels), 4.4)
    with style():
        for index, (key, heading) in enumerate(panels, start=1):
            _draw_panel(figure.add_subplot(1, len(panels), index), rows, key, heading)
        title = f"Quality against latency, {model_name(rows)}"
        if any(row.profile == SHAPES_PROFILE for row in rows):
            title += "\nFLUX-Shapes scorers, not HPS v2 or GenEval of FLUX.1-dev"
        figure.suptitle(title, fontsize=11)
        figure.tight_layout()
    return figure


def _point(row: Row, key: str) -> tuple[float, float] | None:
    latency, score = row.number(RATIO), row.number(key)
    return None if latency is None or score is None else (latency, score)


def _draw_panel(axes: Axes, rows: Sequence[Row], key: str, heading: str) -> None:
    light_grid(axes, "both")
    axes.margins(0.1, 0.16)
    curves = {series: curve for series in _SERIES if (curve := _curve(rows, series, key))}
    scores = [point[1] for curve in curves.values() for point, _ in curve]
    close = 0.02 * (max(scores) - min(scores)) if scores else 0.0
    for series, curve in curves.items():
        others = [other for other in curves.values() if other is not curve]
        above = not any(_higher(other, curve) for other in others)
        lowered = any(0 <= other[0][0][1] - curve[0][0][1] < close for other in others)
        _draw_series(axes, curve, key, series, above=above, lowered=lowered)
    for row in rows:
        if row.family == DENSE and (point := _point(row, key)):
            _draw_bars(axes, row, key, BLACK)
            axes.plot(*point, marker="D", color=BLACK, markersize=6, linestyle="none")
            _label(axes, "dense", point, BLACK, above=False)  # above left is the nearest of the others
            axes.axhline(point[1], color=GREY, linewidth=0.8, linestyle=":")
    fast, slow = axes.dataLim.intervalx
    axes.set_xlim(left=fast - 0.44 * (slow - fast))  # room for the series' names left of their fastest points
    axes.set_title(heading, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel("latency, ratio to dense (left is faster)")
    axes.set_ylabel(f"{heading} (up is better)")


def _curve(rows: Sequence[Row], series: _Series, key: str) -> _Curve:
    """The variants of a series with their (latency, score), the fastest first."""
    found = [(point, row) for row in rows if row.family == series.family and (point := _point(row, key))]
    return sorted(found, key=lambda one: (one[0], one[1].variant))


def _higher(curve: _Curve, other: _Curve) -> bool:
    """Whether a curve lies above another's points, so that their labels keep apart."""
    (at, scores), (latencies, known) = (zip(*(point for point, _ in one), strict=True) for one in (other, curve))
    return float(np.mean(np.interp(at, latencies, known))) > fmean(scores)


def _draw_series(axes: Axes, curve: _Curve, key: str, series: _Series, *, above: bool, lowered: bool) -> None:
    """`lowered` is the name where another one, which starts a little higher, stands on its line."""
    axes.plot(
        [point[0] for point, _ in curve], [point[1] for point, _ in curve],
        color=series.colour, marker=series.marker, markersize=6, linewidth=1.4,
    )  # fmt: skip
    for index, (point, row) in enumerate(curve):
        _draw_bars(axes, row, key, series.colour)
        _label(axes, row.label.split()[-1].rpartition("-")[2], point, series.colour, above=above)
        if index == 0:  # the fastest point, where the lines are furthest from the dense model's
            layout = {"ha": "right", "va": "center", "fontsize": 8.5, "fontweight": "bold"}
            label_point(axes, series.name, point, (-10, -11 if lowered else 0), series.colour, **layout)


def _draw_bars(axes: Axes, row: Row, key: str, colour: str) -> None:
    """The 95% intervals as thin lines through the point; nothing where the record has none."""
    point = _point(row, key)
    if point is None:
        return
    if score := row.value(key).interval:
        axes.plot([point[0], point[0]], score, color=colour, linewidth=1.0, alpha=0.55, solid_capstyle="butt")
    if latency := row.value(RATIO).interval:
        axes.plot(latency, [point[1], point[1]], color=colour, linewidth=1.0, alpha=0.55, solid_capstyle="butt")


def _label(axes: Axes, text: str, point: tuple[float, float], colour: str, *, above: bool) -> None:
    # Curves rise to the right: above left and below right of a point are clear of them.
    offset, side, edge = ((-4, 6), "right", "bottom") if above else ((5, -6), "left", "top")
    label_point(axes, text, point, offset, colour, ha=side, va=edge, fontsize=8.5)
