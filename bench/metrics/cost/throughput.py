"""Images a second of HPS v2: one model and batches here, against one checkpoint load and one image at a time.

``python -m bench.metrics.cost.throughput HPS_v2_compressed.pt`` measures both in one run, in turn. The other way is
that of `hpsv2.score` (https://github.com/tgxs002/HPSv2, `hpsv2/img_score.py`, commit 866735e): the model is built
once, and every call loads the checkpoint into it and scores one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from cyclopts import App

from bench.metrics.models.open_clip_model import OpenClipModel
from bench.metrics.quality.hps import HPS, HPS_FILES, HPSSettings
from bench.progress import console
from bench.samples.image_set import Pixels
from bench.settings import Place, PlaceOrName
from fastflux.command_line import run
from fastflux.errors import FastFluxError

app = App(name="python -m bench.metrics.cost.throughput")


@dataclass(frozen=True)
class Throughput:
    """Images a second, medians over the rounds, and the largest difference of two raw cosines."""

    batched: float
    reloading: float
    difference: float

    @property
    def ratio(self) -> float:
        """How many times as fast the batches are."""
        return self.batched / self.reloading

    def __str__(self) -> str:
        return (
            f"batched, loaded once: {self.batched:.2f} images/s\n"
            f"one by one, reloaded: {self.reloading:.2f} images/s\n"
            f"ratio: {self.ratio:.1f}, largest difference of two scores: {self.difference:.1e}"
        )


def batched_scores(model: OpenClipModel, images: Sequence[Pixels], prompts: Sequence[str]) -> list[float]:
    """Cosine of each image with its prompt, by batches."""
    scores: list[float] = (model.image_features(images) * model.text_features(prompts)).sum(dim=-1).tolist()
    return scores


def reloading_score(model: OpenClipModel, checkpoint: Path, image: Pixels, prompt: str) -> float:
    """Cosine of one image with its prompt, loading the checkpoint first."""
    network: Any = model._model  # noqa: SLF001  # what is timed is what the model itself does once
    network.load_state_dict(torch.load(checkpoint, map_location=model.device, weights_only=True)["state_dict"])
    return batched_scores(model, [image], [prompt])[0]


def measure_throughput(
    checkpoint: Path,
    *,
    architecture: str = "ViT-H-14",
    images: int = 32,
    singles: int = 4,
    rounds: int = 3,
    size: int = 512,
    device: str = "cpu",
    batch_size: int = 32,
) -> Throughput:
    """Time both ways on the same random images of `size` pixels, in turn for `rounds` rounds.

    Args:
        checkpoint: HPS_v2_compressed.pt, HPS_v2.1_compressed.pt, or another with the key ``state_dict``.
        architecture: open_clip's name of the model in it.
        images: how many images a round scores in batches.
        singles: how many one by one.
        rounds: of both, in turn.
        size: side of the images in pixels.
        device: cpu or cuda.
        batch_size: images of a batch.

    Raises:
        FastFluxError: fewer than 1 image, or what `HPS.load` raises.
    """
    if not 1 <= singles <= images or rounds < 1:
        raise FastFluxError(
            f"{images} images, {singles} of them one by one, in {rounds} rounds cannot be timed; expected 1 or more, "
            "and no more one by one than in batches."
        )
    version: Any = next((version for version, file in HPS_FILES.items() if file == checkpoint.name), "v2.0")
    settings = HPSSettings(PlaceOrName(architecture), Place(checkpoint), version, batch_size=batch_size)
    model = HPS.load(settings, device).model
    generator = np.random.default_rng(0)
    pixels: list[Pixels] = list(generator.integers(0, 256, (images, size, size, 3), dtype=np.uint8))
    prompts = [f"a photo of {number} stars" for number in range(images)]
    batched_scores(model, pixels[:1], prompts[:1])  # warm
    fast, slow, difference = [], [], 0.0
    for _ in range(rounds):
        began = perf_counter()
        ours = batched_scores(model, pixels, prompts)
        middle = perf_counter()
        theirs = [
            reloading_score(model, checkpoint, image, prompt)
            for image, prompt in zip(pixels[:singles], prompts, strict=False)
        ]
        fast.append(images / (middle - began))
        slow.append(singles / (perf_counter() - middle))
        difference = max(difference, *(abs(a - b) for a, b in zip(theirs, ours, strict=False)))
    return Throughput(median(fast), median(slow), difference)


@app.default
@wraps(measure_throughput)
def main(*arguments: Any, **options: Any) -> None:  # noqa: D103  # the function's own help
    console.print(str(measure_throughput(*arguments, **options)))


if __name__ == "__main__":
    raise SystemExit(run(app))
