"""Latencies against FLOPs and stated peaks: the paper's own first."""

import pytest

from bench.metrics.cost.plausibility import HEADROOM, PEAKS, implausible, peak_of

PAPER_MS, PAPER_DEVICE = 98.26, "NVIDIA RTX 3090"
FLUX_512, FLUX_1024 = 21.503e12, 74.385e12


@pytest.mark.parametrize("flops", [FLUX_512, FLUX_1024])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_papers_latency_is_below_its_cards_limit(flops: float, dtype: str) -> None:
    sentence = implausible(PAPER_MS, flops, PAPER_DEVICE, dtype)
    assert sentence.startswith("98.26 ms is below the ")
    assert "RTX 3090" in sentence


def test_the_papers_sentence_names_what_it_was_held_against() -> None:
    assert implausible(PAPER_MS, FLUX_512, PAPER_DEVICE, "float16") == (
        "98.26 ms is below the 151 ms that 21.50 TFLOPs take at the peak of RTX 3090, 142 TFLOP/s in float16 with "
        "float16 sums (https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf)."
    )


H200_MS = FLUX_512 / 989.5e9
"""At its peak in bfloat16."""


@pytest.mark.parametrize(
    ("latency_ms", "device", "dtype", "forbidden"),
    [
        (H200_MS * 1.5, "NVIDIA H200", "bfloat16", False),
        (H200_MS / HEADROOM * 1.01, "NVIDIA H200", "torch.bfloat16", False),  # above the stated clock
        (H200_MS / HEADROOM * 0.99, "NVIDIA H200", "torch.bfloat16", True),
        # float32 is held against TF32
        (FLUX_512 / 156e9, "NVIDIA A100-SXM4-80GB", "float32", False),
        (FLUX_512 / 156e9 / 2, "NVIDIA A100-SXM4-80GB", "float32", True),
        # what is not known is not judged
        (0.001, "Some GPU", "bfloat16", False),
        (0.001, "Tesla T4", "bfloat16", False),
        (0.001, "NVIDIA H200", "int4", False),
        (0.0, "NVIDIA H200", "bfloat16", False),
        (float("nan"), "NVIDIA H200", "bfloat16", False),
    ],
)
def test_only_what_arithmetic_forbids_is_flagged(latency_ms: float, device: str, dtype: str, forbidden: bool) -> None:
    assert (implausible(latency_ms, FLUX_512, device, dtype) is not None) == forbidden
    assert implausible(latency_ms, FLUX_512, device, dtype, "cpu") is None


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
