"""Units of work that a run skips when they are done: the one runner of tables, regression checks and studies.

A unit makes measurements, files, or both, from inputs that it names. What it settled is a note, ``<folder>/<stage>/
<names>.json``, whole or not there, with those inputs, the measurements, and hashes of the files and of the note itself.
A unit is done while its note says the same inputs and nothing behind it is damaged; all else is made again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from msgspec.structs import replace

from bench.records.environment import sha256_of
from bench.records.results import JSON, Data, Measurement, MetricInfo, digest
from fastflux.errors import FastFluxError
from fastflux.files import write_text

Results = Mapping[str, Sequence[Measurement]]
"""By variant."""
_LONGEST_NAME = 80


class BudgetSpentError(FastFluxError):
    """The time given for this call is spent: what is done is kept, and the same command continues."""


@dataclass(frozen=True)
class Unit:
    """Work that is done or not.

    Args:
        inputs: by name of what it settles in its stage, all that decides the outcome.
        make: does the work; returns measurements by variant, none where it makes files alone.
        files: files and folders that it makes.
        variants, info: what is noted as failed, and by which metric, when `make` raises; without `info` the error ends
            the run.
    """

    inputs: Mapping[str, JSON]
    make: Callable[[], Results]
    files: tuple[Path, ...] = ()
    variants: tuple[str, ...] = ()
    info: MetricInfo | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What it settles in its stage."""
        return tuple(self.inputs)

    def failed(self, reason: str) -> Results:
        """What is noted when the work could not be done."""
        return {variant: [Measurement.failed(self.info, reason)] for variant in self.variants if self.info}


class Done(Data, frozen=True):
    """What a unit settled, as its note says.

    Args:
        files: SHA-256 by name.
        sha256: of all the rest.
    """

    inputs: Mapping[str, JSON]
    results: Mapping[str, tuple[Measurement, ...]]
    seconds: float
    created: str
    environment: Mapping[str, JSON] = {}
    files: Mapping[str, str] = {}
    sha256: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """What is settled."""
        return tuple(self.inputs)

    @property
    def failures(self) -> dict[str, str]:
        """Reasons by variant."""
        return {
            variant: measurement.reason
            for variant, measurements in self.results.items()
            for measurement in measurements
            if measurement.status == "failed"
        }

    def sealed(self) -> Done:
        """With the hash of what it says."""
        return replace(self, sha256=hashlib.sha256(replace(self, sha256="").to_json().encode()).hexdigest())


def read_note(path: Path) -> Done | None:
    """What a note says; None for one that is not there or is damaged in any way."""
    try:
        text = path.read_text(encoding="utf-8")
        done = Done.from_json(text, str(path))
    except (OSError, ValueError):  # RecordError is one
        return None
    unsealed = text.replace(f'"sha256": "{done.sha256}"', '"sha256": ""')
    return done if hashlib.sha256(unsealed.encode()).hexdigest() == done.sha256 else None


class Budget:
    """Seconds of this call; no unit starts unless the longest finished one of its stage would still fit."""

    def __init__(self, seconds: float | None = None) -> None:
        if seconds is not None and not 0 < seconds < float("inf"):
            raise FastFluxError(f"--budget is {seconds}, but it must be a number of seconds above 0.")
        self._began, self._seconds = monotonic(), seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return float("inf") if self._seconds is None else self._seconds - (monotonic() - self._began)

    def require(self, seconds: float = 0.0) -> None:
        """Raise BudgetSpentError unless more than so many seconds are left."""
        if self.left <= seconds:
            raise BudgetSpentError("the time given by --budget is spent")


