"""Which tables there are, and each of them from rows: the declared ones, their twins and those that are worked out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.profiles import RANKINGS
from reports.claims.table import claims_table
from reports.devices import device_notes
from reports.figures.ranking import Ranking
from reports.grouping import DEFAULT_TOLERANCE
from reports.paired_differences import differences_table
from reports.paper import paper_against_measured
from reports.provenance import PROVENANCE, provenance_table
from reports.seeds import seeds_table
from reports.specs import TABLES
from reports.tables import make_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from reports.rows import Row
    from reports.specs import TableSpec
    from reports.table import Table

#: The declared tables and those that are worked out.
NAMES = (*TABLES, "differences", "seeds", "claims", PROVENANCE)
RATIO = "latency.ratio_to_dense"
_SCORES = ("hps.averaged", "geneval.overall", "clip_score.mean")
#: What the worked-out tables rest on.
_KEYS = {
    "differences": (*_SCORES, RATIO),
    "seeds": _SCORES,
    "claims": (*_SCORES, RATIO),
    PROVENANCE: (),
}


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
        if name in specs:
            spec = specs[name]
            made[name] = (
                make_table(name, spec, rows, intervals=intervals, tolerance=tolerance, mix_devices=mix_devices),
            )
            if spec.paper:
                made[f"{name}_paper"] = paper_against_measured(name, spec, rows, mix_devices=mix_devices)
            continue
        if name == "claims":
            made[name] = (build_claims(rows, ranking_file, tolerance=tolerance, mix_devices=mix_devices),)
            continue
        devices = device_notes(rows, _KEYS[name], f"Table {name}", mix=mix_devices)
        worked_out = {
            "differences": lambda: differences_table(rows, tolerance),
            "seeds": lambda: seeds_table(rows),
            PROVENANCE: lambda: provenance_table(rows),
        }
        table = worked_out[name]()
        made[name] = (replace(table, notes=(*table.notes, *devices)),)
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
    devices = device_notes(rows, _KEYS["claims"], "Table claims", mix=mix_devices)
    table = claims_table(rows, ranking_of(rows, ranking_file), tolerance)
    return replace(table, notes=(*table.notes, *devices))


def committed_ranking(rows: Sequence[Row]) -> Path | None:
    """The ranking that the repository keeps for the rows' profile, None where there is none."""
    committed = RANKINGS / f"{rows[0].profile}.json"
    return committed if committed.is_file() else None


def ranking_of(rows: Sequence[Row], ranking_file: Path | None) -> Ranking | None:
    """The ranking of a file, else the committed one of the rows' profile; raises FastFluxError when it holds none."""
    path = ranking_file or committed_ranking(rows)
    return None if path is None else Ranking.read(path)
