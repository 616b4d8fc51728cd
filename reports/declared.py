"""Tables declared in a TOML file, for records of one's own without a change to this package.

    [tables.speed]
    title = "Speed and quality"
    families = ["dense", "fastflux"]        # or variants = ["dense", "fastflux-10"]
    columns = [
        { heading = "HPS averaged", key = "hps.averaged" },
        { heading = "Latency (ms)", key = "latency.median_ms", share = "latency.ratio_to_dense", ranked = false },
    ]
    pairs = { baseline = "l1", candidate = "fastflux", by = "latency" }   # optional

The keys are those of `bench.tables.TableSpec`, `Column` and `Pairing`.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import msgspec

from bench.tables import TableSpec
from fastflux.errors import FastFluxError, unknown_name
from reports.rows import Row

#: What a file may not say: what is true of our own tables alone.
_OURS = {"paper", "needs", "worked_out"}


def read_tables(path: Path, taken: Iterable[str] = ()) -> dict[str, TableSpec]:
    """The tables that a TOML file declares, by name; none may be of those `taken`.

    Raises FastFluxError when the file cannot be read, declares none, or says something no table has; the error names
    the file, the table and the key.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FastFluxError(f"{path} cannot be read as TOML ({error}); it has to declare tables.") from error
    tables, taken = data.get("tables"), set(taken)
    if not isinstance(tables, dict) or not tables or data.keys() != {"tables"}:
        raise FastFluxError(f"{path} has {sorted(data) or 'nothing'} at its top; expected [tables.NAME] only.")
    for name in tables:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise FastFluxError(f"{path} names a table {name!r}; expected letters, digits, _ and -: it names files.")
        others = {*taken, *tables} - {name} if name not in taken else taken
        if name.replace("-", "_") in {other.replace("-", "_") for other in others}:
            raise FastFluxError(f"{path} names a table {name!r}, which is another document's name; choose another.")
    return {name: _table(entry, f"{path}, table {name}") for name, entry in tables.items()}


def _table(entry: dict[str, object], where: str) -> TableSpec:
    try:
        spec = msgspec.convert(entry, TableSpec)
    except msgspec.ValidationError as error:
        raise FastFluxError(f"{where}: {error}; docs/reports.md lists what a table says.") from error
    if ours := _OURS.intersection(entry):
        raise FastFluxError(f"{where} says {min(ours)}, which only FastFLUX's own tables can; leave it out.")
    if not spec.columns:
        raise FastFluxError(f"{where} has no columns; expected at least one {{ heading, key }}.")
    if {"families", "variants"} <= entry.keys() or () in (spec.families, spec.variants):
        raise FastFluxError(f"{where}: expected either families or variants, and at least one.")
    for place, column in enumerate(spec.columns, 1):
        for key in ("spec", "share_spec"):
            try:
                format(1.5, getattr(column, key))
            except ValueError as error:
                raise FastFluxError(f"{where}, column {place}: {key} {getattr(column, key)!r} ({error}).") from error
    return spec


def check_keys(tables: Mapping[str, TableSpec], rows: Sequence[Row]) -> None:
    """Refuse values that no record can have: a misspelt key or family would show dashes, or nothing, for ever.

    A metric that was not measured is taken for misspelt only where a measured one is spelt nearly so.
    """
    known = sorted({key for row in rows for key in row.values})
    metrics = {name for row in rows for name in row.measurements} | {key.partition(".")[0] for key in known}
    for name, spec in tables.items():
        for key in (key for column in spec.columns for key in (column.key, column.share) if key):
            metric = key.partition(".")[0]
            if key not in known and (metric in metrics or "." not in key or get_close_matches(metric, metrics)):
                raise FastFluxError(f"Table {name}: {unknown_name('value', key, known)}")
        if not spec.chosen(rows):
            families, variants = (sorted({getattr(row, kind) for row in rows}) for kind in ("family", "variant"))
            raise FastFluxError(
                f"Table {name} has no row: the records hold the families {', '.join(families)} and the variants "
                f"{', '.join(variants)}."
            )
