"""FID and KID between generated and reference images: torch-fidelity on the features of a model loaded once.

Both are noisy at few images, and FID is biased by an amount that depends on the model: the settings say how many there
were, and variants are to be compared at equal numbers only. Sources: arXiv 1706.08500 (FID), 1801.01401 (KID),
1904.06991 (precision and recall).
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bench.metrics.base import incomplete
from bench.metrics.catalogue import load_object, metric_named
from bench.metrics.models.inception import load_inception
from bench.metrics.models.open_clip_checkpoint import ClipSettings
from bench.metrics.models.open_clip_model import FeatureError
from bench.records.results import JSON, Measurement
from bench.records.statistics import SEED
from bench.samples.image_set import ImageSet, ImageSetError, Pixels
from bench.settings import PlaceOrName
from fastflux.errors import FastFluxError
from fastflux.pictures import open_picture, picture_files

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
NEIGHBORS = 3
"""Precision and recall take an image's surroundings to reach as far as this nearest neighbor of it."""
#: Reference images that are drawn here.
RENDERED = {"shapes": "bench.shapes.pictures:reference_images"}
_LAYER = "image"


class ImageFeatures(Protocol):
    """A model that gives features of images: `OpenClipModel`, or InceptionV3 (`bench.metrics.models.inception`)."""

    batch_size: int

    @property
    def settings(self) -> dict[str, JSON]:
        """All that determines the features."""
        ...

    def raw_image_features(self, images: Iterable[Pixels]) -> Tensor:
        """(images, dim) float32 on the CPU; raises FeatureError for ones that are not finite."""
        ...


class FIDSettings(ClipSettings, frozen=True):
    """FID on InceptionV3, as published figures have it, or on a CLIP's image tower.

    Args:
        model: "inception", whose `checkpoint` is torch-fidelity's file, or as `ClipSettings` has it.
        reference_images: a folder of pictures; "shapes" for renders of FLUX-Shapes; "dense" for the dense model's own,
            which `python -m bench rank` gives.
        precision_recall: whether to give precision and recall as well, on the same features.
    """

    model: PlaceOrName = PlaceOrName("inception")
    reference_images: PlaceOrName = PlaceOrName()
    precision_recall: bool = True


