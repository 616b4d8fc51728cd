"""The search for the pruning ratio of equal latency: which ratio to measure next, and what came of it; no measuring.

Latency falls with the ratio only roughly: heads and MLP channels are whole numbers, and the machine is noisy. So the
search narrows a bracket around the target as if latency fell, tries neighbours where the bracket closes without an
answer, and lets a longer measurement decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from bench.records.results import Data, Finite, Measurement
from fastflux.errors import FastFluxError

GRID = 1000
"""Ratios are tried in thousandths: of FLUX.1-dev's and FLUX-Shapes' widths that skips none that matters in latency."""
CONFIRMATIONS = 3
"""At most so many candidates are measured once more; choosing among many would choose the luckiest."""

Widths = tuple[int, int]
"""Heads and MLP channels kept in every block."""


class Reading(Data, frozen=True):
    """One measurement of a sliced model against the target, interleaved.

    Args:
        ratio: of pruning, `L1NormConfig.ratio`.
        heads, mlp_channels: kept in every block.
        latency_ratio: median over the rounds of its time by the target's in the same round.
        interval: 95% interval of `latency_ratio`; None below 6 rounds.
        rounds: timed rounds.
        candidate_ms, target_ms: the raw times of one step, in the order of the rounds.
    """

    ratio: float
    heads: int
    mlp_channels: int
    latency_ratio: Finite
    interval: tuple[Finite, Finite] | None
    rounds: int
    candidate_ms: tuple[float, ...] = ()
    target_ms: tuple[float, ...] = ()

    @classmethod
    def of(cls, candidate: Measurement, target: Measurement, ratio: float, widths: Widths) -> Reading:
        """What one measurement of both said, in which the target was the baseline.

        Raises:
            FastFluxError: a step failed.
        """
        for what, found in (("The target's step", target), (f"The step of L1-norm pruning at {ratio}", candidate)):
            if found.status != "ok":
                raise FastFluxError(f"{what} failed, so no latency can be met: {found.reason}")
        return Reading(
            ratio,
            *widths,
            latency_ratio=candidate.values["ratio_to_dense"],  # the target is what it is held against here
            interval=candidate.intervals.get("ratio_to_dense"),
            rounds=candidate.scored,
            candidate_ms=tuple(candidate.samples["ms"]),
            target_ms=tuple(target.samples["ms"]),
        )

    @property
    def difference(self) -> float:
        """How far it lies from the target, as a fraction of the target's time."""
        return abs(self.latency_ratio - 1)


