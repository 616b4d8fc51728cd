"""Work in pieces that a killed run continues: each finished one is a JSON file, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from bench.records.results import JSON, Data, Measurement, MetricInfo
from fastflux.errors import FastFluxError
from fastflux.files import write_text

Results = Mapping[str, Sequence[Measurement]]
"""By variant."""


class BudgetSpentError(FastFluxError):
    """The time given for this call is spent: what is done is kept, and the same command continues."""


@dataclass(frozen=True)
class Piece:
    """Work that is done or not: `units` are what it settles, in a stage; `work` measures the `variants` by `info`."""

    units: tuple[str, ...]
    variants: tuple[str, ...]
    info: MetricInfo
    work: Callable[[], Results]

    def failed(self, reason: str) -> Results:
        """What is noted when the work ran out of memory."""
        return {variant: [Measurement.failed(self.info, reason)] for variant in self.variants}


class Done(Data, frozen=True):
    """A finished piece."""

    units: tuple[str, ...]
    results: Mapping[str, tuple[Measurement, ...]]
    seconds: float
    created: str
    environment: Mapping[str, JSON] = {}

    @property
    def failures(self) -> dict[str, str]:
        """Reasons by variant."""
        return {
            variant: measurement.reason
            for variant, measurements in self.results.items()
            for measurement in measurements
            if measurement.status == "failed"
        }


class Budget:
    """Seconds of this call; no piece starts unless the longest finished one of its stage would still fit."""

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and seconds <= 0:
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


class Pieces:
    """The finished pieces of a run, by stage: ``<folder>/<stage>/000.json`` and so on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def done(self, stage: str) -> list[Done]:
        """In the order in which they were finished; a damaged file counts as not done, and is written anew."""
        return [done for path in self._files(stage) if (done := _read(path)) is not None]

    def units(self, stage: str, *, measured: bool = False) -> set[str]:
        """Units that are settled; with `measured` without those that failed."""
        return {unit for done in self.done(stage) if not (measured and done.failures) for unit in done.units}

    def forget_failures(self, stage: str) -> None:
        """Drop the pieces in which something failed: their units are left to do again."""
        self._forget(stage, lambda done: bool(done.failures))

    def forget(self, stage: str, units: Collection[str]) -> None:
        """Drop the pieces that settled any of the units."""
        self._forget(stage, lambda done: not set(done.units).isdisjoint(units))

    def forget_variant(self, variant: str) -> None:
        """Drop the pieces of all stages that measured a variant, which is to be another model."""
        for stage in sorted(path.name for path in self.folder.glob("*") if path.is_dir()):
            self._forget(stage, lambda done: variant in done.results)

    def _forget(self, stage: str, dropped: Callable[[Done], bool]) -> None:
        for path in self._files(stage):
            if (done := _read(path)) is not None and dropped(done):
                path.unlink()

    def longest(self, stage: str) -> float:
        """Seconds of the longest finished piece of a stage; 0 without one."""
        return max((done.seconds for done in self.done(stage)), default=0.0)

    def write(
        self, stage: str, piece: Piece, results: Results, seconds: float, environment: Mapping[str, JSON]
    ) -> Done:
        """Keep a finished piece, in place of those that it settles again."""
        kept = {variant: tuple(measurements) for variant, measurements in results.items()}
        done = Done(piece.units, kept, seconds, datetime.now(UTC).isoformat(timespec="seconds"), environment)
        again = [path for path in self._files(stage) if (old := _read(path)) and set(old.units) <= set(piece.units)]
        numbers = [int(path.stem) for path in self._files(stage)]
        path = again[0] if again else self.folder / stage / f"{max(numbers, default=-1) + 1:03d}.json"
        write_text(path, done.to_json())
        for old_path in again[1:]:
            old_path.unlink()
        return done

    def measurements(self, stages: Sequence[str]) -> Iterator[tuple[str, Measurement, Done]]:
        """(variant, measurement, its piece) of all stages; of the same metric of a variant, the first that is ok."""
        found: dict[tuple[str, str], tuple[str, Measurement, Done]] = {}
        for stage in stages:
            for done in self.done(stage):
                for variant, measurements in done.results.items():
                    for measurement in measurements:
                        key = (variant, measurement.info.name)
                        if key not in found or found[key][1].status != "ok":
                            found[key] = (variant, measurement, done)
        yield from found.values()

    def _files(self, stage: str) -> list[Path]:
        return sorted((self.folder / stage).glob("[0-9]*.json"))


def _read(path: Path) -> Done | None:
    try:
        return Done.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
