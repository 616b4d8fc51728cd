"""Rows and a declared table make a `Table`: grouped by latency or base, best values marked, every gap explained.

Tables declared in a TOML file need no change to this package. The keys are those of `bench.tables.TableSpec`, `Column`
and `Pairing`:

    [tables.speed]
    title = "Speed and quality"
    families = ["dense", "fastflux"]        # or variants = ["dense", "fastflux-10"]
    columns = [
        { heading = "HPS averaged", key = "hps.averaged" },
        { heading = "Latency (ms)", key = "latency.median_ms", share = "latency.ratio_to_dense", ranked = false },
    ]
    pairs = { baseline = "l1", candidate = "fastflux", by = "latency" }   # optional
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import msgspec
from msgspec import structs

from bench.records.statistics import SIGNIFICANT
from bench.records.variant_id import DENSE, PLUS, WIDTH_EQUAL
from bench.tables import RATIO, Column, Pairing, TableSpec
from fastflux.errors import FastFluxError, unknown_name
from reports.grouping import DEFAULT_TOLERANCE, Comparison, LatencyPair, comparable, compare, device_notes, pairs_of
from reports.rows import Row, conditions
from reports.table import NEAR, Cell, Direction, Group, Header, Table

SHAPES_PROFILE = "shapes"
SHAPES_LABEL = (
    "Scores are of the FLUX-Shapes scorers (small models on rendered shapes), not HPS v2 or GenEval of FLUX.1-dev; "
    "compare them within this table only."
)
ALSO_MARKED = (
    f"{NEAR}: not significantly worse than that (paired by prompt and seed, sign-flip test, p < {SIGNIFICANT:g}; "
    "of one pruning each)."
)
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def make_table(
    name: str,
    spec: TableSpec,
    rows: Sequence[Row],
    *,
    intervals: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
    mix_devices: bool = False,
) -> Table:
    """The declared table `spec` filled from `rows`; with `intervals` each value carries its 95% interval.

    Bold is the best of a latency group and underlined the best of all rows; whatever shows the same number is marked
    alike. Where single images were scored, what is not significantly worse than the best of all has a sign of its own.
    Raises FastFluxError for a tolerance that is no fraction, and for values that hang on the machine from several
    devices unless `mix_devices`.
    """
    chosen = spec.chosen(rows)
    spec = structs.replace(
        spec,
        columns=tuple(
            column
            for column in spec.columns
            if not column.optional or any(row.number(column.key) is not None for row in chosen)
        ),
    )
    devices = device_notes(chosen, spec.keys, f"Table {name}", mix=mix_devices)
    members = _paired(chosen, spec.pairs, tolerance) if spec.pairs else _by_base(chosen, rows)
    chosen = [row for _, group in members for row, _ in group]  # a pairing leaves out those it has nothing to say of
    scales = [scale_of(column, chosen) for column in spec.columns]
    best = [best_rows(column, chosen) for column in spec.columns]
    near = [near_rows(column, chosen, top) for column, top in zip(spec.columns, best, strict=True)]
    groups = []
    for heading, group in members:
        # The first group, of the dense and other models, has no heading: it is no latency group.
        paired = spec.pairs is not None and bool(heading) and not any(note for _, note in group)
        best_here = [best_rows(column, [row for row, _ in group] if paired else []) for column in spec.columns]
        marks = list(zip(best_here, best, near, strict=True))
        lines = []
        for row, note in group:
            cells = [Cell(text=row.label, footnote=note)]
            for column, (scale, _), marked in zip(spec.columns, scales, marks, strict=True):
                bold, underline, almost = (row.variant in variants for variants in marked)
                cell = value_cell(column, row, scale, interval=intervals)
                cells.append(replace(cell, bold=bold, underline=underline, near=almost))
            lines.append(tuple(cells))
        groups.append(Group(tuple(lines), heading))
    return Table(
        name=name,
        title=f"{spec.title}, {model_name(rows)}",
        headers=headers(spec.columns, rows, [prefix for _, prefix in scales]),
        groups=tuple(groups),
        label=profile_label(rows),
        notes=(
            *_legend(spec, chosen, best, near, tolerance, intervals=intervals),
            *devices,
            *metric_notes(spec.columns, chosen),
        ),
    )


def model_name(rows: Sequence[Row]) -> str:
    """What the rows are variants of: the dense row's label, or the profile when dense was not measured."""
    return next((row.label for row in rows if row.family == DENSE), rows[0].profile)