class EqualLatency(Reading, frozen=True):
    """The ratio whose latency is nearest to the target's, by its longer measurement; `tried` has all, in their order.

    ``L1NormConfig(ratio=found.ratio)`` keeps these heads and MLP channels, every time.
    """

    tolerance: float = 0.02
    tried: tuple[Reading, ...] = ()

    @property
    def met(self) -> bool:
        """Whether the latency lies within the tolerance."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        """One sentence with the difference, fit for a warning where it is not `met`."""
        side = "slower" if self.latency_ratio > 1 else "faster"
        verdict = "within" if self.met else "not within"
        return (
            f"L1-norm pruning at ratio {self.ratio:.3f} ({self.heads} heads, {self.mlp_channels} MLP channels) is "
            f"{self.difference:.1%} {side} than its target, {verdict} {self.tolerance:.1%} "
            f"({self.rounds} rounds, {len(self.tried)} measurements)."
        )


def search_equal_latency(
    measure: Callable[[float, int], Reading],
    widths: Callable[[float], Widths],
    *,
    largest: float,
    tolerance: float,
    rounds: int,
    final_rounds: int,
    candidates: int,
) -> EqualLatency:
    """The ratio in [0, `largest`] whose latency is nearest to the target's; which one is a function of the readings.

    Args:
        measure: (ratio, rounds) -> a reading; called at most once for each pair of widths, and once more for each of
            at most `CONFIRMATIONS` that may be the answer.
        widths: what a ratio keeps, without measuring.
        largest: the highest ratio that slicing can reach.
        tolerance: stop within it; the search aims at half of it, since the longer measurement will differ a little.
        rounds, final_rounds: of a candidate's measurement, and of the one that decides.
        candidates: measure at most so many widths.

    Returns:
        The best found, `met` or not: a target slower than the dense model has ratio 0, one faster than the narrowest
        model the largest ratio. A latency that falls with the ratio is met wherever some candidate meets it, given
        enough candidates (about 4 log2 of the number of widths); any other one that starts above the target and ends
        below it, given all of them.
    """
    state = _Search(measure, widths, int(largest * GRID + 1e-9), tolerance)
    for _ in range(CONFIRMATIONS):
        while len(state.readings) < candidates and (place := state.next_place()) is not None:
            state.read(place, rounds)
        best = state.best()
        if best in state.confirmed:
            break
        state.read(best, final_rounds)
        state.confirmed.add(best)
        if state.readings[best].difference <= tolerance:
            break
    found = state.readings[min(state.confirmed, key=lambda place: state.readings[place].difference)]
    return EqualLatency(**msgspec.structs.asdict(found), tolerance=tolerance, tried=tuple(state.tried))


class _Search:
    """Readings by place: the first one on the grid of ratios that was measured of its widths."""

    def __init__(
        self, measure: Callable[[float, int], Reading], widths: Callable[[float], Widths], last: int, tolerance: float
    ) -> None:
        self._measure, self._widths, self._last, self._tolerance = measure, widths, last, tolerance
        self._known: dict[int, Widths] = {}
        self.readings: dict[int, Reading] = {}
        self.confirmed: set[int] = set()
        self.tried: list[Reading] = []

    def read(self, place: int, rounds: int) -> None:
        reading = self._measure(place / GRID, rounds)
        self.readings[place] = reading
        self.tried.append(reading)

    def best(self) -> int:
        return min(self.readings, key=lambda place: self.readings[place].difference)

    def next_place(self) -> int | None:
        """Where to measure next; None when something is near enough, or nothing that could help is left."""
        if not self.readings:
            return 0  # the dense model tells how far there is to go
        if self.readings[0].latency_ratio <= 1:
            return None  # nothing to slice for: the target takes as long as the dense model, or longer
        nearest = self.readings[self.best()].difference
        if nearest <= self._tolerance / 2:
            return None
        low, high = self._bracket()
        place = self._inside(low, high)
        if place is not None or nearest <= self._tolerance or high > self._last:
            return place  # beyond the last place lies nothing: even the narrowest model is slower than the target
        return next((place for place in self._outwards(low) if self._is_new(place)), None)

    def _bracket(self) -> tuple[int, int]:
        """The lowest place faster than the target (one beyond the last if none was), and the slower one before it."""
        latencies = {place: reading.latency_ratio for place, reading in self.readings.items()}
        high = min((place for place, latency in latencies.items() if latency < 1), default=self._last + 1)
        return max(place for place, latency in latencies.items() if place < high and latency >= 1), high

    def _inside(self, low: int, high: int) -> int | None:
        """The unmeasured place inside the bracket nearest to where the target is expected."""
        guess = self._guess(low, high)
        inside = sorted(range(low + 1, high), key=lambda place: (abs(place - guess), place))
        return next((place for place in inside if self._is_new(place)), None)

    def _guess(self, low: int, high: int) -> float:
        latency = {place: reading.latency_ratio for place, reading in self.readings.items()}
        if len(latency) % 4 == 0:
            return (low + high) / 2  # now and then, or a bent curve is approached in steps without end
        if high <= self._last:
            return low + (high - low) * (latency[low] - 1) / (latency[low] - latency[high])
        if low == 0:
            return GRID * (1 - 1 / latency[0])  # as if time were proportional to the parameters
        slope = (latency[0] - latency[low]) / low
        return low + (latency[low] - 1) / slope if slope > 0 else (low + high) / 2

    def _outwards(self, low: int) -> Iterable[int]:
        return sorted(range(1, self._last + 1), key=lambda place: (abs(place - low - 0.5), place))

    def _is_new(self, place: int) -> bool:
        """Whether the widths of this place have not been measured at this place or another one."""
        return self._widths_at(place) not in {self._widths_at(other) for other in self.readings}

    def _widths_at(self, place: int) -> Widths:
        if place not in self._known:
            self._known[place] = self._widths(place / GRID)
        return self._known[place]
