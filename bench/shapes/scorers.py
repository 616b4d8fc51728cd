"""The scorers of the shapes profile: the metric classes of the real benchmarks on the small models trained here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from bench.metrics.base import Metric
from bench.metrics.models.open_clip_model import OpenClipSpec, load_open_clip
from bench.metrics.quality.clip_score import ClipScore
from bench.metrics.quality.color_classifier import ClipColorClassifier
from bench.metrics.quality.fid import FID
from bench.metrics.quality.geneval import GenEval, known_images_test
from bench.metrics.quality.hps import HPS
from bench.metrics.quality.paired import Paired
from bench.samples.image_set import ImageSet, Pixels
from bench.shapes import WEIGHTS
from bench.shapes.detector import ShapesDetector
from bench.shapes.vocabulary import SHAPES
from bench.shapes.world import Scenes, render, sample_scenes

NOTE = "FLUX-Shapes scorer trained in this repository; not comparable with {} of FLUX.1-dev"
#: GenEval's templates in words that the small CLIP knows.
TEMPLATES = ("a photo of a {color} {name}", "an anime of a {color} {name}", "a painting of a {color} {name}")
REFERENCE_IMAGES = 1024
SELF_TEST_IMAGES = 16


def pixels_of(scenes: Scenes) -> list[Pixels]:
    """Renders as (64, 64, 3) uint8 arrays."""
    parts = [render(scenes[start : start + 256]) for start in range(0, len(scenes), 256)]
    return [image for part in parts for image in to_pixels(part)]


def to_pixels(images: Tensor) -> list[Pixels]:
    """uint8 images (n, 3, h, w) as (h, w, 3) arrays."""
    return [np.ascontiguousarray(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()]


def counts_of(scenes: Scenes) -> list[dict[str, int]]:
    """Objects by class of every scene."""
    rows = [[SHAPES[shape] for shape in row if shape >= 0] for row in scenes.shapes]
    return [{name: row.count(name) for name in row} for row in rows]


def shapes_geneval(weights: Path = WEIGHTS, device: str = "cpu") -> GenEval:
    """GenEval's judge over the shapes detector and the small CLIP's colours, with a self-test on known renders."""
    colors = ClipColorClassifier(load_open_clip(OpenClipSpec(f"local-dir:{weights / 'clip'}"), device), TEMPLATES)
    known = sample_scenes(SELF_TEST_IMAGES, 77, "calibration")
    return GenEval(
        ShapesDetector.load(weights / "detector", device),
        colors,
        self_test=known_images_test(list(zip(pixels_of(known), counts_of(known), strict=True))),
        reference=NOTE.format("GenEval"),
        settings=colors.settings,
    )


def shapes_paired(reference: ImageSet, device: str = "cpu", weights: Path = WEIGHTS) -> Paired:
    """Paired metrics against the dense model's images, with the small CLIP's image features."""
    label = "paired with the dense model, CLIP similarity by " + NOTE.format("CLIP similarity")
    return Paired(reference, f"local-dir:{weights / 'clip'}", label=label, device=device)


def shapes_scorers(device: str = "cpu", weights: Path = WEIGHTS) -> tuple[Metric, ...]:
    """All image metrics of the profile, their models loaded once."""
    reference = pixels_of(sample_scenes(REFERENCE_IMAGES, 78, "evaluation"))
    clip = f"local-dir:{weights / 'clip'}"
    return (
        HPS(f"local-dir:{weights / 'hps'}", reference=NOTE.format("HPS v2"), device=device),
        shapes_geneval(weights, device),
        ClipScore(clip, reference=NOTE.format("the CLIP score"), device=device),
        FID(clip, reference_images=reference, reference=NOTE.format("FID"), device=device),
    )
