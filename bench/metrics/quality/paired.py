"""Paired metrics: each image against the dense model's image of the same prompt, sample and seed.

How much pruning changes a picture, not whether it is good: PSNR and SSIM of pixels, cosine of CLIP image features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from bench.metrics.base import incomplete, measured, samples_by_prompt
from bench.metrics.catalogue import metric_named
from bench.metrics.models.open_clip_checkpoint import ClipSettings
from bench.metrics.models.open_clip_model import SCALE, FeatureError, OpenClipModel
from bench.metrics.quality.image_similarity import K1, K2, mean_squared_error, psnr, ssim
from bench.records.results import JSON, Measurement
from bench.records.statistics import SEED, Estimate, mean_interval, strata_of
from bench.samples.image_set import UNKNOWN_SEED, GeneratedImage, ImageSet, ImageSetError

_SSIM: Mapping[str, JSON] = {"window": "gaussian 11x11, sigma 1.5", "k1": K1, "k2": K2, "mean_over": "RGB and windows"}
_PSNR = "of the mean squared error over all images"


class Paired:
    """Compares all images it is given with those of the dense model.

    Args:
        model: the CLIP model.
        reference: the dense model's images, as `against` takes them; the features of these are taken once.
        label: what the numbers may be called.
    """

    Settings = ClipSettings

    def __init__(
        self, model: OpenClipModel, reference: ImageSet | None = None, *, label: str = "paired with the dense model"
    ) -> None:
        self.info = metric_named("paired").described(label)
        self.reference = reference or ImageSet(())
        self.model = model
        self._features: Tensor | None = None

    @classmethod
    def load(cls, settings: ClipSettings, device: str = "cpu") -> Paired:
        """The metric with its model, and no reference yet."""
        return cls(settings.load(device), label=settings.title("paired with the dense model, CLIP similarity by"))

    def against(self, reference: ImageSet) -> Paired:
        """The same metric with the dense model's images to compare with."""
        return Paired(self.model, reference, label=self.info.reference)

    def __call__(self, images: ImageSet) -> Measurement:
        """Values "psnr", "ssim" and "clip_image"; samples "mse/<prompt>", "ssim/<prompt>" and "clip_image/<prompt>".

        PSNR is that of the mean squared error over all images: each image's own has no mean where two are equal. It is
        left out where all images are equal. Failed unless every image has its partner, of its size.
        """
        settings: dict[str, JSON] = {
            **self.model.settings,
            "scale": SCALE,
            "ssim": _SSIM,
            "psnr": _PSNR,
            "interval_seed": SEED,
            "reference_images": len(self.reference),
        }
        if (failed := incomplete(self.info, images, settings)) is not None:
            return failed
        if (failed := incomplete(self.info, self.reference, settings)) is not None:
            return Measurement.failed(self.info, f"of the dense model, {failed.reason}", settings=settings)
        if reason := _unpaired(images, self.reference):
            return Measurement.failed(self.info, reason, settings=settings)
        try:
            samples = self._samples(images)
        except (ImageSetError, FeatureError) as error:
            return Measurement.failed(self.info, str(error), missing=len(images), settings=settings)
        settings["reference_sha256"] = _hash_of(self.reference)
        equal = [value for key in samples if key.startswith("mse/") for value in samples[key] if value == 0]
        settings["equal_images"] = len(equal)
        return measured(self.info, len(images), samples, self._estimates(samples), settings)

    def _samples(self, images: ImageSet) -> dict[str, list[float]]:
        partners = {_key(image): (row, image) for row, image in enumerate(self.reference.images)}
        errors, similarities = [], []
        for image, pixels in zip(images.images, images, strict=True):
            partner = partners[_key(image)][1].read()
            if partner.shape != pixels.shape:
                raise ImageSetError(
                    f"{image.file} has the shape {pixels.shape}, the dense model's {partner.shape}; expected one size."
                )
            errors.append(mean_squared_error(pixels, partner))
            similarities.append(ssim(pixels, partner))
        if self._features is None:
            self._features = self.model.image_features(self.reference).double()  # (images, dim)
        rows = torch.tensor([partners[_key(image)][0] for image in images.images])
        features = self.model.image_features(images).double()  # (images, dim)
        cosines = (SCALE * (features * self._features[rows]).sum(dim=-1)).tolist()
        columns = {"mse": errors, "ssim": similarities, "clip_image": cosines}
        return samples_by_prompt(
            (name, image, value)
            for name, column in columns.items()
            for image, value in zip(images.images, column, strict=True)
        )

    def _estimates(self, samples: Mapping[str, list[float]]) -> dict[str, Estimate]:
        means = {name: mean_interval(prompts, seed=SEED) for name, prompts in strata_of(samples).items()}
        error = means.pop("mse")
        if error.value == 0:
            return means
        interval = None
        if error.interval is not None and error.interval[0] > 0:  # without an error PSNR has no bound
            interval = (psnr(error.interval[1]), psnr(error.interval[0]))
        return {"psnr": Estimate(psnr(error.value), interval), **means}


def _key(image: GeneratedImage) -> tuple[str, str, int]:
    return (image.set, image.prompt_id, image.sample)


def _unpaired(images: ImageSet, reference: ImageSet) -> str:
    """Why the two sets cannot be compared image by image, "" if they can."""
    ours, theirs = ({_key(image): image for image in each.images} for each in (images, reference))
    if alone := sorted(ours.keys() ^ theirs.keys()):
        _, prompt, sample = alone[0]
        side = "the dense model has none" if alone[0] in ours else "only the dense model has one"
        return f"{len(alone)} images have no partner: of sample {sample} of {prompt} {side}"
    for key, image in ours.items():
        other = theirs[key]
        if image.prompt != other.prompt:
            return f"{image.prompt_id} reads {image.prompt!r} here and {other.prompt!r} for the dense model"
        if image.seed == UNKNOWN_SEED:
            return f"nobody knows the seed of sample {image.sample} of {image.prompt_id}"
        if image.seed != other.seed:
            return f"sample {image.sample} of {image.prompt_id} has seed {image.seed}, the dense model's {other.seed}"
    return ""


def _hash_of(images: ImageSet) -> str:
    """SHA-256 over the keys and pixels of all images."""
    digest = hashlib.sha256()
    for image, pixels in zip(images.images, images, strict=True):
        digest.update(repr((_key(image), pixels.shape)).encode())
        digest.update(pixels.tobytes())
    return digest.hexdigest()
