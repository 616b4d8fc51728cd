"""Records: what was measured, of which model, where and how. Pure data with a JSON round trip, free of torch.

A `RunRecord` holds all measurements of one variant under one profile; reports are built from records alone. Its file
ends with the digest of its content; what was changed by hand is refused, and what a record says is held against its
samples by `bench.record_checks`.

Keys of `Measurement.samples`: a per-image score stands under ``"<stratum>/<prompt id>"`` (HPS style or GenEval task,
then the prompt), its list in the order of the sample numbers; metrics without strata use the prompt id alone; raw
timings stand under their unit (``"ms"``). So two variants can be compared prompt by prompt from their records.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

import msgspec
from msgspec.structs import replace

from fastflux.errors import FastFluxError
from fastflux.files import write_bytes

if TYPE_CHECKING:
    from typing import TypeAlias

    JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
else:
    JSON = Any  # msgspec reads annotations, and knows no recursive alias
Status = Literal["ok", "failed", "skipped"]

SCHEMA_VERSION: Literal[2] = 2
#: How the names of records end: as they are measured, and packed, a quarter as large, as they are committed.
PLAIN, PACKED = ".json", ".json.gz"

Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
_Data = TypeVar("_Data", bound="Data")


class RecordError(FastFluxError, ValueError):
    """A record or a measurement that breaks its own rules, or a file that does not hold one."""


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pure data that is read strictly: a misspelt key must not vanish."""

    def to_json(self) -> str:
        """As JSON text with sorted keys, numbers at full precision."""
        return json_text(self)

    @classmethod
    def from_json(cls, text: str, source: str = "the file") -> Self:
        """What `to_json` wrote.

        Raises:
            RecordError: anything else; it names `source` and the place in it.
        """
        return read_data(cls, json_of(text, source), source)


