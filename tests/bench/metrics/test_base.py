"""The list of metrics and what all image metrics do alike."""

import subprocess
import sys

import pytest

from bench.metrics.base import METRICS, load_metric, values_and_intervals
from bench.records.statistics import Estimate
from bench.samples.image_set import ImageSet
from fastflux.errors import FastFluxError


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_listed_metric_can_be_loaded_and_says_what_it_does(name: str) -> None:
    found = load_metric(name)
    assert callable(found)
    assert found.__doc__


def test_an_unknown_metric_is_refused_with_the_list() -> None:
    with pytest.raises(FastFluxError, match=r"no metric 'hsp'; expected one of hps, geneval"):
        load_metric("hsp")


def test_records_and_statistics_come_without_torch() -> None:
    modules = "bench.records.results, bench.records.statistics, bench.metrics.base"
    code = f"import {modules}, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_intervals_are_left_out() -> None:
    found = values_and_intervals({"a": Estimate(1.0, (0.5, 2.0)), "b": Estimate(3.0, None)}, scale=2)
    assert found == ({"a": 2.0, "b": 6.0}, {"a": (1.0, 4.0)})


def test_an_empty_image_set_has_nothing_missing() -> None:
    assert ImageSet(()).missing() == ()
