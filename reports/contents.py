"""Which tables there are, and each of them from rows: the declared ones, their twins and those that are worked out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.profiles import RANKINGS
from bench.tables import TABLES, TableSpec
from reports.claims.table import claims_table
from reports.devices import device_notes
from reports.figures.ranking import Ranking
from reports.grouping import DEFAULT_TOLERANCE
from reports.paired_differences import differences_table
from reports.paper import paper_against_measured
from reports.rows import Row
from reports.seeds import seeds_table
from reports.table import Table
from reports.tables import make_table
from reports.why import PROVENANCE, provenance_table


def make_tables(
    rows: Sequence[Row],
    names: Iterable[str],
    specs: Mapping[str, TableSpec],
    *,
    intervals: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
    ranking_file: Path | None = None,
    mix_devices: bool = False,
) -> dict[str, tuple[Table, ...]]:
    """The tables by the name of their document; a table that the paper has, too, is followed by its twin of two tables.

    Raises FastFluxError for records that cannot share a table, and when `ranking_file` holds no ranking.
    """
    made: dict[str, tuple[Table, ...]] = {}
    for name in names:
        spec = specs[name]
        if spec.needs is not None and not spec.chosen(rows):
            continue  # of a method that was not measured
        if spec.worked_out:
            made[name] = (_worked_out(name, spec, rows, tolerance, ranking_file, mix_devices=mix_devices),)
            continue
        made[name] = (make_table(name, spec, rows, intervals=intervals, tolerance=tolerance, mix_devices=mix_devices),)
        if spec.paper:
            made[f"{name}_paper"] = paper_against_measured(name, spec, rows, mix_devices=mix_devices)
    return made


def build_claims(
    rows: Sequence[Row],
    ranking_file: Path | None = None,
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    mix_devices: bool = False,
) -> Table:
    """The table of claims over rows and a ranking file: the one given, else the committed one of their profile.

    Raises FastFluxError when the file given holds no ranking, and for latencies of several devices unless
    `mix_devices`.
    """
    return _worked_out("claims", TABLES["claims"], rows, tolerance, ranking_file, mix_devices=mix_devices)


def _worked_out(
    name: str, spec: TableSpec, rows: Sequence[Row], tolerance: float, ranking_file: Path | None, *, mix_devices: bool
) -> Table:
    devices = device_notes(rows, spec.keys, f"Table {name}", mix=mix_devices)
    makers: Mapping[str, Callable[[], Table]] = {
        "differences": lambda: differences_table(rows, tolerance),
        "seeds": lambda: seeds_table(rows),
        "claims": lambda: claims_table(rows, ranking_of(rows, ranking_file), tolerance),
        PROVENANCE: lambda: provenance_table(rows),
    }
    table = makers[name]()
    return replace(table, notes=(*table.notes, *devices))


def committed_ranking(rows: Sequence[Row]) -> Path | None:
    """The ranking that the repository keeps for the rows' profile, None where there is none."""
    committed = RANKINGS / f"{rows[0].profile}.json"
    return committed if committed.is_file() else None


def ranking_of(rows: Sequence[Row], ranking_file: Path | None) -> Ranking | None:
    """The ranking of a file, else the committed one of the rows' profile; raises FastFluxError when it holds none."""
    path = ranking_file or committed_ranking(rows)
    return None if path is None else Ranking.read(path)
