"""What one run of the regression suite measured, as a file: the committed baseline, and whether it can be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from bench.records.results import JSON, Data, RecordError, RunRecord, json_of, json_text, read_data
from fastflux.errors import FastFluxError
from fastflux.files import write_text

SCHEMA_VERSION: Literal[1] = 1
KINDS = ("quality", "latency", "cost", "render")
#: What a CPU or GPU decides along with the code.
OF_THE_DEVICE = ("latency", "render")


class NoVerdictError(FastFluxError):
    """There is nothing to compare with, it speaks of something else, or other work would be in every time."""


class Snapshot(Data, frozen=True):
    """All figures of one run, the dense model's record first.

    Args:
        suite: what was asked for (`bench.regression.inputs.Suite`), as JSON.
        records: by variant, with the scores of single images and the raw times.
        yardstick_ms: of `bench.regression.yardstick`, in the rounds of the records' times.
        render: SHA-256 of pixels by model and prompt; empty where nothing was rendered.
        commit: "hash" and "dirty" of the checkout that the command was run in, None outside of one.
        created: ISO 8601 time.
        seconds: by stage.
        other_work: what else the device did before the run (`bench.metrics.cost.timing`).
        reason: why it became the baseline; "" for a run that is none.
    """

    suite: Mapping[str, JSON]
    records: tuple[RunRecord, ...]
    yardstick_ms: tuple[float, ...]
    render: Mapping[str, Mapping[str, str]]
    commit: Mapping[str, JSON] | None
    created: str
    seconds: Mapping[str, float] = {}
    other_work: str = ""
    reason: str = ""
    schema_version: Literal[1] = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not self.records:
            raise RecordError("a snapshot without the record of the dense model")

    @property
    def dense(self) -> RunRecord:
        """The record of the dense model."""
        return self.records[0]

    @property
    def device(self) -> str:
        """The model name of the CPU or GPU."""
        return str(self.dense.environment["device"])

    @property
    def device_type(self) -> str:
        """Its kind, "cpu" or "cuda"."""
        return str(self.dense.environment["device_type"])

    def record(self, variant: str) -> RunRecord | None:
        """The record of a variant, or None."""
        return next((record for record in self.records if record.variant == variant), None)

    def of(self, variants: Sequence[str]) -> Snapshot:
        """Only the dense model and these variants."""
        kept = tuple(record for record in self.records[1:] if record.variant in variants)
        return replace(self, records=(self.dense, *kept))

    def to_json(self) -> str:
        """The snapshot as JSON text with sorted keys, numbers at full precision."""
        # A list of numbers on one line: a file of scores is read by people only between them.
        return re.sub(r"\[[-+.\deE,\s]+\]", lambda found: re.sub(r"\s+", " ", found[0]), json_text(self))

    def write(self, path: Path) -> None:
        """Write it so that the file is whole at every moment; makes the folder."""
        write_text(path, self.to_json())

    def require_whole(self) -> None:
        """Raise ValueError unless every model was timed in as many rounds as the yardstick."""
        timed = [record.measurement("latency") for record in self.records]
        rounds = {len(measurement.samples["ms"]) for measurement in timed if measurement is not None}
        if rounds - {len(self.yardstick_ms)}:
            raise ValueError(f"times of {sorted(rounds)} rounds, but {len(self.yardstick_ms)} of the yardstick")

    @classmethod
    def read(cls, path: Path) -> Snapshot:
        """The snapshot in a file.

        Raises:
            NoVerdictError: there is no such file, it has another schema version, is cut short, or holds something else.
        """
        try:
            data = json_of(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError as error:
            raise NoVerdictError(f"There is no baseline {path}: make one with --update --reason TEXT.") from error
        except (OSError, ValueError) as error:
            raise NoVerdictError(f"The baseline {path} cannot be read ({error}): restore it, or --update.") from error
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise NoVerdictError(
                f"The baseline {path} has schema version {version!r}, this FastFLUX reads {SCHEMA_VERSION}: "
                "make a new one with --update, or use the FastFLUX that wrote it."
            )
        try:
            snapshot = read_data(cls, data, path.name)
            _ = snapshot.device, snapshot.device_type
            snapshot.require_whole()
        except (KeyError, ValueError) as error:
            raise NoVerdictError(
                f"The baseline {path} is no whole one ({error}): restore it, or make a new one with --update."
            ) from error
        return snapshot


def slug(text: str) -> str:
    """A device's name as a folder's: "AMD EPYC 7763" is "amd-epyc-7763"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unknown"


