"""What all image metrics do alike."""

from bench.metrics.base import values_and_intervals
from bench.records.statistics import Estimate
from bench.samples.image_set import ImageSet


def test_unknown_intervals_are_left_out() -> None:
    found = values_and_intervals({"a": Estimate(1.0, (0.5, 2.0)), "b": Estimate(3.0, None)}, scale=2)
    assert found == ({"a": 2.0, "b": 6.0}, {"a": (1.0, 4.0)})


def test_an_empty_image_set_has_nothing_missing() -> None:
    assert ImageSet(()).missing() == ()
