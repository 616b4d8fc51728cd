"""From prompts to pictures: calls of a whole pipeline, and their latency."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import nn

from bench.metrics.catalogue import metric_named
from bench.metrics.cost.latency import Timing, measure_latency, with_value
from bench.records.results import JSON, Measurement
from fastflux.errors import FastFluxError
from fastflux.models.sizes import drawing_sizes, require_sizes

LATENCY_END_TO_END = metric_named("latency_end_to_end").info


@dataclass(frozen=True)
class PipelineCall:
    """One picture for each prompt, drawn by `pipeline` with `transformer` in its place; calling it draws them.

    Variants may share a pipeline, which has its own transformer back after each call. Picture i is drawn from seed
    `seed` + i.

    Args:
        height, width: pixels; the VAE's sample size by default.

    Raises:
        FastFluxError: no prompts, no steps, or a size that the pipeline cannot draw.
    """

    pipeline: Any
    transformer: nn.Module
    prompts: tuple[str, ...]
    steps: int
    guidance: float
    height: int | None = None
    width: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.prompts or self.steps < 1:
            raise FastFluxError(
                f"{len(self.prompts)} prompts and {self.steps} steps are asked for; expected at least 1 of each."
            )
        require_sizes(self.pipeline, self.height, self.width, None)

    def __call__(self) -> Any:
        """The pictures."""
        before = self.pipeline.transformer
        sizes = drawing_sizes(self.pipeline, self.height, self.width)
        self.pipeline.transformer = self.transformer
        try:
            drawn = self.pipeline(
                prompt=list(self.prompts),
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                **sizes,
                generator=[torch.Generator().manual_seed(self.seed + i) for i in range(len(self.prompts))],
                output_type="pil",
            )
        finally:
            self.pipeline.transformer = before
        return drawn.images

    def describe(self) -> dict[str, JSON]:
        """What determines its time besides the transformer, for the settings of a measurement."""
        parameter = next(self.transformer.parameters())
        return {
            "batch": len(self.prompts),
            "steps": self.steps,
            "guidance": self.guidance,
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            **drawing_sizes(self.pipeline, self.height, self.width),
        }


def measure_end_to_end(calls: Mapping[str, PipelineCall], **timing: Unpack[Timing]) -> dict[str, Measurement]:
    """Time whole pipeline calls as `measure_latency` times steps, all variants in turn.

    Args:
        calls: by variant; alike but for their pipelines and transformers.
        timing: options of `measure_latency`.

    Returns:
        Values of `measure_latency` and "per_image_ms". Failed, with the reason, for a variant whose call raises a
        RuntimeError.

    Raises:
        FastFluxError: calls that differ in prompts, steps, sizes or number format, or as `measure_latency`.
    """
    baseline = timing.get("baseline", "dense")
    if baseline in calls:
        for name, call in calls.items():
            _require_alike(name, call, baseline, calls[baseline])
    settings: dict[str, JSON] = {**(timing.get("settings") or {}), "compiled": False}
    for call in calls.values():
        settings |= call.describe()
    timing["settings"] = settings
    found = measure_latency(calls, info=LATENCY_END_TO_END, **timing)
    return {
        name: with_value(one, "per_image_ms", one.values.get("median_ms", 0) / len(calls[name].prompts))
        for name, one in found.items()
    }


def _require_alike(name: str, call: PipelineCall, baseline: str, dense: PipelineCall) -> None:
    own, other = call.describe(), dense.describe()
    differing = [key for key in own if own[key] != other[key]]
    if differing or call.prompts != dense.prompts:
        what = ", ".join(differing) or "prompts"
        raise FastFluxError(f"The calls of {name!r} and {baseline!r} differ in {what}; only transformers may differ.")