class FID:
    """Compares all images it is given with a fixed reference set.

    Args:
        model: whose features of images are compared.
        reference_images: (height, width, 3) uint8 images, or a folder with their .png and .jpg files; all of one size.
            None where `against` gives them.
        reference: what the distances may be called.
        kid_subset_size: images in each of KID's subsets; None takes 1000, or half of what there is if that is less.
        precision_recall: whether to give precision and recall as well, on the same features.

    Raises:
        ImageSetError: fewer than 2 reference images, unreadable ones, or ones of different sizes.
    """

    Settings = FIDSettings

    def __init__(
        self,
        model: ImageFeatures,
        *,
        reference_images: Path | Sequence[Pixels] | None,
        reference: str = "FID and KID of CLIP features",
        kid_subset_size: int | None = None,
        precision_recall: bool = False,
    ) -> None:
        self.info = metric_named("fid").described(reference)
        self.model = model
        self.kid_subset_size = kid_subset_size
        self.precision_recall = precision_recall
        self._reference: _Images | None = None
        if isinstance(reference_images, Path):
            self._set_reference([partial(_read_file, file) for file in picture_files(reference_images, "**/*")])
        elif reference_images is not None:
            self._set_reference([partial(np.asarray, image) for image in reference_images])

    @classmethod
    def load(cls, settings: FIDSettings, device: str = "cpu") -> FID:
        """The metric with its model and the reference images, if there are any but the dense model's.

        Raises:
            FastFluxError: no weights or no reference images, or others than they should be.
        """
        if settings.model == "inception":
            features: ImageFeatures = load_inception(settings.checkpoint.path, device, settings.batch_size)
            reference = settings.reference or "FID and KID, InceptionV3"
        else:
            features = settings.load(device)
            reference = settings.title("FID and KID of features of")
        if not settings.reference_images:
            raise FastFluxError("reference_images is not set: give a folder of pictures to compare with.")
        images: Path | Sequence[Pixels] | None = settings.reference_images.path
        if settings.reference_images in RENDERED:
            images = load_object(RENDERED[settings.reference_images])()
        elif settings.reference_images == "dense":
            images = None
        return cls(features, reference_images=images, reference=reference, precision_recall=settings.precision_recall)

    def _set_reference(self, readers: Sequence[Callable[[], Pixels]]) -> None:
        self._reference = _Images(readers)
        self._reference_hash = self._reference.content_hash()
        self._cache = mkdtemp(prefix="fid-")
        weakref.finalize(self, shutil.rmtree, self._cache, ignore_errors=True)

    def against(self, images: Sequence[Pixels]) -> FID:
        """The same metric with other reference images, (height, width, 3) uint8; the model is shared."""
        other = copy.copy(self)
        other._set_reference([partial(np.asarray, image) for image in images])  # noqa: SLF001  # of this class
        return other

    def __call__(self, images: ImageSet) -> Measurement:
        """Values "fid", "kid" and "kid_std" (over KID's subsets), "precision" and "recall" if wanted."""
        if self._reference is None:
            return Measurement.failed(self.info, "there are no reference images to compare with")
        fewest = min(len(images), len(self._reference))
        # A subset of nearly all images would be the same one a hundred times over.
        subset_size = self.kid_subset_size or min(KID_SUBSET_SIZE, max(1, fewest // 2))
        settings: dict[str, JSON] = {
            "feature_layer": "image embedding, not normalised",
            **self.model.settings,
            "images": len(images),
            "reference_images": len(self._reference),
            "reference_sha256": self._reference_hash,
            "kid_subsets": KID_SUBSETS,
            "kid_subset_size": subset_size,
            "kid_seed": SEED,
            **({"prc_neighbors": NEIGHBORS} if self.precision_recall else {}),
        }
        if (failed := incomplete(self.info, images, settings)) is not None:
            return failed
        if subset_size > fewest:
            reason = f"KID's subsets are of {subset_size} images, and there are {fewest}; take smaller ones"
            return Measurement.failed(self.info, reason, settings=settings)
        if self.precision_recall and fewest <= NEIGHBORS:
            reason = f"precision and recall look at {NEIGHBORS} neighbors, and there are {fewest} images"
            return Measurement.failed(self.info, reason, settings=settings)
        try:
            values = self._distances(_Images([image.read for image in images.images]), subset_size)
        except (ImageSetError, FeatureError) as error:
            return Measurement.failed(self.info, str(error), missing=len(images), settings=settings)
        return Measurement(self.info, "ok", values=values, scored=len(images), settings=settings)

    def _distances(self, images: _Images, subset_size: int) -> dict[str, float]:
        import torch_fidelity

        found = torch_fidelity.calculate_metrics(
            input1=images,
            input2=self._reference,
            fid=True,
            kid=True,
            prc=self.precision_recall,
            prc_neighborhood=NEIGHBORS,
            kid_subsets=KID_SUBSETS,
            kid_subset_size=subset_size,
            rng_seed=SEED,
            feature_extractor=_registered_extractor(self.model),
            # The model keeps its own device.
            cuda=False,
            # Of the reference alone: torch-fidelity's keys know nothing of the images' content, this one does.
            cache=True,
            cache_root=self._cache,
            input2_cache_name=self._reference_hash,
            batch_size=self.model.batch_size,
            save_cpu_ram=True,
            verbose=False,
        )
        values = {
            "fid": float(found["frechet_inception_distance"]),
            "kid": float(found["kernel_inception_distance_mean"]),
            "kid_std": float(found["kernel_inception_distance_std"]),
        }
        if self.precision_recall:
            values |= {name: float(found[name]) for name in ("precision", "recall")}
        return values


class _Images(torch.utils.data.Dataset[Tensor]):
    """Images as torch-fidelity wants them, (3, height, width) uint8; read when asked for, since all may be too many."""

    def __init__(self, readers: Sequence[Callable[[], Pixels]]) -> None:
        if len(readers) < 2:
            raise ImageSetError(f"FID compares distributions, and {len(readers)} images are none; give at least 2.")
        self._readers = readers
        self._shape = readers[0]().shape

    def __len__(self) -> int:
        return len(self._readers)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.pixels(index).transpose(2, 0, 1).copy())

    def pixels(self, index: int) -> Pixels:
        """(height, width, 3); raises `ImageSetError` for another shape than the first image's."""
        found = self._readers[index]()
        if found.shape != self._shape:
            raise ImageSetError(
                f"FID is given images of the shapes {self._shape} and {found.shape}; expected one size."
            )
        return found

    def content_hash(self) -> str:
        """SHA-256 over the shape and all pixels in order."""
        digest = hashlib.sha256(repr(self._shape).encode())
        for index in range(len(self)):
            digest.update(self.pixels(index).tobytes())
        return digest.hexdigest()


def _registered_extractor(model: ImageFeatures) -> str:
    """The name under which torch-fidelity finds the model's image tower; it holds a hash of the model's settings."""
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    digest = hashlib.sha256(json.dumps(model.settings, sort_keys=True).encode()).hexdigest()[:16]
    name = f"features-{digest}"
    registered = FEATURE_EXTRACTORS_REGISTRY.get(name)
    if registered is not None:
        registered.model = model  # the settings are the same; the one of before may be gone
        return name

    class ImageTower(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity has no types
        model: ImageFeatures

        def __init__(self, name: str, features_list: Sequence[str], **_: Any) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return (_LAYER,)

        @staticmethod
        def get_default_feature_layer_for_metric(_: str) -> str:
            return _LAYER

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, batch: Tensor) -> tuple[Tensor]:
            # (batch, 3, height, width) uint8 -> (batch, dim); float64, since the means would else be taken in float32.
            return (self.model.raw_image_features(batch.permute(0, 2, 3, 1).cpu().numpy()).double(),)

    ImageTower.model = model
    register_feature_extractor(name, ImageTower)
    return name


def _read_file(file: Path) -> Pixels:
    try:
        return np.array(open_picture(file))
    except FastFluxError as error:
        raise ImageSetError(str(error)) from error
