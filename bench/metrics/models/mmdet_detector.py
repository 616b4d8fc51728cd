"""GenEval's own detector: a model of mmdet 2.x, run as GenEval's evaluator runs it.

mmdet is no dependency (it needs mmcv built for one torch and one CUDA); it is imported when a detector is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bench.metrics.detection import Detection, DetectorError
from bench.records.environment import sha256_of
from bench.records.results import JSON
from bench.samples.geneval_vocabulary import COCO_CLASSES
from bench.samples.image_set import Pixels
from fastflux.errors import FastFluxError

REFERENCE_SHA256 = "743b7d99"
"""Begin of the SHA-256 of the weights that GenEval's download script fetches; mmdet writes it into the file's name."""


class MMDetDetector:
    """A model of mmdet 2.x for COCO; see `bench.metrics.detection.Detector`.

    Args:
        config: its configuration; GenEval's is mmdet's ``mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py``.
        checkpoint: its weights.
        device: a torch device. mmcv without kernels for it finds little and says nothing: test on known images.

    Raises:
        FastFluxError: a file that is missing, mmdet that is not installed, or files that it cannot load.
    """

    def __init__(self, config: Path, checkpoint: Path, device: str = "cpu") -> None:
        for path in (config, checkpoint):
            if not path.is_file():
                raise FastFluxError(f"{path} is no file; give mmdet's configuration and the checkpoint to it.")
        try:
            api: Any = import_module("mmdet.apis")
        except ImportError as error:
            raise FastFluxError(
                f"mmdet cannot be imported ({error}); install mmdet 2.x with mmcv-full 1.x for this torch and CUDA, "
                "or take the detector 'mask2former', or give the results of GenEval's own evaluator."
            ) from error
        try:
            self._model = api.init_detector(str(config), str(checkpoint), device=device)
        except Exception as error:
            raise FastFluxError(f"mmdet cannot load {checkpoint} with {config}: {error}") from error
        self._infer = api.inference_detector
        self.checkpoint_sha256 = sha256_of(checkpoint)
        self._names = config.name, checkpoint.name

    @property
    def is_reference(self) -> bool:
        """Whether the weights are those that GenEval's scores are made with."""
        return self.checkpoint_sha256.startswith(REFERENCE_SHA256)

    @property
    def settings(self) -> dict[str, JSON]:
        """All that determines the detections."""
        config, checkpoint = self._names
        return {
            "detector": "mmdet",
            "config": config,
            "weights": checkpoint,
            "weights_sha256": self.checkpoint_sha256,
            "reference_weights": self.is_reference,
        }

    def __call__(self, images: Sequence[Pixels]) -> list[list[Detection]]:
        """Detections of each (height, width, 3) uint8 image, one image at a time.

        Raises:
            DetectorError: mmdet gives something else than version 2's lists by class.
        """
        # mmdet takes arrays in OpenCV's order, BGR.
        return [read_result(self._infer(self._model, np.ascontiguousarray(image[..., ::-1]))) for image in images]


def read_result(result: Any) -> list[Detection]:
    """Detections of what mmdet 2.x gives for an image.

    Args:
        result: by class, arrays (objects, 5) of x0, y0, x1, y1, score; or these and, by class, lists of masks.

    Raises:
        DetectorError: anything else, or scores that are not finite.
    """
    boxes, masks = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(boxes, list) or len(boxes) != len(COCO_CLASSES):
        raise DetectorError(
            f"mmdet gave {type(result).__name__}; expected lists over {len(COCO_CLASSES)} classes, "
            "as version 2 gives them for COCO."
        )
    found = []
    for number, (name, rows) in enumerate(zip(COCO_CLASSES, boxes, strict=True)):
        if not np.isfinite(rows).all():
            raise DetectorError(f"mmdet gave boxes or scores of {name!r} that are not finite; check its build.")
        outlines = [None] * len(rows) if masks is None else [np.asarray(mask, dtype=np.bool_) for mask in masks[number]]
        for (x0, y0, x1, y1, score), outline in zip(np.asarray(rows).tolist(), outlines, strict=True):
            found.append(Detection(name, score, (x0, y0, x1, y1), outline))
    return found
