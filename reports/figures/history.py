"""The trend of a metric over commits: a drawing with a panel for each prompt set and device, and a table."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table

from bench.metrics.catalogue import metric_named
from bench.records.variant_id import DENSE, FASTFLUX, L1, PLUS, VariantId
from bench.regression.history import Point, groups_of, points_with, shown_variants
from bench.tables import trend
from reports.figures.style import BLACK, BLUE, GREEN, GREY, VERMILION, light_grid, new_figure, style

_FAMILIES = {DENSE: (BLACK, "D"), FASTFLUX: (BLUE, "o"), PLUS: (GREEN, "^"), L1: (VERMILION, "s")}
_MAXIMUM_TICKS = 12


def history_figure(files: Sequence[Path], metric: str, profile: str) -> Figure:
    """Values with their 95% intervals where the file holds them, by commit in the order of measuring.

    A dotted line stands where the dense model's weights changed: values on its two sides are of two models. Raises
    FastFluxError when no point of the profile holds the metric.
    """
    column = trend(metric)
    key = column.key
    points = points_with(files, metric, profile)
    groups = groups_of(points)
    widths = [max(4, len(group)) for group in groups.values()]
    figure = new_figure(min(16.0, 1.6 + sum(0.62 * width + 1.6 for width in widths)), 4.8)
    with style():
        grid = figure.add_gridspec(1, len(groups), width_ratios=widths)
        for index, ((_, device, _prompts), group) in enumerate(groups.items()):
            axes = figure.add_subplot(grid[0, index])
            _draw(axes, group, key)
            axes.set_title(f"{group[0].images} images a variant, {device}", loc="left", fontsize=9)
        figure.axes[0].set_ylabel(column.heading)
        title = f"{column.heading} by commit, {profile}"
        if profile == "shapes" and metric_named(column.metric).measures != "transformer":
            title += " (FLUX-Shapes scorers, not those of FLUX.1-dev)"
        figure.suptitle(title, fontsize=11)
        figure.tight_layout()
    return figure


def _family(name: str) -> str:
    return VariantId.parse(name).family


def _draw(axes: Axes, points: Sequence[Point], key: str) -> None:
    light_grid(axes)
    names = sorted({name for point in points for name in shown_variants(point, key)})
    last: list[tuple[float, str, str]] = []
    for name in names:
        colour, marker = _FAMILIES[_family(name)]
        own = [(at, point.values[name][key]) for at, point in enumerate(points) if key in point.values.get(name, {})]
        shades = [other for other in names if _family(other) == _family(name)]
        alpha = 1.0 - 0.6 * shades.index(name) / max(1, len(shades))
        axes.plot(
            [at for at, _ in own], [value[0] for _, value in own],
            color=colour, marker=marker, markersize=4, linewidth=1.2, alpha=alpha,
        )  # fmt: skip
        for at, value in own:
            if len(value) == 3:
                axes.plot([at, at], value[1:], color=colour, linewidth=1.0, alpha=0.45 * alpha)
        last.append((own[-1][1][0], name, colour))
    _label_ends(axes, last, len(points))
    for at in range(1, len(points)):
        if points[at].base != points[at - 1].base:
            axes.axvline(at - 0.5, color=GREY, linewidth=1.0, linestyle=":")
            axes.annotate(
                "new weights", (at - 0.5, 0.02), xycoords=("data", "axes fraction"), xytext=(-2, 0),
                textcoords="offset points", fontsize=7, color=GREY, rotation=90, va="bottom", ha="right",
            )  # fmt: skip
    step = -(-len(points) // _MAXIMUM_TICKS)
    ticks = list(range(0, len(points), step))
    axes.set_xticks(ticks, [_tick(points[at]) for at in ticks], rotation=60, ha="right", fontsize=7)
    axes.set_xlim(-0.5, len(points) + 0.7 + 0.08 * len(points))  # room for the lines' names


def _tick(point: Point) -> str:
    return f"{point.commit[:7]}{'*' if point.dirty else ''}  {point.created[5:16].replace('T', ' ')}"


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], count: int) -> None:
    """The lines' names right of their last points, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    ends, gap = sorted(ends), (high - low) * 0.05
    places = [value for value, _, _ in ends]
    for _ in range(200):  # neighbours part by halves until none overlap
        for index in range(1, len(places)):
            lack = gap - (places[index] - places[index - 1])
            if lack > 0:
                places[index - 1] -= lack / 2
                places[index] += lack / 2
    for (_, name, colour), place in zip(ends, places, strict=True):
        axes.annotate(name, (count - 1, place), xytext=(9, 0), textcoords="offset points", color=colour, fontsize=8,
                      va="center")  # fmt: skip
    axes.set_ylim(min(low, places[0] - gap), max(high, places[-1] + gap))


_COLUMNS = 6
_LOG_WIDTH = 120


def show_history(files: Sequence[Path], metric: str, profile: str) -> None:
    """Print a table for each device and prompt set; raises as `bench.regression.history.points_with` does."""
    key = trend(metric).key
    output = Console()
    if not output.is_terminal:
        output = Console(width=_LOG_WIDTH)
    for (_, device, prompts), group in groups_of(points_with(files, metric, profile)).items():
        output.print(_table(group, key, f"{key}, {profile} on {device}, {group[0].images} images ({prompts})"))


def _table(points: Sequence[Point], key: str, title: str) -> Table:
    """A row for each variant, a column for each of the last commits."""
    names = list(dict.fromkeys(name for point in points for name in shown_variants(point, key)))
    shown = points[-_COLUMNS:]
    if len(points) > len(shown):
        title += f", the last {len(shown)} of {len(points)} runs"
    table = Table(Column("", no_wrap=True), box=None, title=title, title_justify="left")
    for point in shown:
        weights = "" if point.base == points[max(0, points.index(point) - 1)].base else "\nnew weights"
        mark = "*" if point.dirty else ""
        table.add_column(f"{point.commit[:7]}{mark}\n{point.created[5:16].replace('T', ' ')}{weights}", justify="right")
    for name in names:
        own = {point.key: point.values[name][key][0] for point in points if key in point.values.get(name, {})}
        cells = [f"{own[point.key]:,.4g}" if point.key in own else "" for point in shown]
        table.add_row(name, *cells)
    return table
