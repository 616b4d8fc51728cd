"""Calibration data from the model itself: the states it meets while sampling given prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from fastflux.errors import FastFluxError

MAX_TEXT_TOKENS = 512  # FluxPipeline's limit


class CalibrationRun(Protocol):
    """Runs a transformer on calibration data, and says on what."""

    @property
    def source(self) -> str:
        """What it runs on, in words."""

    @property
    def guidance(self) -> float:
        """The guidance scale."""

    @property
    def seed(self) -> int:
        """Of the noise."""

    def __call__(self, advance: Callable[[int], object] = ...) -> None:
        """Run it; ``advance`` is told the number of prompts or pictures done after each batch."""


@dataclass(frozen=True)
class Trajectories:
    """Samples every prompt once with a FLUX pipeline, for `collect_statistics`; no image is decoded.

    Noise is drawn per prompt from ``seed`` plus its index, so batching does not change it. ``height`` and ``width`` (in
    pixels) default to the VAE's sample size, ``text_tokens`` to the T5 tokenizer's maximum; ``FastFluxError`` for sizes
    that FLUX cannot draw.
    """

    pipeline: Any
    prompts: Sequence[str]
    steps: int = 20
    guidance: float = 3.5
    batch_size: int = 1
    height: int | None = None
    width: int | None = None
    text_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_sizes(self.pipeline, self.height, self.width, self.text_tokens)

    @property
    def source(self) -> str:
        """What the calibration ran on, in words."""
        return f"the base model's own sampling of {len(self.prompts)} prompts: {self.steps} steps"

    def __call__(self, advance: Callable[[int], object] = lambda _done: None) -> None:
        """Run all prompts; ``advance`` is told the number done after each batch."""
        sizes = drawing_sizes(self.pipeline, self.height, self.width, self.text_tokens)
        self.pipeline.set_progress_bar_config(disable=True)
        for start in range(0, len(self.prompts), self.batch_size):
            prompts = list(self.prompts[start : start + self.batch_size])
            self.pipeline(
                prompts,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                **sizes,
                generator=[torch.Generator().manual_seed(self.seed + start + i) for i in range(len(prompts))],
                output_type="latent",
            )
            advance(len(prompts))


def require_sizes(pipeline: Any, height: int | None, width: int | None, text_tokens: int | None) -> None:
    """Raise ``FastFluxError`` for sizes, in pixels and T5 tokens, that the pipeline cannot draw."""
    if text_tokens is not None and not 1 <= text_tokens <= MAX_TEXT_TOKENS:
        raise FastFluxError(f"{text_tokens} text tokens are asked for: FLUX takes 1 to {MAX_TEXT_TOKENS}.")
    pixels = 2 * pipeline.vae_scale_factor
    for name, size in (("height", height), ("width", width)):
        if size is not None and (size < pixels or size % pixels):
            raise FastFluxError(f"The {name} is {size} pixels, but it must be a multiple of {pixels}.")


def drawing_sizes(pipeline: Any, height: int | None, width: int | None, text_tokens: int | None) -> dict[str, int]:
    """A pipeline call's sizes: the VAE's sample size and the T5 tokenizer's maximum where nothing is asked for."""
    size = pipeline.vae.config.sample_size
    return {
        "height": height or size,
        "width": width or size,
        "max_sequence_length": text_tokens or min(MAX_TEXT_TOKENS, pipeline.tokenizer_2.model_max_length),
    }
