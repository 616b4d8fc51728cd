"""What all image metrics do alike."""

import pytest

from bench.metrics.base import settings_class, values_and_intervals
from bench.metrics.catalogue import Metric, metrics
from bench.records.results import Data
from bench.records.statistics import Estimate
from bench.samples.image_set import ImageSet
from bench.settings import read_settings
from fastflux.errors import FastFluxError


@pytest.mark.parametrize("entry", metrics().values(), ids=lambda entry: entry.name)
def test_every_metric_can_be_loaded_and_says_what_it_does(entry: Metric) -> None:
    found = entry.load()
    assert callable(found)
    assert found.__doc__
    if entry.measures == "transformer":
        with pytest.raises(FastFluxError, match=f"{entry.name} measures transformers, not images"):
            settings_class(entry)
    else:
        assert issubclass(settings_class(entry), Data)
        assert read_settings(settings_class(entry), {}, "").__class__ is settings_class(entry)


def test_unknown_intervals_are_left_out() -> None:
    found = values_and_intervals({"a": Estimate(1.0, (0.5, 2.0)), "b": Estimate(3.0, None)})
    assert found == ({"a": 1.0, "b": 3.0}, {"a": (0.5, 2.0)})


def test_an_empty_image_set_has_nothing_missing() -> None:
    assert ImageSet(()).missing() == ()
