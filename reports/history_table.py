"""The trend of a metric over commits as a table for the terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from bench.regression.history import Point, groups_of, points_with, shown_variants
from bench.tables import trend

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
