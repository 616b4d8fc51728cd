"""InceptionV3 as published FID uses it: torch-fidelity's network and weights, loaded once from a file."""

import io
import pickle
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.metrics.models.open_clip_model import FeatureError
from bench.records.environment import sha256_of
from bench.records.results import JSON
from bench.samples.image_set import Pixels
from fastflux.errors import FastFluxError, first_sentence

LAYER = "2048"
SOURCE = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"


class InceptionFeatures:
    """The last pooling layer, 2048 numbers an image; images come to 299 x 299 as in TensorFlow 1, inside the network.

    Args:
        weights: the file at `SOURCE`; nothing is fetched.

    Raises:
        FastFluxError: no such file, one that is damaged, or other weights.
    """

    def __init__(self, weights: Path, device: str = "cpu", batch_size: int = 64) -> None:
        if not weights.is_file():
            what = f"The checkpoint of InceptionV3 {weights} is not there" if weights.name else "checkpoint is not set"
            raise FastFluxError(f"{what}: download {SOURCE} and give its path.")
        self.device = device
        self.batch_size = batch_size
        self._network = _load(weights).to(device)
        self._sha256 = sha256_of(weights)

    @property
    def settings(self) -> dict[str, JSON]:
        """All that determines the features."""
        return {
            "model": "InceptionV3 (torch-fidelity, inception-v3-compat)",
            "weights_sha256": self._sha256,
            "precision": "fp32",
            "feature_layer": LAYER,
            "image_size": [299, 299],
            "resized_by": "TensorFlow 1's bilinear",
            "antialias": False,
        }

    def raw_image_features(self, images: Iterable[Pixels]) -> Tensor:
        """Features of (height, width, 3) uint8 images of one size: (images, 2048) float32 on the CPU.

        Raises:
            FeatureError: there is no image, or a feature is not finite.
        """
        with torch.inference_mode():
            rows = [self._network(batch.to(self.device))[0].float().cpu() for batch in self._batches(iter(images))]
        if not rows:
            raise FeatureError("There is no image to take features of; give at least one.")
        features = torch.cat(rows)
        if bad := int((~torch.isfinite(features)).any(dim=-1).sum()):
            raise FeatureError(f"{bad} of {len(features)} features of InceptionV3 are not finite; check its weights.")
        return features

    def _batches(self, images: Iterator[Pixels]) -> Iterator[Tensor]:
        while batch := list(islice(images, self.batch_size)):
            yield torch.from_numpy(np.stack(batch).transpose(0, 3, 1, 2).copy())  # (batch, 3, height, width)


@lru_cache(maxsize=2)
def load_inception(weights: Path, device: str = "cpu", batch_size: int = 64) -> InceptionFeatures:
    """`InceptionFeatures`, one for all metrics that ask for the same."""
    return InceptionFeatures(weights, device, batch_size)


def _load(weights: Path) -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        # torch-fidelity loads with weights_only=False, so it is given a copy that holds what was read safely.
        copy = io.BytesIO()
        torch.save(state, copy)
        copy.seek(0)
        return FeatureExtractorInceptionV3("inception-v3-compat", [LAYER], feature_extractor_weights_path=copy)
    except (RuntimeError, OSError, EOFError, ValueError, AttributeError, TypeError, pickle.UnpicklingError) as error:
        reason = first_sentence(error)
        raise FastFluxError(f"{weights} holds no weights of InceptionV3 ({reason}); download {SOURCE}.") from error
