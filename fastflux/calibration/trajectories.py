"""What runs a transformer on calibration data, and such data from the model itself: the states of its sampling."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from fastflux.models.sizes import require_sizes, sampling_arguments

Datum = TypeVar("Datum")


@dataclass(frozen=True)
class CalibrationRun(ABC, Generic[Datum]):
    """Runs a transformer on calibration data, for `collect_statistics`, and says on what.

    ``steps`` states of each of the ``data`` are met, ``batch_size`` at once. Noise is drawn for each from ``seed`` plus
    its index, so batching does not change it. ``height`` and ``width`` (in pixels) default to the VAE's sample size,
    ``text_tokens`` to the T5 tokenizer's maximum. ``FastFluxError`` for sizes that the pipeline cannot draw.
    """

    pipeline: Any
    data: Sequence[Datum]
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
    @abstractmethod
    def source(self) -> str:
        """What it runs on, in words."""

    @abstractmethod
    def contents(self) -> list[object]:
        """All of the data, as `fastflux.calibration.fingerprints.fingerprint` takes them: files as paths."""

    @abstractmethod
    def __call__(self, advance: Callable[[int], object] = lambda _done: None) -> None:
        """Run all data; ``advance`` is told the number done after each batch."""


class Trajectories(CalibrationRun[str]):
    """Samples every prompt of ``data`` once with a pipeline, as `CalibrationRun` says; no image is decoded.

    Under classifier-free guidance (SD3 at a guidance above 1) each step runs every prompt and the empty one.

    Example:
        >>> pipeline = fastflux.load_pipeline(folder)
        >>> trajectories = fastflux.Trajectories(pipeline, ["a red star", "a ring"], steps=4, batch_size=2)
        >>> statistics = fastflux.collect_statistics(pipeline.transformer, trajectories)
        >>> len(statistics)  # blocks
        6
    """

    @property
    def source(self) -> str:
        """What the calibration ran on, in words."""
        return f"the base model's own sampling of {len(self.data)} prompts: {self.steps} steps"

    def contents(self) -> list[object]:
        """The prompts."""
        return list(self.data)

    def __call__(self, advance: Callable[[int], object] = lambda _done: None) -> None:
        """Run all prompts; ``advance`` is told the number done after each batch."""
        for latents in self._sampled():
            advance(len(latents))

    def ends(self) -> Tensor:
        """The latents (prompts, ...) that sampling ends with, as the pipeline packs them, on the CPU."""
        return torch.cat([latents.float().cpu() for latents in self._sampled()])

    def some(self, count: int) -> "Trajectories":
        """``count`` of the prompts, from all over them; all where there are no more."""
        every = len(self.data)
        few = min(count, every)
        chosen = [self.data[i * every // few] for i in range(few)]
        return replace(self, data=chosen)  # type: ignore[arg-type]  # mypy takes the parameter for unbound

    def _sampled(self) -> Iterator[Tensor]:
        """The latents of batch after batch."""
        self.pipeline.set_progress_bar_config(disable=True)
        for start in range(0, len(self.data), self.batch_size):
            prompts = list(self.data[start : start + self.batch_size])
            yield self.pipeline(
                **sampling_arguments(
                    self.pipeline,
                    prompts,
                    guidance=self.guidance,
                    height=self.height,
                    width=self.width,
                    text_tokens=self.text_tokens,
                ),
                num_inference_steps=self.steps,
                generator=[torch.Generator().manual_seed(self.seed + start + i) for i in range(len(prompts))],
                output_type="latent",
            ).images
