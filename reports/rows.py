"""Records as rows: a variant's values by dotted key ("hps.averaged"), intervals, and reasons for what is missing."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from bench.metrics.catalogue import metrics, on_machine
from bench.record_checks import check_records
from bench.records.results import JSON, Measurement, MetricInfo, RunRecord, read_records, record_files
from bench.records.variant_id import DENSE, FASTFLUX, L1, PLUS, VariantId
from bench.tables import FLOPS_RATIO, RATIO
from fastflux.errors import FastFluxError
from fastflux.plan import WHOLE_KINDS

_PATH = re.compile(r"(?<![^\s:])/(?:[^/\s]+/)*(?=[^/\s])")
_FAMILY_ORDER = (DENSE, FASTFLUX, PLUS, L1)
_NO_DEFINITION = {"interval_seed", "prompts_too_long", "equal_images", "results", "results_sha256"}
"""Settings of scores that tell of the images, or of intervals, and not of what is computed."""


@dataclass(frozen=True)
class Value:
    """A number with its 95% interval, or None with the reason; `note` says what limits a number that is there.

    A number of a part of the images is shown with that note, and is never the best of its column.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    note: str = ""
    partial: bool = False


@dataclass(frozen=True)
class Row:
    """One variant: who it is, and its values by key.

    `baseline` is the id of the unpruned model of the same base ("dense", or "sd3" beside it), "" where that was not
    measured; an unpruned model is its own. `record` is where it all came from; the paper's rows have none. `missing` is
    the reason for a value of a `metric` that it does not have.
    """

    id: VariantId
    label: str
    profile: str
    values: Mapping[str, Value]
    record: RunRecord | None = None
    baseline: str = DENSE
    missing: str = "{metric}: not measured"

    @property
    def variant(self) -> str:
        """The id as text."""
        return str(self.id)

    @property
    def family(self) -> str:
        """The id's family."""
        return self.id.family

    @cached_property
    def record_key(self) -> str:
        """The key of the record, "" without one."""
        return "" if self.record is None else self.record.key

    @cached_property
    def measurements(self) -> Mapping[str, Measurement]:
        """What was measured or failed, by metric."""
        return {} if self.record is None else {found.info.name: found for found in self.record.measurements}

    def value(self, key: str) -> Value:
        """The value of a key such as "geneval.overall"; never raises: what is missing is a None with its reason."""
        if key in self.values:
            return self.values[key]
        metric = key.partition(".")[0]
        found = self.measurements.get(metric)
        if found is None:
            return Value(None, note=self.missing.format(metric=metric))
        if found.status == "ok":
            return Value(None, note=f"{metric}: the record holds no such value")
        return Value(None, note=f"{metric}: {found.status}" + (f", {found.reason}" if found.reason else ""))

    def number(self, key: str) -> float | None:
        """The bare number of a key, or None."""
        return self.value(key).value


def read_rows(folder: Path) -> tuple[Row, ...]:
    """The rows of all records in `folder`: dense first, then FastFLUX and L1 by ratio; other base models behind.

    Raises FastFluxError when there is none, when two profiles are mixed, when two records used different versions of a
    metric, or for a record that does not agree with itself or the others (`bench.record_checks`).
    """
    if not folder.is_dir():
        raise FastFluxError(
            f"The results folder {folder} does not exist; give a folder of records (one JSON file a variant)."
        )
    records = read_records(folder)
    check_records(records)
    rows = rows_of(records)
    if not rows:
        below = sorted({path.parent.relative_to(folder).as_posix() for path in record_files(folder)})
        raise FastFluxError(
            f"The results folder {folder} holds no record; give a folder of records (one JSON file a variant)"
            + (f", such as {folder / below[0]}." if below else ".")
        )
    return rows


def rows_of(records: Iterable[RunRecord]) -> tuple[Row, ...]:
    """Records as sorted rows; raises as `read_rows` does for records that may not share a table."""
    rows = tuple(sorted(_with_baselines(_named_apart([_row(record) for record in records])), key=_order))
    profiles = sorted({row.profile for row in rows})
    if len(profiles) > 1:
        raise FastFluxError(
            f"The records are of the profiles {', '.join(profiles)}, but one table holds one profile; part them."
        )
    seen: dict[str, tuple[str, MetricInfo]] = {}
    for row in rows:
        for name, measurement in row.measurements.items():
            info = measurement.info
            variant, first = seen.setdefault(name, (row.variant, info))
            if (first.version, first.higher_is_better) != (info.version, info.higher_is_better):
                raise FastFluxError(
                    f"Metric {name} has version {first.version} in {variant} and {info.version} in {row.variant}, "
                    "or another direction; measure both with the same version."
                )
    return tuple(_of_one_definition(rows))


def _named_apart(rows: Sequence[Row]) -> list[Row]:
    """The rows with their ids behind labels that others have too, or have for an id."""
    names = Counter(name for row in rows for name in {row.label.lower(), row.variant.lower()})
    return [
        row if names[row.label.lower()] == 1 else replace(row, label=f"{row.label} ({row.variant})") for row in rows
    ]


