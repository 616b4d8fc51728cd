"""Colors of detected objects by CLIP, as GenEval names them: zero-shot over 10 colors with averaged templates."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from bench.metrics.detection import Detection
from bench.metrics.models.open_clip_model import OpenClipModel
from bench.records.results import JSON
from bench.samples.geneval_vocabulary import COLORS
from bench.samples.image_set import Pixels
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
        self,
        model: OpenClipModel,
        templates: Sequence[str] = GENEVAL_TEMPLATES,
        colors: Sequence[str] = COLORS,
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
