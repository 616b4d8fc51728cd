"""`python -m bench history`: the trend of a metric over commits, as a table."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from bench.records.variant_id import DENSE, FASTFLUX, L1, VariantId
from bench.regression.history import Point, groups_of, read_history
from bench.run.folders import REGRESS
from bench.tables import trend
from fastflux.errors import FastFluxError

#: Shown unless a file says more: the models of the regression suite and those of Table 6.
_SHOWN = (DENSE, FASTFLUX, L1)
_COLUMNS = 6
_LOG_WIDTH = 120


def show_history(*, metric: str, profile: str, files: Sequence[Path] = ()) -> None:
    """Print the table.

    Raises FastFluxError for an unknown metric, and when no point of the profile holds it.
    """
    key = trend(metric).key
    places = list(files) or [REGRESS / profile / "history.jsonl"]
    points = [point for point in read_history(places) if point.profile == profile and _holders(point, key)]
    if not points:
        raise FastFluxError(
            f"No run of {profile} with {key} is in {', '.join(map(str, places))}: run `python -m bench regress`."
        )
    output = Console()
    if not output.is_terminal:
        output = Console(width=_LOG_WIDTH)
    for (_, device, prompts), group in groups_of(points).items():
        output.print(_table(group, key, f"{key}, {profile} on {device}, {group[0].images} images ({prompts})"))


def _holders(point: Point, key: str) -> list[str]:
    return [name for name, values in point.values.items() if key in values and VariantId.parse(name).family in _SHOWN]


def _table(points: Sequence[Point], key: str, title: str) -> Table:
    """A row for each variant, a column for each of the last commits."""
    names = list(dict.fromkeys(name for point in points for name in _holders(point, key)))
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
