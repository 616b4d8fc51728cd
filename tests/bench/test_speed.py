"""`python -m bench speed`: every way of timing, in records and on the screen, on a small FLUX."""

from pathlib import Path

import pytest
from msgspec.structs import replace

import bench.run.evaluation
import bench.studies.speed
from bench.records.results import RunRecord
from bench.studies.speed import SpeedSettings, speed
from tests.fastflux.tiny_pipeline import write_tiny_pipeline


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The shapes profile on a tiny pipeline."""
    monkeypatch.chdir(tmp_path)
    write_tiny_pipeline(tmp_path / "pipeline")
    return {
        "pipeline": str(tmp_path / "pipeline"), "sampling.height": "32", "sampling.width": "32", "sampling.steps": "2",
        "methods.l1_norm.steps": "0",
    }  # fmt: skip


@pytest.mark.slow
def test_every_way_is_recorded(given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        bench.studies.speed,
        "CompileSettings",
        lambda _mode: bench.metrics.cost.latency.CompileSettings(backend="eager"),
    )
    settings = SpeedSettings((1, 2), "default", end_to_end=True, rounds=6, warmup=1)
    found = speed(profile_name="shapes", variant_names=["l1-12"], settings=settings, changes=given)
    assert [record.variant for record in found] == ["dense", "l1-12"]
    for record in found:
        measured = {m.info.name: m for m in record.measurements}
        assert {name: m.status for name, m in measured.items()} == dict.fromkeys(
            ("flops_by_block", "latency_batches", "latency_compiled", "latency_end_to_end", "memory_end_to_end"), "ok"
        )
        assert {"batch1_median_ms", "batch2_median_ms", "batch2_per_image_ms"} <= measured[
            "latency_batches"
        ].values.keys()
        path = tmp_path / "runs" / "shapes" / "speed" / f"{record.variant}.json"
        assert RunRecord.read(path) == record
    dense, sliced = (record.measurement("flops_by_block") for record in found)
    assert sliced.values["32x32.forward"] < dense.values["32x32.forward"]


def test_a_latency_below_the_devices_arithmetic_is_named(
    given: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is said to take no time on a GPU of known peak."""
    plain = bench.studies.speed.measure_latency_batches

    def instant(*arguments: object, **options: object) -> object:
        return {
            name: replace(found, values={**found.values, "batch1_median_ms": 1e-9})
            for name, found in plain(*arguments, **options).items()  # type: ignore[arg-type]
        }

    monkeypatch.setattr(bench.studies.speed, "measure_latency_batches", instant)
    described = bench.run.evaluation.describe_environment("cpu")
    monkeypatch.setattr(
        bench.run.evaluation,
        "describe_environment",
        lambda _device: {**described, "device": "NVIDIA GeForce RTX 3090", "device_type": "cuda"},
    )
    speed(profile_name="shapes", variant_names=["dense"], settings=SpeedSettings(rounds=1, warmup=0), changes=given)
    assert "is below" in " ".join(capsys.readouterr().err.split())