def profile_label(rows: Sequence[Row]) -> str:
    """The line that keeps the shapes profile's scores from being taken for FLUX.1-dev's, "" for other profiles."""
    return SHAPES_LABEL if any(row.profile == SHAPES_PROFILE for row in rows) else ""


def headers(columns: Sequence[Column], rows: Sequence[Row], prefixes: Sequence[str]) -> tuple[Header, ...]:
    """The headings: the model's column, then each value's with its SI prefix and the direction its metric declares."""
    texts = [
        column.heading + (f" ({prefix})" if prefix else "") for column, prefix in zip(columns, prefixes, strict=True)
    ]
    scales = {prefix: scale for scale, prefix in _PREFIXES}
    return (
        Header("Model", align="left"),
        *(
            Header(text, _direction(column, rows), column.spec, scale=scales.get(prefix, 1.0))
            for text, prefix, column in zip(texts, prefixes, columns, strict=True)
        ),
    )


def value_cell(column: Column, row: Row, scale: float, *, interval: bool = False) -> Cell:
    """One value as a cell: scaled and with its share in parentheses, or a dash that leads to the reason."""
    found = row.value(column.key)
    origin = None if row.record is None else (row.variant, column.key)
    if found.value is None:
        return Cell(footnote=found.note, origin=origin)
    bounds = (found.interval[0] / scale, found.interval[1] / scale) if interval and found.interval else None
    share = row.number(column.share) if column.share else None
    text = format(found.value / scale, column.spec)
    suffix = "" if share is None else f"({share:{column.share_spec}})"
    return Cell(found.value, text, found.note, interval=bounds, suffix=suffix, origin=origin)


def metric_notes(columns: Iterable[Column], rows: Sequence[Row]) -> tuple[str, ...]:
    """One line for each metric of the columns: version, reference, how many were scored and under which settings."""
    notes = []
    for name in dict.fromkeys(
        metric for column in columns for metric in (column.metric, column.share.partition(".")[0])
    ):
        measured = [row for row in rows if name in row.measurements]
        if measured:
            info = measured[0].measurements[name].info
            texts = list(dict.fromkeys(text for row in measured if (text := conditions(row, name))))
            text = "conditions differ between variants: see the records" if len(texts) > 1 else "".join(texts)
            notes.append(f"{name} (version {info.version}): {info.reference}" + (f"; {text}" if text else ""))
    return tuple(notes)


def scale_of(column: Column, rows: Sequence[Row]) -> tuple[float, str]:
    """Factor and SI prefix of a column; (1, "") for one that is not scaled."""
    numbers = [abs(number) for row in rows if (number := row.number(column.key)) is not None]
    largest = max(numbers, default=0.0)
    return next((entry for entry in _PREFIXES if column.si and largest >= entry[0]), (1.0, ""))


def _direction(column: Column, rows: Sequence[Row]) -> Direction:
    source = column.metric if column.direction_of is None else column.direction_of
    found = (row.measurements.get(source.lstrip("-")) for row in rows)
    better = next((measurement.info.higher_is_better for measurement in found if measurement is not None), None)
    if better is None:
        return ""
    return "up" if better != source.startswith("-") else "down"


def _shown(column: Column, row: Row) -> float | None:
    """A ranked value rounded as it is displayed: two rows that show the same number are equally good."""
    found = row.value(column.key)
    ranked = column.ranked and found.value is not None and not found.partial
    return float(format(found.value, column.spec)) if ranked else None


def best_rows(column: Column, rows: Sequence[Row]) -> frozenset[str]:
    """The variants that show the best value of a column.

    Nothing is best among fewer than two values, or where neither direction is better; nor is a value of a part.
    """
    shown = [(number, row.variant) for row in rows if (number := _shown(column, row)) is not None]
    direction = _direction(column, rows)
    if len(shown) < 2 or not direction:
        return frozenset()
    top = (max if direction == "up" else min)(number for number, _ in shown)
    return frozenset(variant for number, variant in shown if number == top)