class Store:
    """The notes of finished units, by stage, below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def done(self, stage: str) -> list[Done]:
        """In the order in which they were finished; a damaged note counts as not done."""
        found = [done for path in self._notes(stage) if (done := read_note(path)) is not None]
        return sorted(found, key=lambda done: done.created)

    def find(self, stage: str, unit: Unit) -> Done | None:
        """What settles the unit with its inputs, alone or among others, its files whole; None where nothing does."""
        paths = [self.note(stage, unit.names), *(self._notes(stage) if len(unit.inputs) > 1 else ())]
        for path in paths:
            done = read_note(path)
            if done is None or any(done.inputs.get(name, ...) != _plain(asked) for name, asked in unit.inputs.items()):
                continue
            if all(done.files.get(file.name) == _hash(file) for file in unit.files):
                return done
        return None

    def names(self, stage: str, *, measured: bool = False) -> set[str]:
        """What is settled; with `measured` without what failed."""
        return {name for done in self.done(stage) if not (measured and done.failures) for name in done.names}

    def write(self, stage: str, unit: Unit, results: Results, seconds: float, environment: Mapping[str, JSON]) -> Done:
        """Note a finished unit, in place of those whose every name it settles again."""
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        files = {file.name: _hash(file) for file in unit.files}
        kept = {variant: tuple(measurements) for variant, measurements in results.items()}
        done = Done(_plain(unit.inputs), kept, seconds, now, _plain(environment), files).sealed()
        again = [  # of one name there is the one note
            path
            for path in (self._notes(stage) if len(unit.names) > 1 else ())
            if (old := read_note(path)) is not None and set(old.names) <= set(unit.names)
        ]
        path = self.note(stage, unit.names)
        write_text(path, done.to_json())
        for old_path in again:
            if old_path != path:
                old_path.unlink()
        return done

    def forget(self, stage: str, dropped: Callable[[Done], bool]) -> None:
        """Delete notes of a stage, with which what they settled is left to do again."""
        for path in self._notes(stage):
            if (done := read_note(path)) is not None and dropped(done):
                path.unlink()

    def forget_names(self, stage: str, names: Collection[str]) -> None:
        """Delete the notes that settled any of the names."""
        self.forget(stage, lambda done: not set(done.names).isdisjoint(names))

    def forget_variant(self, variant: str) -> None:
        """Delete the notes of all stages that measured a variant, which is to be another model."""
        for stage in sorted(path.name for path in self.folder.glob("*") if path.is_dir()):
            self.forget(stage, lambda done: variant in done.results)

    def longest(self, stage: str) -> float:
        """Seconds of the longest finished unit of a stage; 0 without one."""
        return max((done.seconds for done in self.done(stage)), default=0.0)

    def measurements(self, stages: Sequence[str]) -> Iterator[tuple[str, Measurement, Done]]:
        """(variant, measurement, its unit) of all stages; of the same metric of a variant, the first that is ok."""
        found: dict[tuple[str, str], tuple[str, Measurement, Done]] = {}
        for stage in stages:
            for done in self.done(stage):
                for variant, measurements in done.results.items():
                    for measurement in measurements:
                        key = (variant, measurement.info.name)
                        if key not in found or found[key][1].status != "ok":
                            found[key] = (variant, measurement, done)
        yield from found.values()

    def note(self, stage: str, names: Sequence[str]) -> Path:
        """The file of a unit's note."""
        text = re.sub(r"[^\w.+-]", "+", ",".join(names))
        if len(text) > _LONGEST_NAME:
            text = f"{text[:_LONGEST_NAME]}-{digest(list(names))}"
        return self.folder / stage / f"{text}.json"

    def _notes(self, stage: str) -> list[Path]:
        return sorted((self.folder / stage).glob("*.json"))


def _plain(data: Any) -> Any:
    return json.loads(json.dumps(data))


def _hash(path: Path) -> str:
    return sha256_of(path) if path.exists() else ""


class Runner:
    """Settles units of one store; of each unit that was settled once it knows the outcome.

    Args:
        environment: of what is measured, asked once when there is something to do.
        retry: take again what failed before; otherwise that counts as settled.
    """

    def __init__(
        self,
        store: Store,
        environment: Callable[[], Mapping[str, JSON]],
        *,
        budget: Budget | None = None,
        retry: bool = True,
    ) -> None:
        self.store, self.budget = store, budget or Budget()
        self._environment, self._retry = environment, retry
        self._settled: dict[str, Done] = {}
        self.worked = False
        """Whether anything had to be made."""

    def find(self, stage: str, unit: Unit) -> Done | None:
        """What settles the unit, without making anything."""
        key = digest([stage, _plain(unit.inputs)])
        if key in self._settled:
            return self._settled[key]
        found = self.store.find(stage, unit)
        if found is not None and not found.failures:  # another process may make what failed once more
            self._settled[key] = found
        return found

    def settle(self, stage: str, unit: Unit) -> Done:
        """The outcome of a unit, which is made unless it is done; raises what `make` does."""
        found = self.find(stage, unit)
        if found is not None and not (self._retry and found.failures):
            return found
        return self.make(stage, unit)

    def make(self, stage: str, unit: Unit) -> Done:
        """Make a unit, be it done or not; the first of a run starts whatever the budget.

        Raises:
            BudgetSpentError: it may not end in the time that is left.
            FastFluxError: it could not be made, and has no metric to note that by.
        """
        if self.worked and self.budget.left < float("inf"):  # or else no note need be read for it
            self.budget.require(self.store.longest(stage))
        self.worked = True
        began, reason = monotonic(), ""
        try:
            results = unit.make()
        except BudgetSpentError:
            raise
        except (RuntimeError, ValueError, ArithmeticError, FastFluxError) as error:
            # out of memory too, as torch, a CUDA library or a compiler says it
            if unit.info is None:
                raise
            reason = reason_of(error)
        if reason:  # the error and the models in its traceback are gone
            results = unit.failed(reason)
        done = self.store.write(stage, unit, results, monotonic() - began, self._environment())
        self._settled[digest([stage, _plain(unit.inputs)])] = done
        return done


def reason_of(error: Exception) -> str:
    """What is noted of an error: its first line, and its kind where it is none of ours."""
    first = next(iter(str(error).strip().splitlines()), "no reason given")
    if isinstance(error, FastFluxError):
        return first
    kind = type(error).__name__
    return f"{'out of memory' if kind == 'OutOfMemoryError' else kind}: {first}"