def json_text(data: object) -> str:
    """Structs and plain data as JSON text with sorted keys, numbers at full precision."""
    return json.dumps(msgspec.to_builtins(data), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def json_of(text: str, source: str, remedy: str = "make it again") -> Any:
    """The data of JSON text; raises RecordError naming `source` and the `remedy` for text that is not whole JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{source} is not whole JSON ({error}); {remedy}.") from error


def read_data(cls: type[_Data], data: object, source: str) -> _Data:
    """`data` as an object of `cls`; raises RecordError with `source` and the JSON path of what is wrong."""
    try:
        return msgspec.convert(data, cls)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise RecordError(f"{source} is no {cls.__name__}: {error}") from error


class MetricInfo(Data, frozen=True):
    """What a metric is: its name, version, unit, direction (None: neither is better) and the definition it follows."""

    name: str
    version: str
    unit: str
    higher_is_better: bool | None
    reference: str


class Measurement(Data, frozen=True):
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
    values: Mapping[str, float] = {}
    intervals: Mapping[str, tuple[float, float]] = {}
    scored: Annotated[int, msgspec.Meta(ge=0)] = 0
    missing: Annotated[int, msgspec.Meta(ge=0)] = 0
    samples: Mapping[str, list[float]] = {}
    settings: Mapping[str, JSON] = {}

    def __post_init__(self) -> None:
        name = f"measurement {self.info.name!r}"
        if self.status == "ok" and not self.values:
            raise RecordError(f"{name} is ok but has no values; give values, or a failed status with a reason.")
        if self.status != "ok" and (self.values or self.intervals):
            raise RecordError(f"{name} is {self.status} and yet has values {sorted(self.values)}; leave them out.")
        if self.status != "ok" and not self.reason:
            raise RecordError(f"{name} is {self.status} without a reason; say what went wrong.")
        _make_plain(self, name, values=dict[str, float], intervals=_Intervals, samples=_Samples, settings=dict)
        if unknown := sorted(self.intervals.keys() - self.values.keys()):
            raise RecordError(
                f"{name} has intervals for {unknown}, which are none of its values {sorted(self.values)}."
            )
        for key, (low, high) in self.intervals.items():
            if low > high:
                raise RecordError(f"{name}, interval {key!r} is ({low}, {high}); expected low <= high.")

    @classmethod
    def failed(
        cls, info: MetricInfo, reason: str, *, missing: int = 0, settings: Mapping[str, JSON] | None = None
    ) -> Measurement:
        """A measurement without numbers: the metric was asked for and could not be taken, for `reason`."""
        return cls(info, "failed", reason, missing=missing, settings=settings or {})

    @classmethod
    def skipped(cls, info: MetricInfo, reason: str) -> Measurement:
        """A measurement without numbers: the metric does not apply or was not wanted here, for `reason`."""
        return cls(info, "skipped", reason)


class RunRecord(Data, frozen=True):
    """All that was measured of one variant under one profile, with what is needed to measure it again.

    Args:
        plan: `PruningPlan.to_json()` as data, or None for the dense model.
        sampling: the settings that determine the images (steps, guidance, size, seeds, prompt-set hash).
        created: ISO 8601 time.
        inputs: what else determines the numbers: hashes of the pruning's inputs and of the scorers' weights, the
            device.

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
    inputs: Mapping[str, JSON] = {}
    schema_version: Literal[2] = SCHEMA_VERSION

    def __post_init__(self) -> None:
        where = f"record of {self.variant!r}"
        try:
            datetime.fromisoformat(self.created)
        except ValueError:
            raise RecordError(f"{where} was created {self.created!r}; expected an ISO 8601 time.") from None
        names = [measurement.info.name for measurement in self.measurements]
        if len(set(names)) < len(names):
            raise RecordError(f"{where} has two measurements of one name among {names}; keep one of each.")
        if self.plan is not None:
            _make_plain(self, where, plan=dict)
        _make_plain(self, where, environment=dict, sampling=dict, inputs=dict)

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
        """As JSON text with sorted keys, numbers at full precision, and the digest of it all."""
        data = msgspec.to_builtins(self)
        return json_text({**data, "digest": digest(data)})

    @classmethod
    def from_json(cls, text: str, source: str = "record") -> RunRecord:
        """The record that `to_json` wrote; `source` names it in errors.

        Raises:
            RecordError: broken JSON, another schema version, unknown or missing keys, data that breaks the rules, or
                content that its digest is not of.
        """
        data = json_of(text, source, "delete it and measure again")
        said = data.pop("digest", None) if isinstance(data, dict) else None
        # The version comes first: a newer file may well have keys this version does not know.
        version = data.get("schema_version", SCHEMA_VERSION) if isinstance(data, dict) else SCHEMA_VERSION
        if version != SCHEMA_VERSION:
            raise RecordError(
                f"{source} has schema version {version!r}; this version reads {SCHEMA_VERSION}: "
                "measure again, or use the version of FastFLUX that wrote it."
            )
        record = read_data(cls, data, source)
        if said != (found := digest(data)):
            raise RecordError(
                f"{source} has the digest {said}, but its content {found}: it was changed since it was measured, or is "
                "of a version without digests; measure again."
            )
        return record

    def write(self, path: Path) -> None:
        """Write the record so that the file at `path` is whole at every moment, packed where its name says so."""
        data = self.to_json().encode()
        write_bytes(path, gzip.compress(data, mtime=0) if path.name.endswith(PACKED) else data)

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """The record in a file; errors name the file (`from_json`)."""
        try:
            text = record_text(path.name, path.read_bytes())
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise RecordError(f"{path} cannot be read ({error}); give the path of a record file.") from error
        return cls.from_json(text, str(path))


def record_text(name: str, data: bytes) -> str:
    """The JSON text of a record's file, whose name tells whether it is packed."""
    return (gzip.decompress(data) if name.endswith(PACKED) else data).decode()


def record_files(folder: Path, depth: str = "**/") -> list[Path]:
    """The files of records below a folder, sorted: at any depth, or, where that is "", in it."""
    return sorted(path for ending in (PLAIN, PACKED) for path in folder.glob(f"{depth}*{ending}"))


def read_records(folder: Path) -> tuple[RunRecord, ...]:
    """The records of a folder's ``*.json`` and ``*.json.gz`` files, sorted by variant.

    Raises:
        RecordError: no such folder, a file that is no record, or one variant in two files.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder} is not a folder; expected one with record files (<variant>.json).")
    paths: dict[str, Path] = {}
    records: list[RunRecord] = []
    for path in record_files(folder, ""):
        record = RunRecord.read(path)
        if record.variant in paths:
            raise RecordError(f"{paths[record.variant]} and {path} both record {record.variant!r}; keep one.")
        paths[record.variant] = path
        records.append(record)
    return tuple(sorted(records, key=lambda record: record.variant))


_Intervals = dict[str, tuple[float, float]]
_Samples = dict[str, list[float]]


def _make_plain(data: Data, where: str, **types: Any) -> None:
    """Bring attributes to JSON's own types, so that a record equals itself after a round trip."""
    for attribute, kind in types.items():
        try:
            plain = msgspec.convert(_plain(getattr(data, attribute), f"{where}, {attribute}"), kind)
        except msgspec.ValidationError as error:
            raise RecordError(f"{where}, {attribute}: {error}") from error
        msgspec.structs.force_setattr(data, attribute, plain)


def _plain(value: object, where: str) -> JSON:
    """`value` as JSON's own types, so that a record equals itself after a round trip."""
    if value is None or type(value) in {bool, int, str}:
        return value  # type: ignore[return-value]  # mypy does not narrow by type()
    if isinstance(value, str):
        return str(value)  # torch's version is a class of its own
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RecordError(f"{where} is {value}; expected a finite number: record a failed measurement instead.")
        return float(value)
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