def find_baseline(place: Path, device: str, profile: str) -> Path:
    """The file itself, or in a folder of baselines (<device>/<profile>.json) that of this device, else any device's.

    Raises:
        NoVerdictError: there is none of this profile.
    """
    if place.suffix == ".json" or place.is_file():
        if not place.is_file():
            raise NoVerdictError(f"There is no baseline {place}: make one with --update --reason TEXT.")
        return place
    own = place / slug(device) / f"{profile}.json"
    if own.is_file():
        return own
    others = sorted(place.glob(f"*/{profile}.json"))
    if not others:
        raise NoVerdictError(
            f"{place} holds no baseline of {profile} ({own.relative_to(place)}): make one with --update --reason TEXT."
        )
    return others[0]


def require_comparable(
    baseline: Snapshot, fresh: RunRecord, variants: Sequence[str], suite: Mapping[str, JSON]
) -> None:
    """Raise NoVerdictError unless the baseline measured the same: prompts, sampling, base weights, models.

    Args:
        fresh: a record of the dense model as it is now, without measurements.
        variants: what is to be compared with it.
        suite: what is asked for now.
    """
    old = baseline.dense
    differing = [
        f"{what} ({was} there, {now} here)"
        for what, was, now in (
            ("profile", old.profile, fresh.profile),
            ("the base model's weights", old.base_revision, fresh.base_revision),
            *((f"sampling's {key}", old.sampling.get(key), value) for key, value in sorted(fresh.sampling.items())),
            *(
                (f"the suite's {key}", baseline.suite.get(key), suite[key])
                for key in ("threads", "latency_batch", "yardstick")
            ),
        )
        if was != now
    ]
    if differing:
        raise NoVerdictError(
            f"The baseline of {baseline.created} measured something else: {'; '.join(differing)}. "
            "Go back to what it measured, or make a new one with --update."
        )
    held = [record.variant for record in baseline.records[1:]]
    if absent := [name for name in variants if name not in held]:
        raise NoVerdictError(
            f"The baseline of {baseline.created} holds {', '.join(held) or 'no variant'}, not {', '.join(absent)}: "
            "measure what it holds, or make a new one with --update."
        )


def require_no_loss(path: Path, variants: Sequence[str]) -> None:
    """Raise FastFluxError when a baseline of these variants would take the place of one that holds others as well."""
    try:
        there = Snapshot.read(path)
    except NoVerdictError:  # none, or one that nobody can read
        return
    if lost := [record.variant for record in there.records[1:] if record.variant not in variants]:
        raise FastFluxError(
            f"The baseline {path.name} holds {', '.join(lost)} too, which this one would not: measure all its "
            "variants, write another file with --baseline FILE, or delete it first."
        )


def require_same_device(baseline: Snapshot, device: str, kinds: Sequence[str]) -> None:
    """Raise NoVerdictError when checks that depend on the device are asked for and the baseline is of another one."""
    asked = [kind for kind in kinds if kind in OF_THE_DEVICE]
    if baseline.device != device and asked:
        rest = ",".join(kind for kind in kinds if kind not in OF_THE_DEVICE)
        raise NoVerdictError(
            f"The baseline was measured on {baseline.device}, this is {device}: {' and '.join(asked)} cannot be "
            f"compared. Make a baseline of this device with --update"
            + (f", or compare the rest alone with --checks {rest}." if rest else ".")
        )


def require_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds of checks asked for, in their order; raises FastFluxError for an unknown one."""
    for kind in kinds:
        if kind not in KINDS:
            raise FastFluxError(f"There is no kind of checks {kind!r}: choose of {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in kinds)
