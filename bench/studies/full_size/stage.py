"""What a stage of the full-size measurement is, and what it needs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.records.results import MetricInfo
from bench.run.units import Results, Unit
from bench.studies.full_size.workbench import Workbench


@dataclass(frozen=True)
class Need:
    """The least bytes a stage takes, activations not counted, and what to do where there are fewer."""

    device: int = 0
    host: int = 0
    disk: int = 0
    remedy: str = "take a larger GPU"


@dataclass(frozen=True)
class Stage:
    """A part of the measurement: `units` to settle, and `pieces` that settle those that are left, made lazily."""

    name: str
    what: str
    units: Callable[[Workbench], Sequence[str]]
    pieces: Callable[[Workbench, Sequence[str]], Iterator[Unit]]
    need: Callable[[Workbench], Need]

    def left(self, bench: Workbench) -> list[str]:
        """Units that are not settled."""
        settled = bench.store.names(self.name)
        return [unit for unit in self.units(bench) if unit not in settled]

    def failed(self, bench: Workbench) -> list[str]:
        """Units that were taken and failed."""
        left = set(self.left(bench))
        return [unit for unit in self.not_measured(bench) if unit not in left]

    def not_measured(self, bench: Workbench) -> list[str]:
        """Units that failed, or are not settled."""
        measured = bench.store.names(self.name, measured=True)
        return [unit for unit in self.units(bench) if unit not in measured]


def piece(units: Sequence[str], variants: Sequence[str], info: MetricInfo, work: Callable[[], Results]) -> Unit:
    """Work that settles `units` of a stage and measures `variants` by `info`, which is what fails where it fails.

    The folder of the run names all that decides the outcome.
    """
    return Unit(dict.fromkeys(units), work, variants=tuple(variants), info=info)
