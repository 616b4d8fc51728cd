"""The one list of metrics: each can be loaded, its headline stands in the records, and another package's joins."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.metrics.base import settings_class
from bench.metrics.catalogue import Metric, metric_named, metrics, on_machine
from bench.profiles.profile import ROOT
from bench.records.results import Measurement, RunRecord, read_records
from bench.settings import read_settings
from bench.tables import TABLES, Column, TableSpec
from fastflux.errors import FastFluxError
from reports.build import make_tables
from reports.rows import rows_of

#: What another package adds: a module, and an entry point that names the metric in it.
MODULE = """
from bench.metrics.catalogue import Metric
from bench.records.results import MetricInfo

SHARPNESS = Metric(
    MetricInfo("sharpness", "3", "gradient", True, "mean gradient"), "sharp_metric:measure", "images",
    "Sharpness", "mean", "images", ".1f",
)

def measure(images):
    return images
"""


@pytest.fixture(scope="module")
def committed() -> dict[str, list[Measurement]]:
    """The committed measurements that are ok, by metric."""
    found: dict[str, list[Measurement]] = {}
    for folder in (ROOT / "reports/data/results/cpu/shapes", ROOT / "reports/data/full_size/flops"):
        for record in read_records(folder):
            for measurement in record.measurements:
                if measurement.status == "ok":
                    found.setdefault(measurement.info.name, []).append(measurement)
    return found


@pytest.mark.parametrize("metric", metrics().values(), ids=metrics())
def test_a_metric_is_what_its_entry_says(metric: Metric, committed: dict[str, list[Measurement]]) -> None:
    assert callable(metric.load())
    assert metric.load().__doc__
    if metric.measures == "transformer":
        with pytest.raises(FastFluxError, match=f"{metric.name} measures transformers, not images"):
            settings_class(metric)
    else:
        assert type(read_settings(settings_class(metric), {}, "")) is settings_class(metric)
    assert metric.title
    assert format(1.5, metric.spec)
    for measurement in committed.get(metric.name, []):
        assert (measurement.info.version, measurement.info.unit) == (metric.info.version, metric.info.unit)
        assert measurement.info.higher_is_better is metric.info.higher_is_better
        if metric.headline and metric.name != "flops_by_block":  # its forward stands under each size
            assert metric.headline in measurement.values
        assert metric.weighting is None or measurement.samples


def test_no_committed_measurement_is_of_an_unknown_metric(committed: dict[str, list[Measurement]]) -> None:
    assert committed.keys() <= metrics().keys()
    assert len(committed) >= 10


def test_what_hangs_on_the_machine() -> None:
    hangs = ("latency", "latency_512x512", "memory_1024x1024", "latency_end_to_end")
    assert [on_machine(name) for name in (*hangs, "hps", "unknown", "flops")] == [True] * 4 + [False] * 3
    assert on_machine("pruning_cost", "seconds")
    assert not on_machine("pruning_cost", "training_steps")


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(FastFluxError, match=r"Unknown metric 'hsp': .*did you mean 'hps'"):
        metric_named("hsp")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with a metric of its own, as pip would leave it in this folder."""
    (tmp_path / "sharp_metric.py").write_text(MODULE)
    info = tmp_path / "sharp-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sharp\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fastflux.metrics]\nsharpness = sharp_metric:SHARPNESS\n")
    monkeypatch.syspath_prepend(tmp_path)
    metrics.cache_clear()
    yield tmp_path
    metrics.cache_clear()
    sys.modules.pop("sharp_metric", None)


def test_a_metric_of_another_package_is_found_loaded_and_shown(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = metric_named("sharpness")
    assert metric.load()("images") == "images"
    monkeypatch.setitem(TABLES, "mine", TableSpec("Mine", (Column(metric.title, metric.key, metric.spec),)))
    folder = ROOT / "reports/data/results/cpu/shapes"
    records = [RunRecord.read(folder / f"{name}.json.gz") for name in ("dense", "fastflux-20")]
    scores = {"hps-1": [0.5, 0.75], "hps-2": [0.25, 0.5]}
    measured = [
        record.with_measurement(
            type(record.measurements[0])(metric.info, "ok", values={"mean": level}, samples=scores, scored=4)
        )
        for record, level in zip(records, (0.5, 0.75), strict=True)
    ]
    ((table,),) = make_tables(rows_of(measured), ["mine"], TABLES).values()
    shown = [(row[1].text, row[1].underline, row[1].near) for row in table.groups[0].rows]
    assert shown == [("0.5", False, True), ("0.8", True, False)]
    assert table.headers[1].text == "Sharpness"


@pytest.mark.parametrize("value", ["sharp_metric:measure", "bench.metrics.catalogue:_OWN"])
def test_an_entry_point_that_names_no_metric_is_refused(installed: Path, value: str) -> None:
    (installed / "sharp-1.0.dist-info" / "entry_points.txt").write_text(f"[fastflux.metrics]\nx = {value}\n")
    with pytest.raises(FastFluxError, match=r"entry point x of fastflux\.metrics .* must name a"):
        metrics()
