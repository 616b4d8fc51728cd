"""The search for equal latency on made latencies: monotone, stepped, jagged, noisy, out of reach."""

import json
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from bench.metrics.cost.latency_search import CONFIRMATIONS, EqualLatency, Reading, Widths, search_equal_latency
from fastflux.errors import FastFluxError

LARGEST = 0.5
PLACES = 501
TOLERANCE = 0.02


def fine(ratio: float) -> Widths:
    """Widths of their own for every ratio."""
    return 1, PLACES - round(1000 * ratio)


class Machine:
    """Measures a made latency, a ratio to the target's, and notes every call."""

    def __init__(self, latency: Callable[[float], float], widths: Callable[[float], Widths] = fine) -> None:
        self.latency, self.widths = latency, widths
        self.calls: list[tuple[float, int]] = []

    def measure(self, ratio: float, rounds: int) -> Reading:
        self.calls.append((ratio, rounds))
        heads, channels = self.widths(ratio)
        return Reading(ratio, heads, channels, self.latency(ratio), None, rounds)

    def search(self, candidates: int = 6, largest: float = LARGEST) -> EqualLatency:
        return search_equal_latency(
            self.measure, self.widths, largest=largest, tolerance=TOLERANCE, rounds=7, final_rounds=15,
            candidates=candidates,
        )  # fmt: skip

    def require_no_waste(self, candidates: int) -> None:
        """No widths measured twice but for confirmations, and no more calls than allowed."""
        first = [self.widths(ratio) for ratio, rounds in self.calls if rounds == 7]
        again = [ratio for ratio, rounds in self.calls if rounds == 15]
        assert len(set(first)) == len(first) <= candidates
        assert len(set(again)) == len(again) <= CONFIRMATIONS


@pytest.mark.parametrize("dense", [1.01, 1.06, 1.12, 1.17, 1.5])
@pytest.mark.parametrize("bend", [0.5, 1.0, 1.6])
def test_smooth_latencies_are_met_within_six_candidates(dense: float, bend: float) -> None:
    machine = Machine(lambda ratio: dense * (1 - ratio) ** bend)
    found = machine.search()
    machine.require_no_waste(6)
    if dense * 0.5**bend <= 1 + TOLERANCE:
        assert found.met
        assert found.latency_ratio == pytest.approx(dense * (1 - found.ratio) ** bend)
        assert found.rounds == 15
    assert found.tried[-1].rounds == 15


def test_the_first_reading_near_enough_ends_the_search() -> None:
    machine = Machine(lambda ratio: 1.1 * (1 - ratio))
    found = machine.search()
    assert machine.calls == [(0.0, 7), (0.091, 7), (0.091, 15)]
    assert found.latency_ratio == pytest.approx(1, abs=1e-3)


def test_steps_that_leave_one_narrow_landing() -> None:
    """Only the ratios from 0.3 to 0.31 lie within the tolerance; equal widths are measured once."""

    def widths(ratio: float) -> Widths:
        return 1, 50 - math.floor(100 * ratio + 1e-9)

    machine = Machine(lambda ratio: 1.2 if ratio < 0.3 else 1.005 if ratio < 0.31 else 0.8, widths)
    found = machine.search(candidates=40)
    machine.require_no_waste(40)
    assert found.met
    assert widths(found.ratio) == (1, 20)


def test_a_gap_across_the_target_gives_the_nearer_side_and_says_so() -> None:
    machine = Machine(lambda ratio: 1.06 if ratio < 0.2 else 0.95)
    found = machine.search(candidates=30)
    assert not found.met
    assert found.latency_ratio == 0.95
    assert "5.0% faster than its target, not within 2.0%" in str(found)


def test_a_target_slower_than_the_dense_model_costs_two_measurements() -> None:
    machine = Machine(lambda ratio: 0.8 * (1 - ratio))
    found = machine.search()
    assert (found.ratio, found.met) == (0.0, False)
    assert machine.calls == [(0.0, 7), (0.0, 15)]
    assert "20.0% faster than its target, not within" in str(found)


