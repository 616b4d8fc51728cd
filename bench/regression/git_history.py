"""`python -m bench history`: the trend of a metric over commits, as a table."""

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from bench.progress import console
from bench.records.results import RecordError, RunRecord, record_text
from bench.records.variant_id import DENSE, FASTFLUX, L1, VariantId
from bench.regression.history import Point, append, groups_of, point_of, read_history
from bench.run.folders import REGRESS
from bench.tables import trend
from fastflux.errors import FastFluxError

#: Shown unless a file says more: the models of the regression suite and those of Table 6.
_SHOWN = (DENSE, FASTFLUX, L1)
_COLUMNS = 6
_LOG_WIDTH = 120


def show_history(*, metric: str, profile: str, imported: Path | None = None, files: Sequence[Path] = ()) -> None:
    """Print the table; the records that past commits held in `imported` are added to the first file before.

    Raises FastFluxError for an unknown metric, and when no point of the profile holds it.
    """
    key = trend(metric).key
    places = list(files) or [REGRESS / profile / "history.jsonl"]
    if imported is not None:
        added = append(places[0], points_from_git(imported))
        console.print(f"{added} runs of past commits were added to {places[0]}", markup=False, soft_wrap=True)
    points = [point for point in read_history(places) if point.profile == profile and _holders(point, key)]
    if not points:
        raise FastFluxError(
            f"No run of {profile} with {key} is in {', '.join(map(str, places))}: run `python -m bench regress`, "
            "or add past records with --import."
        )
    output = Console()
    if not output.is_terminal:
        output = Console(width=_LOG_WIDTH)
    for (_, device, prompts), group in groups_of(points).items():
        output.print(_table(group, key, f"{key}, {profile} on {device}, {group[0].images} images ({prompts})"))


def points_from_git(folder: Path) -> Iterator[Point]:
    """The records that past commits held in a folder, a point for each commit that changed them, newest first.

    Records of a version that cannot be read any more are told and left out. Raises FastFluxError where git does not
    know the folder.
    """
    for commit in _git(folder, "log", "--format=%H", "--", ".").decode().split():
        names = _git(folder, "ls-tree", "--name-only", commit, "./").decode().split()
        records = []
        try:
            for name in names:
                text = record_text(name, _git(folder, "show", f"{commit}:./{name}"))
                records.append(RunRecord.from_json(text, f"{commit[:12]}:{name}", digested=False))
        except RecordError as error:
            console.print(f"left out: {error}", markup=False, soft_wrap=True)
            continue
        records.sort(key=lambda record: record.variant != "dense")
        main = [record for record in records if record.base_model == records[0].base_model]
        if main and main[0].variant == "dense":
            yield point_of(main)


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


def _git(folder: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    try:
        # git from the path, with our own arguments
        return subprocess.run(command, capture_output=True, check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", b"").decode(errors="replace").strip() or str(error)
        raise FastFluxError(f"git cannot tell of past records ({detail}): run this in a checkout.") from error