def near_rows(column: Column, rows: Sequence[Row], best: frozenset[str]) -> frozenset[str]:
    """The other variants that are not significantly worse than the best, by the scores of single images."""
    tops = [row for row in rows if row.variant in best and comparable(row, column.key)]
    if not tops:
        return frozenset()
    top = max(tops, key=lambda row: (row.number(column.key) or 0.0) * (-1 if _direction(column, rows) == "down" else 1))
    found = {row.variant: compare([row], [top], column.key) for row in rows if row.variant not in best}
    return frozenset(name for name, one in found.items() if isinstance(one, Comparison) and one.paired.sign == 0)


_Members = list[tuple[str, list[tuple["Row", str]]]]


def _paired(rows: Sequence[Row], pairs: Pairing, tolerance: float) -> _Members:
    """Headed groups of (row, footnote): the dense model, the pairs of similar latency, the rows without a partner."""
    by_variant = {row.variant: row for row in rows}
    found = pairs_of(rows, pairs, tolerance)
    own = (pairs.baseline, pairs.candidate, pairs.beside)
    rest = [(row, "") for row in rows if row.family not in own]
    groups = [("", rest)] if rest else []
    for pair in found.pairs:
        beside = [by_variant[variant] for variant, group in found.beside.items() if group == pair]
        members = [by_variant[pair.baseline], by_variant[pair.candidate], *beside]
        groups.append((_heading(pair, members, pairs), [(row, "") for row in members]))
    alone = [(by_variant[variant], reason) for variant, reason in found.alone.items()]
    return [*groups, ("Without a partner of similar latency", alone)] if alone else groups


def _heading(pair: LatencyPair, members: Sequence[Row], pairs: Pairing) -> str:
    if pair.difference is None:
        return "Latency not measured"
    ratios = sorted(row.number(RATIO) or 0.0 for row in members)
    text = f"Latency {ratios[0]:.3f} to {ratios[-1]:.3f} of dense"
    return text if pairs.by == "latency" else f"{text}, {pair.difference:.1%} apart"


def _by_base(chosen: Sequence[Row], rows: Sequence[Row]) -> _Members:
    """The rows in one group, or a headed group for each base model."""
    bases = dict.fromkeys(row.baseline for row in chosen)
    if len(bases) < 2:
        return [("", [(row, "") for row in chosen])]
    names = {row.variant: row.label for row in rows}
    return [
        (
            f"Base model {names[base]}" if base in names else "Base model not measured",
            [(row, "") for row in chosen if row.baseline == base],
        )
        for base in bases
    ]


def _legend(
    spec: TableSpec,
    chosen: Sequence[Row],
    best: Sequence[frozenset[str]],
    near: Sequence[frozenset[str]],
    tolerance: float,
    *,
    intervals: bool,
) -> list[str]:
    lines = []
    if spec.pairs and spec.pairs.by == "latency":
        lines.append(
            "Latency groups pair each L1-norm variant with the FastFLUX variant of nearest measured latency ratio "
            f"within {100 * tolerance:g}%."
            + (" FastFLUX+ joins the group of nearest latency." if any(row.family == PLUS for row in chosen) else "")
        )
    elif spec.pairs:
        made = any(row.family == spec.pairs.baseline for row in chosen)
        lines.append(
            "Each L1-norm variant was pruned to the latency of the FastFLUX variant in its group; the headings "
            "tell how near it came in this table's measurement."
            + (
                " Width pruning kept as many heads and channels."
                if any(row.family == WIDTH_EQUAL for row in chosen)
                else ""
            )
            if made
            else "No L1-norm variant pruned to the latency of a FastFLUX variant is among the records."
        )
    elif len({row.baseline for row in chosen}) > 1 and any(column.share for column in spec.columns):
        lines.append("Ratios are to the dense model of the same base.")
    if missing := sorted(set(spec.variants or ()) - {row.variant for row in chosen}, key=(spec.variants or ()).index):
        lines.append(f"Not among the records: {', '.join(missing)}.")
    if any(best):
        bold = "Bold: best of its latency group. " if spec.pairs else ""
        lines.append(f"{bold}Underlined: best of all rows.{f' {ALSO_MARKED}' if any(near) else ''}")
    if intervals:
        lines.append("In brackets: 95% interval.")
    return lines


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
