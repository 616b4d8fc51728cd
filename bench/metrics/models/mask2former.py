"""Mask2Former of transformers as a detector, images and logits handled as mmdet does for GenEval's own.

Rules from open-mmlab/mmdetection 2.x, written anew: configs/mask2former/mask2former_r50_lsj_8x2_50e_coco.py (the test
pipeline: short edge 800, long edge 1333 at most, padding to multiples of 32) and maskformer_fusion_head.py
(`instance_postprocess`: the 100 best pairs of query and class, scored by class x mean mask probability).
The public weights are Facebook's own, not those that GenEval's detector has: scores with them are a variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.metrics.detection import Detection, DetectorError
from bench.records.environment import sha256_of
from bench.records.results import JSON
from bench.samples.image_set import Pixels
from bench.samples.prompts import COCO_CLASSES
from fastflux.errors import FastFluxError, first_sentence

PUBLIC_WEIGHTS = "facebook/mask2former-swin-small-coco-instance"
SHORT_EDGE, LONG_EDGE = 800, 1333
DIVISOR = 32
PADDING = 128
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
MAX_PER_IMAGE = 100
#: What is reported at all; the judge applies its own, higher thresholds.
MIN_SCORE = 0.05

#: Classes that all lists of COCO's names spell alike, by number: another order would judge everything wrongly.
_LANDMARKS = {0: "person", 2: "car", 16: "dog", 53: "pizza", 73: "book", 79: "toothbrush"}
#: Parts without a say in the logits, which a checkpoint may lack: the loss, and Swin's norm behind the last stage.
_UNUSED = ("criterion.", "model.pixel_level_module.encoder.swin.layernorm.")


class Mask2FormerDetector:
    """A loaded `Mask2FormerForUniversalSegmentation`; see `bench.metrics.detection.Detector`.

    Args:
        model: gives logits of COCO's classes and of no object, and of masks at a quarter of the image's size.
        source: what determines its weights, for the settings.

    Raises:
        FastFluxError: it has another number of classes, or other ones in COCO's places.
    """

    classes = COCO_CLASSES

    def __init__(self, model: Any, *, device: str = "cpu", source: Mapping[str, JSON] | None = None) -> None:
        if (found := int(model.config.num_labels)) != len(COCO_CLASSES):
            raise FastFluxError(
                f"The Mask2Former has {found} classes; expected {len(COCO_CLASSES)}: take one for COCO."
            )
        _require_coco_order(model.config.id2label)
        self.model = model.to(device).eval().requires_grad_(requires_grad=False)
        self.device = device
        self._source = dict(source or {})

    @classmethod
    def load(cls, weights: str | Path = PUBLIC_WEIGHTS, device: str = "cpu") -> Mask2FormerDetector:
        """Read a folder in transformers' format, or a hub id (from its cache where the hub is out of reach).

        Raises:
            FastFluxError: weights that are not there, incomplete or not a Mask2Former for COCO.
        """
        from transformers import Mask2FormerForUniversalSegmentation

        try:
            model, info = Mask2FormerForUniversalSegmentation.from_pretrained(
                str(weights),
                output_loading_info=True,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
            )
        except Exception as error:
            first = first_sentence(error)
            raise FastFluxError(
                f"cannot load a Mask2Former from {str(weights)!r} ({first}); give a folder with config.json and "
                "model.safetensors, or a hub id that can be fetched or has been"
            ) from error
        lacking = [key for key in info["missing_keys"] if not key.startswith(_UNUSED)]
        if lacking or info["mismatched_keys"]:
            wrong = sorted(map(str, [*lacking, *info["mismatched_keys"]]))
            raise FastFluxError(
                f"{len(wrong)} weights of {str(weights)!r} are missing or of another size (e.g. {wrong[0]}) and would "
                "be random; give the whole checkpoint of a Mask2Former"
            )
        return cls(model, device=device, source=_source_of(weights, model))

    @property
    def settings(self) -> dict[str, JSON]:
        """All that determines the detections."""
        return {
            "detector": "Mask2Former (transformers)",
            **self._source,
            "short_edge": SHORT_EDGE,
            "long_edge": LONG_EDGE,
            "resized_by": "bilinear, no antialias",
            "max_per_image": MAX_PER_IMAGE,
        }

    def __call__(self, images: Sequence[Pixels]) -> list[list[Detection]]:
        """Detections of each (height, width, 3) uint8 image, one image at a time, as GenEval runs its own.

        Raises:
            DetectorError: logits that are not finite.
        """
        return [self._found(image) for image in images]

    @torch.inference_mode()
    def _found(self, image: Pixels) -> list[Detection]:
        pixels, resized = model_input(image)
        output = self.model(pixel_values=pixels.to(self.device, self.model.dtype))
        classes, masks = output.class_queries_logits[0].float(), output.masks_queries_logits[0].float()
        if not (torch.isfinite(classes).all() and torch.isfinite(masks).all()):
            raise DetectorError(
                "The Mask2Former gives logits that are not finite; check its weights and the precision."
            )
        padded, size = (pixels.shape[-2], pixels.shape[-1]), (image.shape[0], image.shape[1])
        return instances(classes, masks, padded, resized, size, self.classes)


def resized_size(height: int, width: int) -> tuple[int, int]:
    """Height and width with the short edge at 800, or the long one at 1333 where it would be longer."""
    factor = min(SHORT_EDGE / min(height, width), LONG_EDGE / max(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def model_input(image: Pixels) -> tuple[Tensor, tuple[int, int]]:
    """A (height, width, 3) uint8 image as the model sees it, (1, 3, h, w) float32, and its size within the padding."""
    size = resized_size(*image.shape[:2])
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    # To whole levels, as an image of bytes is resized; without antialias, as OpenCV does it.
    pixels = functional.interpolate(pixels, size, mode="bilinear", align_corners=False).round()
    bottom, right = (-edge % DIVISOR for edge in size)
    pixels = functional.pad(pixels, (0, right, 0, bottom), value=PADDING)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels - mean) / std, size


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded: tuple[int, int],
    resized: tuple[int, int],
    size: tuple[int, int],
    names: Sequence[str],
) -> list[Detection]:
    """The detections behind one image's logits, best class first.

    Args:
        class_logits: (queries, classes + 1), the last of them "no object".
        mask_logits: (queries, h, w) over the padded input.
        padded, resized, size: (height, width) of the model's input, of the image in it, and of the image itself.
        names: of the classes.
    """
    probabilities = class_logits.softmax(dim=-1)[:, :-1]  # (queries, classes)
    best, pairs = probabilities.flatten().topk(min(MAX_PER_IMAGE, probabilities.numel()))
    pairs = pairs[best > MIN_SCORE]  # the mask's part of the score is 1 at most
    queries, place = (pairs // len(names)).unique(return_inverse=True)
    if not len(queries):
        return []
    upsampled = functional.interpolate(mask_logits[queries][None], padded, mode="bilinear", align_corners=False)
    cropped = upsampled[..., : resized[0], : resized[1]]
    logits = functional.interpolate(cropped, size, mode="bilinear", align_corners=False)[0]  # (queries, height, width)
    masks = logits > 0
    area = masks.sum(dim=(1, 2))
    certainty = (logits.sigmoid() * masks).sum(dim=(1, 2)) / (area + 1e-6)
    scores = probabilities.flatten()[pairs] * certainty[place]
    outlines = masks.cpu().numpy()
    found = []
    for pair, query, score in zip(pairs.tolist(), place.tolist(), scores.tolist(), strict=True):
        if score > MIN_SCORE:
            found.append(Detection(names[pair % len(names)], score, _box_of(outlines[query]), outlines[query]))
    return found


def _box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The box around a mask with at least one pixel, its right and lower edge behind the last one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _require_coco_order(names: Mapping[int, str]) -> None:
    for number, expected in _LANDMARKS.items():
        name = str(names[number])
        if name not in {expected, f"LABEL_{number}"}:
            raise FastFluxError(
                f"The Mask2Former's class {number} is {name!r}; expected {expected!r}: take one with COCO's 80 classes."
            )


def _source_of(weights: str | Path, model: Any) -> dict[str, JSON]:
    """The weights without paths of this machine: a folder by its name and hash, a hub id by its commit."""
    if Path(weights).is_dir():
        return {"weights": Path(weights).name, "weights_sha256": sha256_of(Path(weights))}
    return {"weights": str(weights), "weights_revision": getattr(model.config, "_commit_hash", None)}