def test_a_target_faster_than_the_narrowest_model_gives_the_largest_ratio() -> None:
    machine = Machine(lambda ratio: 3 - ratio)
    found = machine.search(largest=0.4567)
    assert (found.ratio, found.met) == (0.456, False)
    machine.require_no_waste(6)
    assert "slower than its target, not within" in str(found)


def test_a_lucky_short_measurement_does_not_decide() -> None:
    """Planted: the first candidate looks right and is 6% slower in the longer measurement."""
    machine = Machine(lambda ratio: 1.1 - ratio + (0.06 if machine.calls[-1] == (0.091, 15) else 0))
    found = machine.search()
    assert machine.calls[:3] == [(0.0, 7), (0.091, 7), (0.091, 15)]
    assert found.ratio > 0.091
    assert found.met
    machine.require_no_waste(6)


@given(levels=st.lists(st.floats(0.3, 3.0), min_size=1, max_size=40), width=st.integers(1, 40))
def test_falling_latencies_are_met_wherever_a_candidate_meets_them(levels: list[float], width: int) -> None:
    falling = sorted(levels, reverse=True)

    def step(ratio: float) -> int:
        return round(1000 * ratio) // width

    def latency(ratio: float) -> float:
        return falling[step(ratio) * width * len(falling) // PLACES]

    machine = Machine(latency, lambda ratio: (1, PLACES - step(ratio)))
    candidates = 4 * (PLACES // width).bit_length() + 4
    found = machine.search(candidates)
    machine.require_no_waste(candidates)
    nearest = min(abs(latency(place / 1000) - 1) for place in range(PLACES))
    assert found.met == (nearest <= TOLERANCE)
    if not found.met:
        assert found.difference == nearest


@given(latencies=st.lists(st.floats(0.5, 2.0), min_size=1, max_size=60))
def test_with_all_candidates_allowed_any_latency_across_the_target_is_met(latencies: list[float]) -> None:
    latencies = [1.5, *latencies, 0.5]
    machine = Machine(lambda ratio: latencies[round(1000 * ratio)])
    found = machine.search(candidates=len(latencies), largest=(len(latencies) - 1) / 1000)
    machine.require_no_waste(len(latencies))
    assert found.met == any(abs(latency - 1) <= TOLERANCE for latency in latencies)


@given(seed=st.integers(0, 10_000), noise=st.floats(0, 0.3), dense=st.floats(0.7, 2.5), candidates=st.integers(1, 12))
def test_noise_never_costs_more_and_the_answer_is_the_longer_measurement(
    seed: int, noise: float, dense: float, candidates: int
) -> None:
    def machine() -> Machine:
        generator = random.Random(seed)  # noqa: S311  # made noise
        return Machine(lambda ratio: dense * (1 - ratio) * math.exp(generator.gauss(0, noise)))

    one, other = machine(), machine()
    found = one.search(candidates)
    one.require_no_waste(candidates)
    assert found == other.search(candidates)
    confirmed = [reading for reading in found.tried if reading.rounds == 15]
    assert found.difference == min(reading.difference for reading in confirmed)
    assert EqualLatency.from_json(found.to_json()) == found


def test_faulty_text_is_refused() -> None:
    reading = Reading(0.1, 3, 240, 1.01, (0.99, 1.03), 2, (101.0, 99.5), (100.0, 100.0))
    found = EqualLatency(**asdict(reading), tolerance=0.02, tried=(reading,))
    assert EqualLatency.from_json(found.to_json()) == found
    data = json.loads(found.to_json())
    for text in ("{", "[]", "{}", json.dumps({**data, "ratoi": 1}), json.dumps({**data, "tried": [{}]})):
        with pytest.raises(FastFluxError, match=r"equal_latency.json is "):
            EqualLatency.from_json(text, "equal_latency.json")
