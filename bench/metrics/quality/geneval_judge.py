"""GenEval's rules: whether the objects found in an image are those its prompt asks for; CLIP on their colors.

Rules from djghosh13/geneval, evaluation/evaluate_images.py at 16f1681, with its default options; written anew.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from bench.metrics.detection import Detection
from bench.metrics.models.open_clip_model import OpenClipModel
from bench.records.results import JSON
from bench.samples.image_set import Pixels
from bench.samples.prompts import COLORS
from fastflux.errors import FastFluxError

GENEVAL_TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)
BACKGROUND = 0x99
"""GenEval's grey, #999."""


class ClipColorClassifier:
    """Names colors of objects (`geneval_judge.ColorClassifier`).

    Args:
        model: the CLIP model; GenEval's is ("ViT-L-14-quickgelu", "openai").
        templates: texts with ``{color}`` and ``{name}`` (the class); a model of few words needs its own.
        colors: the colors to choose from.

    Raises:
        FastFluxError: no templates, or one without ``{color}``.
    """

    def __init__(
        self, model: OpenClipModel, templates: Sequence[str] = GENEVAL_TEMPLATES, colors: Sequence[str] = COLORS
    ) -> None:
        if not templates or any("{color}" not in template for template in templates):
            raise FastFluxError(f"Color templates are {list(templates)}; expected texts with {{color}} in each.")
        self.model = model
        self.templates = tuple(templates)
        self.colors = tuple(colors)
        self._texts: dict[str, Tensor] = {}

    @property
    def settings(self) -> dict[str, JSON]:
        """All that determines the names."""
        return {**self.model.settings, "templates": list(self.templates), "colors": list(self.colors)}

    def __call__(self, image: Pixels, objects: Sequence[Detection], name: str) -> list[str]:
        """The color of each object of class `name` in a (height, width, 3) uint8 image."""
        if not objects:
            return []
        if name not in self._texts:
            self._texts[name] = self._text_features(name)
        features = self.model.image_features(object_crop(image, found) for found in objects)  # (objects, dim)
        return [self.colors[best] for best in (features @ self._texts[name].T).argmax(dim=-1).tolist()]

    def _text_features(self, name: str) -> Tensor:
        """(colors, dim): the mean over the templates, of length 1."""
        texts = [template.format(color=color, name=name) for color in self.colors for template in self.templates]
        features = self.model.text_features(texts).reshape(len(self.colors), len(self.templates), -1)
        return functional.normalize(features.mean(dim=1), dim=-1)


def object_crop(image: Pixels, found: Detection) -> Pixels:
    """The object's box of the image with all that is outside of its mask in the background grey.

    Raises:
        FastFluxError: the mask has another size than the image.
    """
    height, width = image.shape[:2]
    if found.mask is not None:
        if found.mask.shape != (height, width):
            raise FastFluxError(
                f"A mask of {found.label!r} has shape {found.mask.shape}; expected the image's {(height, width)}."
            )
        image = np.where(found.mask[..., None], image, np.uint8(BACKGROUND))
    x0, y0, x1, y1 = (round(edge) for edge in found.box)
    # A box thinner than a pixel still covers one.
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    x1, y1 = min(max(x1, x0 + 1), width), min(max(y1, y0 + 1), height)
    return np.ascontiguousarray(image[y0:y1, x0:x1])


SCORE_THRESHOLD = 0.3
COUNTING_SCORE_THRESHOLD = 0.9
MAX_OBJECTS = 16
POSITION_MARGIN = 0.1
DIRECTION_THRESHOLD = 0.5
_SMALLEST_OFFSET = 1e-3

ColorClassifier = Callable[[Pixels, Sequence[Detection], str], Sequence[str]]
"""(image, objects of one class, class) -> the color of each object, one of `COLORS`."""


@dataclass(frozen=True)
class Verdict:
    """Whether an image is right, and else why not: one line for each thing that is wrong."""

    correct: bool
    reason: str


