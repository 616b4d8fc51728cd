"""The paper's Figures 6 and 7 from records: HPS with and without the linear layer, and against the sandwich's size."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records.variant_id import DENSE
from bench.tables import HPS, TRAINED
from reports.compare import Comparison, compare
from reports.figures.style import BLACK, BLUE, GREY, VERMILION, label_point, light_grid, new_figure, style
from reports.paper import paper_data
from reports.rows import Row
from reports.tables import SHAPES_PROFILE, model_name

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