def _of_one_definition(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows without scores that are defined otherwise than those of the first row, the dense model's.

    Of other weights, other reference images, another judge or other prompts, numbers that stand in one column would
    be taken for one thing.
    """
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        values = dict(row.values)
        for name, measurement in row.measurements.items():
            kind = metrics()[name].measures if name in metrics() else ""
            if measurement.status != "ok" or kind not in ("images", "pairs"):
                continue
            leader = first.setdefault((name, row.baseline if kind == "pairs" else ""), row)
            theirs, ours = (_definition(each.measurements[name]) for each in (leader, row))
            if differing := [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]:
                note = f"{name}: defined otherwise than in {leader.label} ({', '.join(differing)})"
                values |= {key: Value(None, note=note) for key in values if key.startswith(f"{name}.")}
        yield replace(row, values=values)


def _definition(measurement: Measurement) -> dict[str, JSON]:
    """What a score is: its name, its settings and the number of images; weights by their hash, whatever their file."""
    settings = measurement.settings
    unsaid = {*_NO_DEFINITION, *(["pretrained"] if settings.get("weights_sha256") else [])}
    found = {key: value for key, value in settings.items() if key not in unsaid}
    return {**found, "reference": measurement.info.reference, "images": measurement.scored + measurement.missing}


def _with_baselines(rows: Iterable[Row]) -> list[Row]:
    """The rows with their base's unpruned model: of the same weights, else of the same name."""
    rows = list(rows)
    found: dict[tuple[str, str] | str, str] = {}
    for row in rows:
        if row.record is not None and row.record.plan is None:
            found.setdefault((row.record.base_model, row.record.base_revision), row.variant)
            found.setdefault(row.record.base_model, row.variant)

    def baseline(row: Row) -> str:
        if row.record is None:
            return row.baseline
        whole = (row.record.base_model, row.record.base_revision)
        return found.get(whole, found.get(row.record.base_model, ""))

    return [replace(row, baseline=baseline(row)) for row in rows]


def _order(row: Row) -> tuple[str, bool, int, str, float, str]:
    known = _FAMILY_ORDER.index(row.family) if row.family in _FAMILY_ORDER else len(_FAMILY_ORDER)
    base = "" if row.baseline == DENSE else row.baseline
    return base, row.variant != row.baseline, known, row.family, row.number("plan.ratio") or 0.0, row.variant


def _row(record: RunRecord) -> Row:
    values: dict[str, Value] = {}
    for measurement in record.measurements:
        if measurement.status == "ok":
            values |= _values(measurement)
    values |= _plan_values(record) | _flops_bound(values)
    return Row(VariantId.parse(record.variant), record.label, record.profile, values, record)


def conditions(row: Row, metric: str) -> str:
    """How many were scored, the settings and, for what depends on the machine, the device; "" where it failed."""
    measurement = row.measurements.get(metric)
    if row.record is None or measurement is None or measurement.status != "ok":
        return ""
    parts = [f"n = {measurement.scored + measurement.missing}"] if measurement.scored + measurement.missing else []
    settings = sorted(measurement.settings.items())
    # Where a file lay says nothing to a reader elsewhere: of a path the last part is shown.
    parts += [f"{key} {_PATH.sub('', str(value))}" for key, value in settings if isinstance(value, str | int | float)]
    device = row.record.environment.get("device")
    if on_machine(metric) and isinstance(device, str):
        parts.append(f"device {device}")
    return ", ".join(parts)


def _values(measurement: Measurement) -> dict[str, Value]:
    name = measurement.info.name
    total = measurement.scored + measurement.missing
    partial = measurement.missing > 0
    note = f"{name}: {measurement.scored} of {total} scored" if partial else ""
    values = {
        f"{name}.{key}": Value(value, measurement.intervals.get(key), note, partial)
        for key, value in measurement.values.items()
    }
    ratio = values.get(RATIO)
    if ratio is not None and ratio.value:
        bounds = ratio.interval
        interval = (1 / bounds[1], 1 / bounds[0]) if bounds and bounds[0] > 0 else None
        values["latency.speedup"] = Value(1 / ratio.value, interval, note)
    return values


def _flops_bound(values: Mapping[str, Value]) -> dict[str, Value]:
    """The speed-up as a share of the one that the FLOPs saved would give alone (1 / their ratio to dense)."""
    latency, flops = values.get(RATIO), values.get(FLOPS_RATIO.key)
    if latency is None or flops is None or not latency.value or not flops.value:
        return {}
    low, high = latency.interval or (0.0, 0.0)
    bounds = (flops.value / high, flops.value / low) if low > 0 else None
    return {"latency.of_flops_bound": Value(flops.value / latency.value, bounds, latency.note)}


def _plan_values(record: RunRecord) -> dict[str, Value]:
    """Ratio, batch and number of dropped blocks: from the plan, the ratio else from the id ("fastflux-05" is 0.05)."""
    if record.plan is None:
        return {"plan.ratio": Value(0.0), "plan.dropped_blocks": Value(0.0)}
    replacements, config = record.plan.get("replacements"), record.plan.get("config")
    dropped, note = None, "plan: lists no replacements"
    if isinstance(replacements, list):
        kinds = [entry.get("kind") for entry in replacements if isinstance(entry, dict)]
        halves = len(kinds) - sum(kind in WHOLE_KINDS for kind in kinds)
        dropped, note = float(len(kinds) - halves), f"and parts of {halves} blocks" if halves else ""
    values = {"plan.dropped_blocks": Value(dropped, note=note)}
    ratio, batch, flops = (config.get(key) if isinstance(config, dict) else None for key in ("ratio", "batch", "flops"))
    if isinstance(batch, int):
        values["plan.batch"] = Value(float(batch))
    of_id = VariantId.parse(record.variant).ratio
    if isinstance(ratio, int | float):
        values["plan.ratio"] = Value(float(ratio))
    elif flops is not None:
        values["plan.ratio"] = Value(None, note="chosen by a budget of FLOPs")
    elif of_id is not None:
        values["plan.ratio"] = Value(of_id)
    return values