def judge(
    image: Pixels, detections: Sequence[Detection], metadata: Mapping[str, Any], classify_colors: ColorClassifier
) -> Verdict:
    """Judge one image.

    Args:
        image: (height, width, 3), only handed on to `classify_colors`.
        detections: all objects found; of equal scores the later one comes first, as in the reference.
        metadata: GenEval's: "tag", "include": [{"class", "count", "color"?, "position"?: [relation, index]}] and
            "exclude"?: [{"class", "count"}]. All of "include" must hold and none of "exclude".

    Raises:
        FastFluxError: metadata that lacks a key, or whose position points at no earlier entry.
    """
    try:
        objects = _kept(detections, counting=metadata["tag"] == "counting")
        faults: list[str] = []
        groups: list[list[Detection] | None] = []
        for wanted in metadata.get("include", ()):
            found = objects.get(wanted["class"], [])[: wanted["count"]]
            fault = _include_fault(image, found, wanted, groups, classify_colors)
            # What is not as asked cannot be the target of a later entry's position.
            groups.append(None if fault else found)
            faults += [fault] if fault else []
        for unwanted in metadata.get("exclude", ()):
            name, limit = unwanted["class"], unwanted["count"]
            if (number := len(objects.get(name, []))) >= limit:
                faults.append(f"expected fewer than {limit} {name}, found {number}")
    except (KeyError, IndexError, TypeError) as error:
        raise FastFluxError(f"GenEval metadata {dict(metadata)!r} is not of GenEval's form: {error!r}.") from error
    return Verdict(not faults, "\n".join(faults))


def relations(box: tuple[float, ...], target: tuple[float, ...]) -> frozenset[str]:
    """How `box` lies relative to `target`: some of "left of", "right of", "above", "below" (y grows downwards).

    The offset of the centres shrinks per axis by 0.1 x the sum of both sizes; what is left, over the length of the
    whole offset, must exceed 0.5. So two relations may hold at once, and boxes too near each other have none.
    """
    offset = [(box[axis] + box[axis + 2] - target[axis] - target[axis + 2]) / 2 for axis in (0, 1)]
    sizes = [abs(box[axis + 2] - box[axis]) + abs(target[axis + 2] - target[axis]) for axis in (0, 1)]
    shrunk = [
        math.copysign(max(abs(distance) - POSITION_MARGIN * size, 0.0), distance)
        for distance, size in zip(offset, sizes, strict=True)
    ]
    if all(abs(distance) < _SMALLEST_OFFSET for distance in shrunk):
        return frozenset()
    x, y = (distance / math.hypot(*offset) for distance in shrunk)
    holds = {
        "left of": x < -DIRECTION_THRESHOLD,
        "right of": x > DIRECTION_THRESHOLD,
        "above": y < -DIRECTION_THRESHOLD,
        "below": y > DIRECTION_THRESHOLD,
    }
    return frozenset(name for name, true in holds.items() if true)


def _kept(detections: Sequence[Detection], *, counting: bool) -> dict[str, list[Detection]]:
    """By class, those above the threshold, best first, at most 16. Overlapping ones stay (no suppression).

    Scores are compared as float32 and sorted as the reference does, which turns numpy's ascending order around.
    """
    threshold = np.float32(COUNTING_SCORE_THRESHOLD if counting else SCORE_THRESHOLD)
    kept: dict[str, list[Detection]] = {}
    for found in detections:
        kept.setdefault(found.label, []).append(found)
    for name, group in kept.items():
        scores = np.array([found.score for found in group], dtype=np.float32)
        order = np.argsort(scores)[::-1]
        kept[name] = [group[index] for index in order[scores[order] > threshold][:MAX_OBJECTS]]
    return kept


def _include_fault(
    image: Pixels,
    found: Sequence[Detection],
    wanted: Mapping[str, Any],
    groups: Sequence[Sequence[Detection] | None],
    classify_colors: ColorClassifier,
) -> str:
    """What is wrong with the objects found for one entry of "include"; "" if nothing."""
    name, count = wanted["class"], wanted["count"]
    if len(found) < count:
        return f"expected {count} {name}, found {len(found)}"
    if (color := wanted.get("color")) is not None:
        colors = list(classify_colors(image, found, name))
        if colors.count(color) < count:
            return f"expected {count} {color} {name}, found {', '.join(colors)}"
    if (position := wanted.get("position")) is not None:
        relation, index = position
        targets = groups[index]
        if targets is None:
            return f"no target for {name} to be {relation}"
        for one in found:
            for target in targets:
                if relation not in (held := relations(one.box, target.box)):
                    return f"expected {name} {relation} {target.label}, found {' and '.join(sorted(held)) or 'neither'}"
    return ""
