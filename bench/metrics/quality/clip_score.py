"""CLIP score: 100 x cosine between the features of an image and of its prompt, mean over all images.

There is no single convention: this one does not clip at 0 and does not weight (CLIPScore, arXiv 2104.08718, weights by
2.5). Model, tag, precision and preprocessing are in the settings; scores of different models cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch

from bench.metrics.base import incomplete, measured, samples_by_prompt
from bench.metrics.catalogue import metric_named
from bench.metrics.models.clip_settings import ClipSettings
from bench.metrics.models.open_clip_model import FeatureError, OpenClipModel
from bench.records.results import JSON, Measurement, MetricInfo
from bench.records.statistics import Estimate, mean_interval
from bench.samples.image_set import GeneratedImage, ImageSet, ImageSetError

SCALE = 100.0

Samples: TypeAlias = Mapping[str, list[float]]


class ClipScore:
    """Scores all images it is given.

    Args:
        model: the CLIP model.
        reference: what the scores may be called.
        seed: of the interval's resampling.
    """

    Settings = ClipSettings

    def __init__(self, model: OpenClipModel, *, reference: str = "CLIP score", seed: int = 0) -> None:
        self.info = metric_named("clip_score").described(reference)
        self.seed = seed
        self.model = model

    @classmethod
    def load(cls, settings: ClipSettings, device: str = "cpu") -> ClipScore:
        """The metric with its model; model, tag and precision are in its reference."""
        return cls(settings.load(device), reference=settings.title("CLIP score of"))

    def __call__(self, images: ImageSet) -> Measurement:
        """Value "mean"; the settings count the prompts the model cannot read to the end."""
        settings: dict[str, JSON] = {**self.model.settings, "scale": SCALE, "interval_seed": self.seed}
        if (failed := incomplete(self.info, images, settings)) is not None:
            return failed
        return measure_cosines(
            self.info,
            self.model,
            images,
            settings,
            stratum=lambda _: "",
            summary=lambda samples: {"mean": mean_interval(samples, seed=self.seed)},
        )


def measure_cosines(
    info: MetricInfo,
    model: OpenClipModel,
    images: ImageSet,
    settings: Mapping[str, JSON],
    *,
    stratum: Callable[[GeneratedImage], str],
    summary: Callable[[Samples], Mapping[str, Estimate]],
) -> Measurement:
    """Score every image against its own prompt; failed if one cannot be read or a feature is not finite.

    Args:
        stratum: what an image's score is filed under, "" for metrics without strata.
        summary: the values, given the scores (`Measurement.samples`).
    """
    try:
        scores = own_prompt_cosines(model, images)
    except (ImageSetError, FeatureError) as error:
        return Measurement.failed(info, str(error), missing=len(images), settings=settings)
    samples = samples_by_prompt(
        (stratum(image), image, score) for image, score in zip(images.images, scores, strict=True)
    )
    settings = {**settings, "prompts_too_long": model.too_long(prompts_of(images))}
    return measured(info, images, samples, summary(samples), settings)


def prompts_of(images: ImageSet) -> list[str]:
    """The different prompts of an image set, in order of appearance."""
    return list(dict.fromkeys(image.prompt for image in images.images))


def own_prompt_cosines(model: OpenClipModel, images: ImageSet) -> list[float]:
    """100 x cosine of each image with its own prompt.

    Raises:
        ImageSetError: an image cannot be read.
        FeatureError: a feature is not finite.
    """
    prompts = prompts_of(images)
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    texts = model.text_features(prompts).double()  # (prompts, dim)
    features = model.image_features(images).double()  # (images, dim)
    own = texts[torch.tensor([row_of[image.prompt] for image in images.images])]  # (images, dim)
    cosines: list[float] = (SCALE * (features * own).sum(dim=-1)).tolist()
    return cosines
