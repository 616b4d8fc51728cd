"""Latencies against FLOPs and stated peaks: the paper's own first."""

from typing import Any

import pytest
from msgspec.structs import replace

from bench.metrics.cost.plausibility import (
    FP16_ACCUMULATE,
    HEADROOM,
    PEAKS,
    arithmetic_limit_ms,
    implausible,
    judge_latency,
    judge_record,
    peak_of,
)
from bench.records.results import Measurement, MetricInfo, RunRecord

PAPER_MS, PAPER_DEVICE = 98.26, "NVIDIA RTX 3090"
FLUX_512, FLUX_1024 = 21.503e12, 74.385e12
FLOPS = MetricInfo("flops", "1", "FLOP", higher_is_better=False, reference="x")
LATENCY = MetricInfo("latency", "1", "ms", higher_is_better=False, reference="x")


@pytest.mark.parametrize("flops", [FLUX_512, FLUX_1024])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_papers_latency_is_below_its_cards_limit(flops: float, dtype: str) -> None:
    sentence = implausible(PAPER_MS, flops, PAPER_DEVICE, dtype)
    assert sentence is not None
    assert sentence.startswith("98.26 ms is below the ")
    assert "RTX 3090" in sentence


def test_the_papers_sentence_names_what_it_was_held_against() -> None:
    assert implausible(PAPER_MS, FLUX_512, PAPER_DEVICE, "float16") == (
        "98.26 ms is below the 151 ms that 21.50 TFLOPs take at the peak of RTX 3090, 142 TFLOP/s in float16 with "
        "float16 sums (https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf)."
    )
    assert arithmetic_limit_ms(FLUX_512, PAPER_DEVICE, "torch.bfloat16") == pytest.approx(302.9, abs=0.1)
    assert arithmetic_limit_ms(FLUX_512, PAPER_DEVICE, FP16_ACCUMULATE) == pytest.approx(151.4, abs=0.1)


def test_what_arithmetic_allows_is_not_flagged() -> None:
    limit = arithmetic_limit_ms(FLUX_512, "NVIDIA H200", "bfloat16")
    assert limit is not None
    assert implausible(limit * 1.5, FLUX_512, "NVIDIA H200", "bfloat16") is None
    assert implausible(limit / HEADROOM * 1.01, FLUX_512, "NVIDIA H200", "bfloat16") is None, "above the stated clock"
    assert implausible(limit / HEADROOM * 0.99, FLUX_512, "NVIDIA H200", "bfloat16") is not None
    assert judge_latency(limit * 1.5, FLUX_512, "NVIDIA H200", "bfloat16").verdict == "plausible"


def test_float32_is_held_against_tf32() -> None:
    limit = arithmetic_limit_ms(FLUX_512, "NVIDIA A100-SXM4-80GB", "float32")
    assert limit is not None
    assert implausible(limit / 2, FLUX_512, "NVIDIA A100-SXM4-80GB", "float32") is None
    assert implausible(limit / 20, FLUX_512, "NVIDIA A100-SXM4-80GB", "float32") is not None


@pytest.mark.parametrize(
    ("device", "dtype", "device_type", "why"),
    [
        ("Some GPU", "bfloat16", "cuda", "No peak rate of Some GPU is known"),
        ("Tesla T4", "bfloat16", "cuda", "No peak rate of T4 in bfloat16"),
        ("NVIDIA H200", "int4", "cuda", "No peak rate of H200 in int4"),
        ("AMD EPYC", "float32", "cpu", "AMD EPYC is a CPU"),
    ],
)
def test_what_is_not_known_is_not_judged(device: str, dtype: str, device_type: str, why: str) -> None:
    found = judge_latency(0.001, FLUX_512, device, dtype, device_type)
    assert (found.verdict, why in found.sentence) == ("not judged", True)
    if device_type == "cuda":
        assert implausible(0.001, FLUX_512, device, dtype) is None
        assert arithmetic_limit_ms(FLUX_512, device, dtype) is None


@pytest.mark.parametrize("figures", [(0.0, 1e12), (float("nan"), 1e12), (1.0, 0.0)])
def test_no_measurement_is_not_judged(figures: tuple[float, float]) -> None:
    assert judge_latency(*figures, PAPER_DEVICE, "bfloat16").verdict == "not judged"


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", None),
        ("Tesla V100-SXM2-16GB", "V100 SXM2"),
    ],
)
def test_devices_are_known_by_their_whole_name(name: str, device: str | None) -> None:
    peak = peak_of(name)
    assert (peak.device if peak else None) == device


def test_every_peak_has_a_source_and_rates_in_a_sensible_order() -> None:
    for peak in PEAKS:
        assert peak.source.startswith("https://")
        rates = peak.teraflops
        assert rates["float32"] <= rates.get("tf32", rates["float32"]) <= rates["float16"]
        assert all(rate > 0 for rate in rates.values())
        assert sum(peak_of(peak.device) is other for other in PEAKS) <= 1


def record(**changes: Any) -> RunRecord:
    settings = {"batch": 2, "dtype": "bfloat16", **changes.pop("settings", {})}
    measurements = (
        Measurement(FLOPS, "ok", values={"forward": FLUX_512}),
        Measurement(LATENCY, "ok", values={"median_ms": changes.pop("median_ms", 100.0)}, settings=settings),
    )
    environment = {"device": "NVIDIA H200", "device_type": "cuda", **changes.pop("environment", {})}
    made = RunRecord(
        "flux-dev", "dense", "FLUX.1-dev", None, "b", "r", environment, {}, measurements, "2026-11-21T00:00:00+00:00"
    )
    return replace(made, **changes)


def test_a_record_is_judged_by_its_own_figures_and_batch() -> None:
    assert judge_record(record()).verdict == "plausible"
    assert judge_record(record(median_ms=30.0)).verdict == "implausible", "two images take 43 ms"
    assert judge_record(record(median_ms=30.0, settings={"batch": 1})).verdict == "plausible"
    cpu = {"device": "AMD EPYC", "device_type": "cpu"}
    assert judge_record(record(environment=cpu)).verdict == "not judged"


def test_a_record_without_what_it_takes_is_not_judged() -> None:
    assert judge_record(record(measurements=())).sentence == (
        "FLUX.1-dev has no latency with FLOPs to hold it against."
    )
    for lacking in ({"settings": {"dtype": None}}, {"settings": {"batch": "two"}}, {"environment": {"device": None}}):
        assert "tells no batch, number format or device" in judge_record(record(**lacking)).sentence
