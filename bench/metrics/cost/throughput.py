"""Images a second of HPS v2: one model and batches here, against one checkpoint load and one image at a time.

``python -m bench.metrics.cost.throughput HPS_v2_compressed.pt`` measures both in one run, in turn. The other way is
that of `hpsv2.score` (https://github.com/tgxs002/HPSv2, `hpsv2/img_score.py`, commit 866735e): the model is built
once, and every call loads the checkpoint into it and scores one image.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from bench.metrics.models.open_clip_model import OpenClipModel
from bench.metrics.quality.hps import HPS, HPS_FILES, HPSSettings
from bench.progress import console
from bench.samples.image_set import Pixels
from bench.settings import Place, PlaceOrName
from fastflux.errors import FastFluxError


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
        checkpoint: HPS v2's, or another with the key ``state_dict``.
        images, singles: how many images a round scores in batches, and how many one by one.

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both speeds and their ratio."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.metrics.cost.throughput",
        description="Images a second of HPS v2, in batches and one by one.",
    )
    parser.add_argument("checkpoint", type=Path, help="HPS_v2_compressed.pt or HPS_v2.1_compressed.pt")
    parser.add_argument("--architecture", default="ViT-H-14", help="open_clip's name of the model in it")
    parser.add_argument("--images", type=int, default=32, help="images a round, in batches (32)")
    parser.add_argument("--singles", type=int, default=4, help="images a round, one by one (4)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both, in turn (3)")
    parser.add_argument("--size", type=int, default=512, help="side of the images in pixels (512)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    options = parser.parse_args(arguments)
    try:
        found = measure_throughput(**vars(options))
    except FastFluxError as error:
        parser.exit(2, f"error: {error}\n")
    console.print(f"batched, loaded once: {found.batched:.2f} images/s")
    console.print(f"one by one, reloaded: {found.reloading:.2f} images/s")
    console.print(f"ratio: {found.ratio:.1f}, largest difference of two scores: {found.difference:.1e}")


if __name__ == "__main__":
    main()
