"""Renders of FLUX-Shapes as metrics take them: with known objects, and as reference images."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from bench.metrics.detection import KnownImage
from bench.samples.image_set import Pixels
from bench.shapes.vocabulary import SHAPES
from bench.shapes.world import Scenes, render, sample_scenes

REFERENCE_IMAGES = 1024
KNOWN_IMAGES = 16


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


def known_images() -> list[KnownImage]:
    """Renders that a detector is tried on, with their numbers of objects."""
    scenes = sample_scenes(KNOWN_IMAGES, 77, "calibration")
    return list(zip(pixels_of(scenes), counts_of(scenes), strict=True))


def reference_images() -> list[Pixels]:
    """Renders that FID compares with."""
    return pixels_of(sample_scenes(REFERENCE_IMAGES, 78, "evaluation"))
