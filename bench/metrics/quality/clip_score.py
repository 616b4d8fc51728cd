"""CLIP's scores of images and their prompts: CLIP score, and retrieval recall.

CLIP score is 100 x cosine between the features of an image and of its prompt, mean over all images. There is no single
convention: this one does not clip at 0 and does not weight (CLIPScore, arXiv 2104.08718, weights by 2.5). Model, tag,
precision and preprocessing are in the settings; scores of different models cannot be compared.

Recall is how often an image is among the k nearest to its prompt, and a prompt among the k nearest to it, by
clip_benchmark, `metrics.zeroshot_retrieval.evaluate` (https://github.com/LAION-AI/CLIP_benchmark), on features taken
here in batches. It depends on how many images there are: only sets of one size can be compared.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.metrics.base import incomplete
from bench.metrics.catalogue import metric_named
from bench.metrics.models.open_clip_checkpoint import ClipSettings
from bench.metrics.models.open_clip_model import SCALE, FeatureError, OpenClipModel, measure_cosines
from bench.records.results import JSON, Measurement
from bench.records.statistics import SEED, mean_interval
from bench.samples.image_set import ImageSet, ImageSetError
from bench.samples.layouts import SET


class ClipScore:
    """Scores all images it is given.

    Args:
        model: the CLIP model.
        reference: what the scores may be called.
    """

    Settings = ClipSettings

    def __init__(self, model: OpenClipModel, *, reference: str = "CLIP score") -> None:
        self.info = metric_named("clip_score").described(reference)
        self.model = model

    @classmethod
    def load(cls, settings: ClipSettings, device: str = "cpu") -> ClipScore:
        """The metric with its model; model, tag and precision are in its reference."""
        return cls(settings.load(device), reference=settings.title("CLIP score of"))

    def __call__(self, images: ImageSet) -> Measurement:
        """Value "mean"; the settings count the prompts the model cannot read to the end."""
        settings: dict[str, JSON] = {**self.model.settings, "scale": SCALE, "interval_seed": SEED}
        if (failed := incomplete(self.info, images, settings)) is not None:
            return failed
        return measure_cosines(
            self.info,
            self.model,
            images,
            settings,
            stratum=lambda _: "",
            summary=lambda samples: {"mean": mean_interval(samples, seed=SEED)},
        )


RECALL_AT = (1, 5)
_ROWS = 256


class Retrieval:
    """Ranks one image of each different prompt; further ones would count right answers as wrong.

    Args:
        model: the CLIP model.
        reference: what the recalls may be called.
        recall_at: the numbers of nearest ones that are looked at.
    """

    Settings = ClipSettings

    def __init__(
        self,
        model: OpenClipModel,
        *,
        reference: str = "clip_benchmark's zero-shot retrieval",
        recall_at: Sequence[int] = RECALL_AT,
    ) -> None:
        self.info = metric_named("retrieval").described(reference)
        self.recall_at = tuple(recall_at)
        self.model = model

    @classmethod
    def load(cls, settings: ClipSettings, device: str = "cpu") -> Retrieval:
        """The metric with its model."""
        return cls(settings.load(device), reference=settings.title("clip_benchmark with"))

    def __call__(self, images: ImageSet) -> Measurement:
        """Values "image_retrieval_recall@k" (of prompts) and "text_retrieval_recall@k" (of images), fractions."""
        images = images.subset(SET)
        first = _first_of_each_prompt(images)
        settings: dict[str, JSON] = {
            **self.model.settings,
            "prompt_set": SET,
            "recall_at": list(self.recall_at),
            "images": len(first),
            "images_of_prompts_seen_before": len(images) - len(first),
            "amp": False,
        }
        if (failed := incomplete(self.info, images, settings)) is not None:
            return failed
        if wrong := [k for k in self.recall_at if not 1 <= k <= len(first)]:
            reason = f"recall among the {wrong[0]} nearest of {len(first)} images; expected 1 to {len(first)}"
            return Measurement.failed(self.info, reason, settings=settings)
        texts = [image.prompt for image in first.images]
        settings["prompts_too_long"] = self.model.too_long(texts)
        try:
            pairs = _Pairs(self.model.image_features(first), self.model.text_features(texts), texts)
        except (ImageSetError, FeatureError) as error:
            return Measurement.failed(self.info, str(error), missing=len(first), settings=settings)
        return Measurement(
            self.info, "ok", values=_recalls(pairs, self.recall_at), scored=len(first), settings=settings
        )


@dataclass(frozen=True)
class _Pairs:
    """Features in place of a model, its tokenizer and a data loader: what clip_benchmark would compute is here."""

    images: Tensor  # (pairs, dim)
    captions: Tensor  # (pairs, dim)
    texts: Sequence[str]

    def __iter__(self) -> Iterator[tuple[Tensor, list[list[str]]]]:
        for start in range(0, len(self.texts), _ROWS):
            yield self.images[start : start + _ROWS], [[text] for text in self.texts[start : start + _ROWS]]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Numbers of texts, which all differ."""
        rows = {text: row for row, text in enumerate(self.texts)}
        return torch.tensor([rows[text] for text in texts])

    def encode_image(self, batch: Tensor) -> Tensor:
        """The features that `__iter__` gave."""
        return batch

    def encode_text(self, numbers: Tensor) -> Tensor:
        """The features of texts by `tokenize`."""
        return self.captions[numbers]


def _recalls(pairs: _Pairs, recall_at: Sequence[int]) -> dict[str, float]:
    from clip_benchmark.metrics import zeroshot_retrieval

    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        found = zeroshot_retrieval.evaluate(
            pairs, pairs, pairs.tokenize, "cpu", amp=False, recall_k_list=list(recall_at)
        )
    return {name: float(value) for name, value in sorted(found.items())}


def _first_of_each_prompt(images: ImageSet) -> ImageSet:
    first = {image.prompt: image for image in reversed(images.images)}
    kept = {id(image) for image in first.values()}
    return ImageSet(tuple(image for image in images.images if id(image) in kept))
