"""What a detector gives, and what a detector is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bench.samples.image_set import Pixels
from fastflux.errors import FastFluxError
from fastflux.pictures import open_picture

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


COUNTS = "counts.json"
KnownImage = tuple[Pixels, Mapping[str, int]]
"""Pixels, and the number of objects by class."""


def read_known_images(folder: Path, classes: tuple[str, ...]) -> list[KnownImage]:
    """The images that `folder`/counts.json names, with their numbers of objects by class.

    The file reads ``{"street.jpg": {"car": 2, "person": 1}, ...}``; 0 says that there is none of a class. Classes it
    does not name are not counted. Any format that PIL reads will do.

    Raises:
        FastFluxError: no such file, one of another form, a class that is none of `classes`, or an unreadable image.
    """
    path = folder / COUNTS
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FastFluxError(f'{path} cannot be read ({error}); write {{"image.jpg": {{"dog": 1}}}} into it.') from error
    if not isinstance(known, dict) or not known or not all(isinstance(counts, dict) for counts in known.values()):
        raise FastFluxError(f'{path} is not of the form {{"image.jpg": {{"dog": 1}}}} with at least one image.')
    for name, counts in known.items():
        if unknown := sorted(counts.keys() - set(classes)):
            raise FastFluxError(f"{path}: {name} counts {unknown}, which the detector does not know.")
        if not any(counts.values()) or not all(type(count) is int and count >= 0 for count in counts.values()):
            raise FastFluxError(f"{path}: {name} has the numbers {counts}; expected whole ones, at least one above 0.")
    if outside := [name for name in known if not (folder / name).resolve().is_relative_to(folder.resolve())]:
        raise FastFluxError(f"{path} names {outside[0]!r} outside of its folder; expected images in it.")
    return [(np.array(open_picture(folder / name)), counts) for name, counts in known.items()]
