"""Tables of full-size records: goals met and missed, failures shown, and the committed FLOPs."""

from pathlib import Path

import pytest

from bench.records.results import Measurement, MetricInfo, RunRecord, read_records
from reports.full_size.document import full_size_document
from reports.table import DASH
from tests.bench.metrics.flops_by_hand import flux_flops

ROOT = Path(__file__).parent.parent.parent
FLUX = {
    "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128,
    "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True, "patch_size": 1,
}  # fmt: skip


def info(name: str) -> MetricInfo:
    return MetricInfo(name, "1", "", higher_is_better=False, reference="")


def latency(ms: float, ratio: float, spread: float = 0.001) -> Measurement:
    return Measurement(
        info("latency_1024x1024"), "ok", values={"median_ms": ms, "ratio_to_dense": ratio},
        intervals={"median_ms": (ms - spread, ms + spread), "ratio_to_dense": (ratio - spread, ratio + spread)},
        settings={"dtype": "bfloat16", "batch": 1},
    )  # fmt: skip


def flops(ratio: float) -> Measurement:
    return Measurement(
        info("flops_by_block"), "ok", values={"1024x1024.forward": 74e12 * ratio, "1024x1024.ratio_to_dense": ratio}
    )


def write(folder: Path, variant: str, *measurements: Measurement) -> None:
    RunRecord(
        profile="flux-dev-random", variant=variant, label=variant, plan=None, base_model="", base_revision="",
        environment={"device": "NVIDIA H200"}, sampling={}, measurements=measurements, created="2026-01-01T00:00:00",
    ).write(folder / f"{variant}.json")  # fmt: skip


def line(text: str, beginning: str) -> list[str]:
    return [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in text.splitlines()
        if row.startswith(f"| {beginning} ")
    ][-1]


def test_a_ratio_is_held_against_the_flops_and_set_beside_the_papers(tmp_path: Path) -> None:
    write(tmp_path, "dense", latency(100.0, 1.0), flops(1.0))
    write(tmp_path, "fastflux-20", latency(84.0, 0.84), flops(0.82))
    write(tmp_path, "fastflux-30", latency(78.0, 0.78), flops(0.738))
    write(tmp_path, "mix-20", Measurement.failed(info("latency_1024x1024"), "OutOfMemoryError: no memory"))
    text = full_size_document(tmp_path)
    assert "NVIDIA H200" in text
    assert line(text, "fastflux-20") == [
        "fastflux-20", "84.000", r"0.840 \[0.839, 0.841\]", "0.820", "+2.4%", "0.823", DASH, "yes",
    ]  # fmt: skip
    assert line(text, "fastflux-30")[-1] == "no"
    assert "no memory" in line(text, "mix-20")[-1]


def test_whatever_failed_is_told_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path, "dense", latency(100.0, 1.0), Measurement.failed(info("calibration_cost"), "out of memory: 8 GiB"))
    write(tmp_path, "replacement", Measurement.failed(info("replacement_block_512x512"), "RuntimeError: no kernel"))
    text = full_size_document(tmp_path)
    assert line(text, "dense")[1:] == ["calibration cost", "out of memory: 8 GiB"]
    assert line(text, "replacement")[-1] == "RuntimeError: no kernel"
    write(tmp_path, "dense", latency(100.0, 1.0))
    write(tmp_path, "replacement")
    assert "What failed" not in full_size_document(tmp_path)


@pytest.mark.parametrize(("ms", "verdict"), [(81.0, "yes"), (82.0005, "within noise"), (83.0, "no")])
def test_the_export_must_not_be_slower(tmp_path: Path, ms: float, verdict: str) -> None:
    write(tmp_path, "run-20", latency(82.0, 0.82))
    write(tmp_path, "run_folded-20", latency(ms, ms / 100))
    assert line(full_size_document(tmp_path), "1024x1024")[-1] == verdict


@pytest.mark.parametrize(("offload", "gigabytes", "verdict"), [
    (True, 23.0, "yes, under 24 GB with offload"), (True, 25.0, "no, under 24 GB with offload"),
    (False, 41.0, "no, under 40 GB without offload"),
])  # fmt: skip
def test_calibration_is_held_against_its_goals(tmp_path: Path, offload: bool, gigabytes: float, verdict: str) -> None:
    values = {
        "samples": 512.0, "forwards": 128.0, "plain_seconds": 10.0, "statistics_seconds": 16.0, "ratio": 1.6,
        "peak_device_mib": gigabytes * 1e9 / 2**20,
    }  # fmt: skip
    write(
        tmp_path, "dense", Measurement(info("calibration_cost"), "ok", values=values, settings={"offload": offload})
    )  # fmt: skip
    text = full_size_document(tmp_path)
    assert line(text, "Calibration: forwards, as many plain ones")[1] == "128"
    assert line(text, "Calibration: ratio")[1:] == ["1.600", "no, at most 1.5"]
    assert line(text, "Calibration: peak memory of the device (GB)".replace("(", r"(").split(" (")[0])[-1] == verdict


def test_the_committed_flops_are_those_by_hand() -> None:
    folder = ROOT / "reports" / "data" / "full_size" / "flops"
    records = {record.variant: record for record in read_records(folder)}
    for variant, linear in (("dense", 0), ("fastflux-05", 3), ("fastflux-20", 11), ("fastflux-30", 16)):
        counted = records[variant].measurement("flops_by_block")
        for pixels in (512, 1024):
            expected = flux_flops(FLUX, image_tokens=(pixels // 16) ** 2, text_tokens=512, linear=linear)
            assert counted.values[f"{pixels}x{pixels}.forward"] == expected
    ratio = records["fastflux-20"].measurement("flops_by_block")
    assert round(ratio.values["1024x1024.ratio_to_dense"], 3) == 0.820
    assert (folder / "README.md").read_text() == full_size_document(folder)
