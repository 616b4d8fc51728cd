"""Records: what was measured, of which model, where and how. Pure data with a JSON round trip, free of torch.

A `RunRecord` holds all measurements of one variant under one profile; reports are built from records alone.

Keys of `Measurement.samples`: a per-image score stands under ``"<stratum>/<prompt id>"`` (HPS style or GenEval task,
then the prompt), its list in the order of the sample numbers; metrics without strata use the prompt id alone; raw
timings stand under their unit (``"ms"``). So two variants can be compared prompt by prompt from their records.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from fastflux.errors import FastFluxError

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Status = Literal["ok", "failed", "skipped"]

SCHEMA_VERSION = 2

_Data = TypeVar("_Data", "MetricInfo", "Measurement", "RunRecord")


class RecordError(FastFluxError):
    """A record or a measurement that breaks its own rules, or a file that does not hold one."""


@dataclass(frozen=True)
class MetricInfo:
    """What a metric is: its name, version, unit, direction (None: neither is better) and the definition it follows."""

    name: str
    version: str
    unit: str
    higher_is_better: bool | None
    reference: str


@dataclass(frozen=True)
class Measurement:
    """The outcome of one metric on one variant.

    Args:
        values: numbers by key in `info.unit`, at full precision; empty unless `status` is "ok".
        intervals: 95% intervals (low, high) for some of the keys of `values`.
        scored, missing: how many samples were scored, and how many should have been but were not.
        samples: per-sample scores or raw values by key (module docstring).
        settings: whatever determines the numbers, as JSON.

    Raises:
        RecordError: a number is not finite, an "ok" measurement has no values, or another one has values or no reason.
    """

    info: MetricInfo
    status: Status
    reason: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    scored: int = 0
    missing: int = 0
    samples: Mapping[str, list[float]] = field(default_factory=dict)
    settings: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = f"measurement {self.info.name!r}"
        if self.status not in get_args(Status):
            raise RecordError(f"{name} has status {self.status!r}; expected one of {', '.join(get_args(Status))}.")
        if self.status == "ok" and not self.values:
            raise RecordError(f"{name} is ok but has no values; give values, or a failed status with a reason.")
        if self.status != "ok" and (self.values or self.intervals):
            raise RecordError(f"{name} is {self.status} and yet has values {sorted(self.values)}; leave them out.")
        if self.status != "ok" and not self.reason:
            raise RecordError(f"{name} is {self.status} without a reason; say what went wrong.")
        if self.scored < 0 or self.missing < 0:
            raise RecordError(f"{name} counts {self.scored} scored and {self.missing} missing; expected 0 or more.")
        values = {key: _number(value, f"{name}, value {key!r}") for key, value in self.values.items()}
        intervals = {key: _interval(pair, f"{name}, interval {key!r}") for key, pair in self.intervals.items()}
        if unknown := sorted(intervals.keys() - values.keys()):
            raise RecordError(f"{name} has intervals for {unknown}, which are none of its values {sorted(values)}.")
        samples = {
            key: [_number(value, f"{name}, sample {key!r}") for value in series] for key, series in self.samples.items()
        }
        for attribute, plain in (("values", values), ("intervals", intervals), ("samples", samples)):
            object.__setattr__(self, attribute, plain)
        object.__setattr__(self, "settings", _plain(self.settings, f"{name}, settings"))

    @classmethod
    def failed(
        cls,
        info: MetricInfo,
        reason: str,
        *,
        scored: int = 0,
        missing: int = 0,
        settings: Mapping[str, JSON] | None = None,
    ) -> Measurement:
        """A measurement without numbers: the metric was asked for and could not be taken, for `reason`."""
        return cls(info, "failed", reason, scored=scored, missing=missing, settings=settings or {})

    @classmethod
    def skipped(cls, info: MetricInfo, reason: str) -> Measurement:
        """A measurement without numbers: the metric does not apply or was not wanted here, for `reason`."""
        return cls(info, "skipped", reason)


@dataclass(frozen=True)
class RunRecord:
    """All that was measured of one variant under one profile, with what is needed to measure it again.

    Args:
        plan: `PruningPlan.to_json()` as data, or None for the dense model.
        sampling: the settings that determine the images (steps, guidance, size, seeds, prompt-set hash).
        created: ISO 8601 time.
        inputs: what else determines the numbers: hashes of the pruning's inputs and of the scorers' weights, the
            device. Empty in records of schema version 1, which did not hold it.

    Raises:
        RecordError: a part is not plain finite JSON, two measurements share a name, or `created` is no ISO time.
    """

    profile: str
    variant: str
    label: str
    plan: Mapping[str, JSON] | None
    base_model: str
    base_revision: str
    environment: Mapping[str, JSON]
    sampling: Mapping[str, JSON]
    measurements: tuple[Measurement, ...]
    created: str
    inputs: Mapping[str, JSON] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        where = f"record of {self.variant!r}"
        if self.schema_version != SCHEMA_VERSION:
            raise RecordError(
                f"{where} has schema version {self.schema_version}; this version reads {SCHEMA_VERSION}: "
                "measure again, or use the version of FastFLUX that wrote it."
            )
        try:
            datetime.fromisoformat(self.created)
        except ValueError:
            raise RecordError(f"{where} was created {self.created!r}; expected an ISO 8601 time.") from None
        names = [measurement.info.name for measurement in self.measurements]
        if len(set(names)) < len(names):
            raise RecordError(f"{where} has two measurements of one name among {names}; keep one of each.")
        object.__setattr__(self, "measurements", tuple(self.measurements))
        for attribute in ("plan", "environment", "sampling", "inputs"):
            object.__setattr__(self, attribute, _plain(getattr(self, attribute), f"{where}, {attribute}"))

    @property
    def key(self) -> str:
        """16 hexadecimal digits over all that determines the numbers but the metrics' versions."""
        plan = None if self.plan is None else digest(self.plan)
        return digest([plan, self.base_model, self.base_revision, self.sampling, self.profile, self.inputs])

    def measurement(self, name: str) -> Measurement | None:
        """The measurement of that metric name, or None where it was not taken."""
        return next((found for found in self.measurements if found.info.name == name), None)

    def with_measurement(self, measurement: Measurement) -> RunRecord:
        """A copy with `measurement` in place of the one of the same name, or added at the end."""
        name = measurement.info.name
        if self.measurement(name) is None:
            return replace(self, measurements=(*self.measurements, measurement))
        swapped = tuple(measurement if old.info.name == name else old for old in self.measurements)
        return replace(self, measurements=swapped)

    def finished(self, measurements: Sequence[Measurement], environment: Mapping[str, JSON], created: str) -> RunRecord:
        """A copy with these measurements, of that machine and date."""
        date = datetime.fromisoformat(created).isoformat(timespec="seconds")
        return replace(self, measurements=tuple(measurements), environment=environment, created=date)

    def to_json(self) -> str:
        """The record as JSON text with sorted keys, numbers at full precision."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "record") -> RunRecord:
        """The record that `to_json` wrote; `source` names it in errors.

        Raises:
            RecordError: broken JSON, another schema version, unknown or missing keys, or data that breaks the rules.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise RecordError(f"{source} is not whole JSON ({error}); delete it and measure again.") from error
        # The version comes first: a newer file may well have keys this version does not know.
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version == 1 and "inputs" not in data:
            data, version = {**data, "inputs": {}, "schema_version": SCHEMA_VERSION}, SCHEMA_VERSION
        if version is not None and version != SCHEMA_VERSION:
            raise RecordError(
                f"{source} has schema version {version!r}; this version reads {SCHEMA_VERSION}: "
                "measure again, or use the version of FastFLUX that wrote it."
            )
        try:
            record = _checked_keys(cls, data, "the record")
            record["measurements"] = tuple(read_measurement(item) for item in record["measurements"])
            return cls(**record)
        except (RecordError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(f"{source} is not a record: {error}") from error

    def write(self, path: Path) -> None:
        """Write the record so that the file at `path` is whole at every moment; makes the folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(self.to_json(), encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """The record in a file; errors name the file (`from_json`)."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(f"{path} cannot be read ({error}); give the path of a record file.") from error
        return cls.from_json(text, str(path))


def read_records(folder: Path) -> tuple[RunRecord, ...]:
    """The records of a folder's ``*.json`` files, sorted by variant.

    Raises:
        RecordError: no such folder, a file that is no record, or one variant in two files.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder} is not a folder; expected one with record files (<variant>.json).")
    paths: dict[str, Path] = {}
    records: list[RunRecord] = []
    for path in sorted(folder.glob("*.json")):
        record = RunRecord.read(path)
        if record.variant in paths:
            raise RecordError(f"{paths[record.variant]} and {path} both record {record.variant!r}; keep one.")
        paths[record.variant] = path
        records.append(record)
    return tuple(sorted(records, key=lambda record: record.variant))


def read_measurement(data: object) -> Measurement:
    """A measurement from JSON data (``dataclasses.asdict``); raises RecordError or TypeError for anything else."""
    found = _checked_keys(Measurement, data, "a measurement")
    found["info"] = MetricInfo(**_checked_keys(MetricInfo, found["info"], "a measurement's info"))
    return Measurement(**found)


def _checked_keys(cls: type[_Data], data: object, what: str) -> dict[str, Any]:
    """The data as a dict with exactly the fields of `cls`: a misspelt key must not vanish."""
    if not isinstance(data, dict):
        raise RecordError(f"{what} is {type(data).__name__}; expected a JSON object.")
    expected = {entry.name for entry in fields(cls)}
    if unknown := sorted(data.keys() - expected):
        raise RecordError(f"{what} has unknown keys {unknown}; expected {sorted(expected)}.")
    if absent := sorted(expected - data.keys()):
        raise RecordError(f"{what} lacks the keys {absent}.")
    return dict(data)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecordError(f"{where} is {value!r} ({type(value).__name__}); expected an int or a float.")
    if not math.isfinite(value):
        raise RecordError(f"{where} is {value}; expected a finite number: record a failed measurement instead.")
    return float(value)


def _interval(pair: object, where: str) -> tuple[float, float]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise RecordError(f"{where} is {pair!r}; expected (low, high).")
    low, high = _number(pair[0], where), _number(pair[1], where)
    if low > high:
        raise RecordError(f"{where} is ({low}, {high}); expected low <= high.")
    return low, high


def _plain(value: object, where: str) -> JSON:
    """`value` as JSON's own types, so that a record equals itself after a round trip."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _number(value, where)
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise RecordError(f"{where} has the key {wrong[0]!r}; expected text.")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise RecordError(f"{where} is a {type(value).__name__}; expected plain JSON data.")


def digest(data: JSON) -> str:
    """16 hex digits of the SHA-256 of plain data: equal data, equal digits, whatever the order of its keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
