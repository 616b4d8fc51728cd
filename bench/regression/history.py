"""The file of past measurements, a JSON line each: by commit, every variant's values with their intervals.

Free of torch: reports draw it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.records.results import JSON, Data, Finite, RecordError, RunRecord, digest, json_of, read_data
from bench.records.variant_id import DENSE, FASTFLUX, L1, PLUS, VariantId
from bench.tables import TRENDS, trend
from fastflux.errors import FastFluxError
from fastflux.files import write_text

SHOWN = (DENSE, FASTFLUX, PLUS, L1)


class Point(Data, frozen=True):
    """What one run measured of one commit.

    Args:
        created: ISO 8601 time of the measurement.
        prompts: digest of prompt set and sampling settings: values of two of them are of two kinds.
        base: revision of the dense model's weights.
        images: scored of each variant.
        values: by variant and key ("hps.averaged"): the value, or [value, low, high] with its 95% interval.
    """

    commit: str
    dirty: bool
    created: str
    device: str
    profile: str
    prompts: str
    base: str
    images: int
    values: Mapping[str, Mapping[str, Sequence[Finite]]]

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells it from others."""
        return self.created, self.commit, self.device, self.prompts

    def line(self) -> str:
        """The point as a line of JSON, without its end."""
        return json.dumps(msgspec.to_builtins(self), sort_keys=True, allow_nan=False)


def point_of(records: Sequence[RunRecord], checkout: Mapping[str, JSON] | None = None) -> Point:
    """The point of one run's records, the dense model's first, at the commit of `checkout`, else at FastFLUX's own."""
    dense = records[0]
    commit: Any = checkout or dense.environment.get("commit") or {}
    scored = [m.scored + m.missing for m in dense.measurements if m.info.name in ("geneval", "hps")]
    return Point(
        commit=str(commit.get("hash", "unknown")),
        dirty=bool(commit.get("dirty", False)),
        created=dense.created,
        device=str(dense.environment["device"]),
        profile=dense.profile,
        prompts=digest({key: value for key, value in dense.sampling.items() if key != "components"})[:8],
        base=dense.base_revision,
        images=sum(scored),
        values={record.variant: _values(record) for record in records},
    )


def _values(record: RunRecord) -> dict[str, list[float]]:
    known = {column.key for column in TRENDS.values()}
    return {
        key: [value, *measurement.intervals.get(name, ())]
        for measurement in record.measurements
        for name, value in measurement.values.items()
        if (key := f"{measurement.info.name}.{name}") in known
    }


def read_history(paths: Iterable[Path]) -> tuple[Point, ...]:
    """The points of all files that there are, oldest first, none twice.

    Raises FastFluxError naming the line that is no point.
    """
    found: dict[tuple[str, str, str, str], Point] = {}
    for path in paths:
        for number, line in enumerate(_whole_lines(path), start=1):
            try:
                point = read_data(Point, json_of(line, "it"), "it")
            except RecordError as error:
                raise FastFluxError(f"{path}, line {number} is no point of a history ({error}): mend it.") from error
            found.setdefault(point.key, point)
    return tuple(sorted(found.values(), key=lambda point: point.key))


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file but for a last one that a kill has cut short, which no later run may stumble over."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    *lines, last = text.split("\n")
    try:
        json.loads(last)
    except ValueError:  # mostly "" behind the last line's end
        return lines
    return [*lines, last]


def shown_variants(point: Point, key: str) -> list[str]:
    """The variants of the families whose trend is shown that hold a value."""
    return [name for name, values in point.values.items() if key in values and VariantId.parse(name).family in SHOWN]


def points_with(files: Iterable[Path], metric: str, profile: str) -> list[Point]:
    """The points of a profile that hold a metric (`bench.tables.trend`); raises FastFluxError where there is none."""
    files, key = list(files), trend(metric).key
    points = [point for point in read_history(files) if point.profile == profile and shown_variants(point, key)]
    if not points:
        raise FastFluxError(
            f"No run of {profile} with {key} is in {', '.join(map(str, files))}: run `python -m bench regress`."
        )
    return points


def append(path: Path, points: Iterable[Point]) -> None:
    """Add points to the file, one line each; one of the same run takes the other's place."""
    held = {point.key: point for point in (*read_history([path]), *points)}
    write_text(path, "".join(f"{point.line()}\n" for point in held.values()))


def groups_of(points: Iterable[Point]) -> dict[tuple[str, str, str], tuple[Point, ...]]:
    """The points that one line can join: of one profile, device and prompt set, in the order of their time."""
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.profile, point.device, point.prompts), []).append(point)
    return {key: tuple(group) for key, group in groups.items()}
