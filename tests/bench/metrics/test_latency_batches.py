"""Batch sizes with a clock that the steps move."""

from collections.abc import Callable

import pytest

from bench.metrics.cost.latency import measure_latency_batches
from bench.records.results import Measurement
from fastflux.errors import FastFluxError
from tests.bench.metrics.test_latency import Clock


def measured(batches: list[int], *, fails_from: int = 100, rounds: int = 6) -> dict[str, Measurement]:
    """ "dense" takes 0.1 s and 0.02 s an image, "fast" half of it; "large" raises from a size on."""
    clock = Clock()

    def large(batch: int) -> Callable[[], None]:
        def step() -> None:
            if batch >= fails_from:
                raise RuntimeError("out of memory")
            clock.now += 0.3

        return step

    def steps_of(batch: int) -> dict[str, Callable[[], None]]:
        seconds = 0.1 + 0.02 * batch
        return {"dense": clock.step("dense", seconds), "fast": clock.step("fast", seconds / 2), "large": large(batch)}

    return measure_latency_batches(
        steps_of, batches, warmup=1, rounds=rounds, seed=0, clock=clock, settings={"dtype": "float32"}
    )


def test_every_size_has_its_values_and_times() -> None:
    found = measured([1, 4])
    values = found["fast"].values
    assert values["batch1_median_ms"] == pytest.approx(60)
    assert values["batch4_median_ms"] == pytest.approx(90)
    assert values["batch4_per_image_ms"] == pytest.approx(22.5)
    assert values["batch4_p99_ms"] == pytest.approx(90)
    assert values["batch1_ratio_to_dense"] == values["batch4_ratio_to_dense"] == pytest.approx(0.5)
    assert "batch4_ratio_to_dense" in found["fast"].intervals
    assert found["fast"].samples.keys() == {"batch1/ms", "batch4/ms"}
    assert found["fast"].scored == 12
    assert found["fast"].settings["batches"] == [1, 4]
    assert found["fast"].settings["dtype"] == "float32"
    assert found["fast"].settings["failed"] == {}


def test_a_size_that_fails_takes_no_other_with_it() -> None:
    found = measured([1, 8], fails_from=8)
    assert found["large"].status == "ok"
    assert not any(key.startswith("batch8") for key in found["large"].values)
    assert found["large"].settings["failed"] == {"8": "RuntimeError in round 0: out of memory"}
    assert (found["large"].scored, found["large"].missing) == (6, 6)
    assert "batch8_median_ms" in found["dense"].values


def test_failing_at_every_size_is_a_failure() -> None:
    found = measured([1, 2], fails_from=1)["large"]
    assert (found.status, found.missing) == ("failed", 12)
    assert found.reason.startswith("batch 1: RuntimeError in round 0: out of memory; batch 2: ")


@pytest.mark.parametrize("batches", [[], [0, 1], [2, 2]])
def test_sizes_that_cannot_be_are_refused(batches: list[int]) -> None:
    with pytest.raises(FastFluxError, match="The batch sizes are"):
        measured(batches)
