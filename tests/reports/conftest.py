"""Hand-made records: nothing here was measured, every number is chosen so that a test can tell what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from bench.results import Measurement, MetricInfo, RunRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

INFOS = {
    "hps": MetricInfo("hps", "1", "100 x cosine", True, "hand-made HPS"),
    "geneval": MetricInfo("geneval", "1", "fraction", True, "hand-made GenEval"),
    "clip_score": MetricInfo("clip_score", "1", "100 x cosine", True, "hand-made CLIP score"),
    "fid": MetricInfo("fid", "1", "", False, "hand-made FID"),
    "flops": MetricInfo("flops", "1", "FLOPs", False, "hand-made FLOPs"),
    "parameters": MetricInfo("parameters", "1", "", False, "hand-made parameters"),
    "latency": MetricInfo("latency", "1", "ms", False, "hand-made latency"),
    "memory": MetricInfo("memory", "1", "MiB", False, "hand-made memory"),
}
HPS_KEYS = ("anime", "concept-art", "paintings", "photo", "averaged")
GENEVAL_KEYS = ("single_object", "two_object", "counting", "colors", "position", "color_attr", "overall")


class MakeRecord(Protocol):
    """Builds a record; values are given by metric name."""

    def __call__(
        self, variant: str, label: str, *measurements: Measurement, profile: str = ..., blocks: int = ..., ratio: float | None = ...
    ) -> RunRecord: ...


def measured(name: str, values: Mapping[str, float], **extra: Any) -> Measurement:
    """An ok measurement of a known metric."""
    return Measurement(INFOS[name], "ok", values=values, **extra)


@pytest.fixture
def make_record() -> MakeRecord:
    def make(
        variant: str, label: str, *measurements: Measurement, profile: str = "shapes", blocks: int = 0, ratio: float | None = None
    ) -> RunRecord:
        plan: dict[str, Any] | None = None
        if variant != "dense":
            stack = "single_transformer_blocks"
            replacements = [{"block": {"stack": stack, "index": index}, "kind": "linear"} for index in range(blocks)]
            plan = {"method": variant.rpartition("-")[0], "config": {} if ratio is None else {"ratio": ratio}, "replacements": replacements}
        return RunRecord(
            profile=profile, variant=variant, label=label, plan=plan, base_model="tiny", base_revision="0",
            environment={"device": "test device"}, sampling={"steps": 4}, measurements=measurements, created="2026-01-01T00:00:00+00:00",
        )  # fmt: skip

    return make


@pytest.fixture
def hps_records(make_record: MakeRecord) -> tuple[RunRecord, ...]:
    """Dense, one pair of similar latency with a tie, one FastFLUX variant alone, one L1 variant whose HPS failed."""

    def latency(milliseconds: float) -> Measurement:
        return measured("latency", {"median_ms": milliseconds, "ratio_to_dense": milliseconds / 100.0})

    def hps(*values: float) -> Measurement:
        return measured("hps", dict(zip(HPS_KEYS, values, strict=True)), scored=8)

    return (
        make_record("dense", "FLUX-Shapes", hps(28.5, 27.5, 28.0, 28.25, 28.0625), latency(100.0)),
        make_record("fastflux-10", "FastFLUX-10%", hps(29.0, 27.0, 27.5, 28.251, 27.9), latency(91.0), blocks=5),
        make_record("fastflux-30", "FastFLUX-30%", hps(25.0, 24.0, 25.0, 26.0, 25.0), latency(73.0), blocks=16),
        make_record("l1-12", "FLUX-Pruning-12%", hps(28.0, 27.0, 27.75, 28.0, 27.7), latency(92.0)),
        make_record("l1-27", "FLUX-Pruning-27%", Measurement.failed(INFOS["hps"], "scorer weights missing"), latency(82.0)),
    )
