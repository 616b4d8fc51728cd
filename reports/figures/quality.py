"""Figures from records and rankings: quality against latency, ablations by HPS, the importance of every block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records.variant_id import DENSE, FASTFLUX, L1, PLUS, WIDTH
from bench.tables import GENEVAL, HPS, RATIO, TRAINED
from fastflux.plan import block_count
from reports.figures.ranking import DOUBLE, SINGLE, Ranking, flow_place, stack_of
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
from reports.grouping import Comparison, compare
from reports.paper import paper_data
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


_HPS, _TRAINED = HPS.key, TRAINED.key
_FULL = "fastflux-10"
#: Name, colour, marker, and the variants with the linear layer and with the blocks removed.
_LINEAR_SERIES = (
    ("with Sandwich Training", BLUE, "o", (_FULL, "removal_st-10")),
    ("w/o ST", VERMILION, "s", ("brll-10", "removal-10")),
)
_LAYERS = {1: "layers1-10", 3: _FULL, 5: "layers5-10"}


def linear_layer_figure(rows: Sequence[Row]) -> Figure | None:
    """HPS with the linear layer and with the blocks removed, with Sandwich Training and without (Figure 6).

    None unless the records hold FastFLUX-10% with and without the linear layer.
    """
    scored = _scored(rows)
    if not {_FULL, "removal_st-10"} <= scored.keys():
        return None
    figure = new_figure(6.4, 5.0)
    with style():
        axes = figure.add_subplot()
        _prepare(axes, rows)
        for shift, (name, colour, marker, variants) in zip((-0.06, 0.06), _LINEAR_SERIES, strict=True):
            points = [(place + shift, scored[variant]) for place, variant in enumerate(variants) if variant in scored]
            if points:
                _series(axes, points, name, colour, marker, left=False)
        axes.set_xticks([0, 1], ["linear layer (BRLL)", "blocks removed"])
        axes.set_xlim(-0.55, 1.55)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9)
        _title(figure, rows, "With and without the linear layer, 10% of the blocks")
        paper = paper_data()["figures"]["figure6"]
        change = paper["without_linear"] - paper["with_linear"]
        source = f"The paper on {paper_data()['model']}"
        _below(
            figure,
            f"Removed against linear, both with ST: {_difference(scored['removal_st-10'], scored[_FULL])}",
            f"{source}: {paper['without_linear']} against {paper['with_linear']}, {change:+.2f}",
        )
    return figure


def sandwich_size_figure(rows: Sequence[Row]) -> Figure | None:
    """HPS and the parameters trained at once against the number of layers in a sandwich (Figure 7).

    None unless the records hold sandwiches of two sizes at least.
    """
    scored = _scored(rows)
    found = {size: scored[variant] for size, variant in _LAYERS.items() if variant in scored}
    if len(found) < 2:
        return None
    figure = new_figure(6.4, 5.8)
    with style():
        axes, small = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _prepare(axes, rows)
        _series(axes, list(found.items()), "", BLUE, "o", left=True)
        costs = {size: cost for size, row in found.items() if (cost := row.number(_TRAINED)) is not None}
        small.bar(list(costs), list(costs.values()), width=0.5, color=BLUE, alpha=0.75)
        for size, cost in costs.items():
            small.annotate(f"{cost / 1e3:,.1f} k", (size, cost), xytext=(0, 2), textcoords="offset points",
                           ha="center", va="bottom", fontsize=9)  # fmt: skip
        small.set_yticks([])
        small.margins(y=0.35)
        small.spines["left"].set_visible(False)
        small.set_title("parameters trained at once", loc="left", fontsize=9)
        small.set_xticks(list(_LAYERS), [f"{size} layer{'s' if size > 1 else ''}" for size in _LAYERS])
        small.set_xlim(0.2, 5.8)
        _title(figure, rows, "Layers in a sandwich, 10% of the blocks")
        paper = paper_data()["figures"]["figure7"]
        source = f"The paper on {paper_data()['model']}"
        _below(
            figure,
            *(f"{large} layers against {little}: {_difference(found[large], found[little])}"
              for little, large in ((1, 3), (3, 5)) if {little, large} <= found.keys()),
            f"{source}: {paper['gain_1_to_3']:+.2f} from 1 to 3, {paper['gain_3_to_5']:+.2f} "
            f"from 3 to 5 ({paper['extra_parameters_3_to_5']:.0%} more parameters)",
        )  # fmt: skip
    return figure


def _scored(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.variant: row for row in rows if row.number(_HPS) is not None}


def _prepare(axes: Axes, rows: Sequence[Row]) -> None:
    """Grid, heading, and the dense model as a dotted line."""
    light_grid(axes)
    axes.margins(y=0.16)
    axes.set_ylabel(f"{HPS.heading} and 95% interval (up is better)")
    dense = next((row.value(_HPS) for row in rows if row.variant == DENSE), None)
    if dense is None or dense.value is None:
        return
    axes.axhline(dense.value, color=GREY, linewidth=0.9, linestyle=":")
    axes.annotate("dense", (0, dense.value), xycoords=("axes fraction", "data"), xytext=(4, 3),
                  textcoords="offset points", ha="left", va="bottom", fontsize=9, color=GREY)  # fmt: skip


def _series(
    axes: Axes, points: Sequence[tuple[float, Row]], name: str, colour: str, marker: str, *, left: bool
) -> None:
    """Points with their 95% intervals and values, joined by a thin line; `left`, clear of a line that rises."""
    values = [row.number(_HPS) or 0.0 for _, row in points]
    axes.plot([x for x, _ in points], values, color=colour, marker=marker, markersize=7, linewidth=1.2, label=name)
    for (x, row), value in zip(points, values, strict=True):
        if bounds := row.value(_HPS).interval:
            axes.plot([x, x], bounds, color=colour, linewidth=1.4, alpha=0.6, solid_capstyle="butt")
        offset, side = ((-6, 5), "right") if left else ((6, 5), "left")
        label_point(axes, f"{value:.2f}", (x, value), offset, colour, ha=side, va="bottom", fontsize=9)


def _difference(candidate: Row, baseline: Row) -> str:
    found = compare([candidate], [baseline], _HPS)
    if not isinstance(found, Comparison):
        return f"{(candidate.number(_HPS) or 0.0) - (baseline.number(_HPS) or 0.0):+.2f}"
    return found.change


def _title(figure: Figure, rows: Sequence[Row], text: str) -> None:
    lines = [f"{text}, {model_name(rows)}"]
    if any(row.profile == SHAPES_PROFILE for row in rows):
        lines.append("FLUX-Shapes scorer, not HPS v2")
    figure.suptitle("\n".join(lines), fontsize=11)


def _below(figure: Figure, *lines: str) -> None:
    """Lines of text under the axes, for which room is made."""
    room = (0.24 * len(lines) + 0.1) / figure.get_figheight()
    figure.tight_layout(rect=(0, room, 1, 1))
    figure.text(0.02, 0.1 / figure.get_figheight(), "\n".join(lines), fontsize=9, color=BLACK, va="bottom",
                linespacing=1.5)  # fmt: skip


#: What the field calls a stack's blocks, colour and marker.
_KINDS = {DOUBLE: ("double blocks", VERMILION, "s"), SINGLE: ("single blocks", BLUE, "o")}
MARKS = (0.1, 0.2, 0.3)


def importance_figure(ranking: Ranking) -> Figure:
    """Two panels: the blocks by importance (the paper's Figure 8), and along the data flow how linear each is."""
    figure = new_figure(11.2, 4.4)
    with style():
        left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
        _dots(left, list(enumerate(ranking.blocks, 1)), "importance")
        for mark in MARKS:
            at = block_count(mark, len(ranking.blocks)) + 0.5
            left.axvline(at, color=GREY, linewidth=0.8, linestyle="--")
            left.annotate(f"{mark:.0%}", (at, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom",
                          fontsize=8.5, color=GREY)  # fmt: skip
        left.set_title("Importance without each block", loc="left", fontsize=10, fontweight="bold", pad=16)
        left.set_xlabel("blocks, least important first; dashed: replaced at that ratio")
        left.set_ylabel("importance (up: matters more)")
        left.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.36, 0.94))
        flow = sorted(ranking.blocks, key=flow_place)
        _dots(right, list(enumerate(flow, 1)), "residual_r2")
        right.set_title("Residual R² by block", loc="left", fontsize=10, fontweight="bold", pad=16)
        right.set_xlabel("blocks, along the data flow")
        right.set_ylabel("R² (up: replaced more exactly)")
        right.set_ylim(0, 1.02)
        figure.suptitle(f"Blocks of {ranking.base_model}", fontsize=11)
        figure.tight_layout()
    return figure


def _dots(axes: Axes, entries: list[tuple[int, Mapping[str, Any]]], key: str) -> None:
    light_grid(axes)
    flow = sorted((entry for _, entry in entries), key=flow_place)
    stacks = dict.fromkeys(stack_of(entry) for entry in flow)
    for stack in stacks:
        name, colour, marker = _KINDS.get(stack, (stack, GREY, "D"))
        chosen = [(place, entry[key]) for place, entry in entries if stack_of(entry) == stack]
        axes.plot(
            [place for place, _ in chosen], [value for _, value in chosen],
            linestyle="none", marker=marker, color=colour, markersize=5, label=name,
        )  # fmt: skip
