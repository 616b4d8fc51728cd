"""What a detector gives, and what a detector is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bench.samples.image_set import Pixels
from fastflux.errors import FastFluxError

Mask = npt.NDArray[np.bool_]
"""(height, width) of the image."""


@dataclass(frozen=True, eq=False)
class Detection:
    """One object: class name, score in 0..1, box (x0, y0, x1, y1) in pixels and, if the detector has it, its mask."""

    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: Mask | None = None


DETECTORS = {
    "mask2former": "bench.metrics.models.mask2former:Mask2FormerDetector",
    "shapes": "bench.shapes.detector:ShapesDetector",
}
"""Kinds of detectors by name: classes with ``load(weights, device)`` and `settings`."""


class DetectorError(FastFluxError):
    """A detector whose output cannot be read: nothing can be judged by it."""


class Detector(Protocol):
    """Finds objects in images."""

    def __call__(self, images: Sequence[Pixels]) -> list[list[Detection]]:
        """The objects of each (height, width, 3) uint8 image, of all scores: the judge applies its thresholds.

        Raises:
            DetectorError: what the model gives is no detection, such as scores that are not finite.
        """
        ...
