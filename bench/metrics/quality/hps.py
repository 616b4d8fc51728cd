"""Human preference score of images by style: 100 x cosine between image and prompt features of a preference model.

Source: HPS v2, https://github.com/tgxs002/HPSv2 (benchmark: one image of each of 4 x 800 prompts; a style's score is
the mean of 10 groups of 80 images, which is the mean of its 800; "Averaged" is the mean of all 3200).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from zipfile import ZipFile, is_zipfile

import numpy as np

from bench.metrics.base import incomplete
from bench.metrics.catalogue import metric_named
from bench.metrics.models.open_clip_checkpoint import require_architecture
from bench.metrics.models.open_clip_model import (
    LOCAL,
    SCALE,
    OpenClipModel,
    OpenClipSpec,
    Samples,
    load_open_clip,
    measure_cosines,
)
from bench.records.results import JSON, Data, Measurement
from bench.records.statistics import SEED, Estimate, strata_of, stratified_means
from bench.samples.image_set import ImageSet
from bench.samples.layouts import SET, STYLES
from bench.settings import Batch, Place, PlaceOrName
from fastflux.errors import FastFluxError

GROUPS = 10
HPS_FILES = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}
"""Checkpoints in https://huggingface.co/xswu/HPSv2 by version."""


class HPSSettings(Data, frozen=True):
    """HPS v2 as hpsv2 computes it, in float32: on a GPU hpsv2 itself runs in half precision (amp).

    Args:
        model: open_clip's name of the architecture, or a folder with ``open_clip_config.json`` and the weights.
        checkpoint: the file of that version; the paper's scores are of v2.0. Not of a folder.
        antialias: whether images are filtered when they shrink: so does hpsv2 with torchvision 0.17 and later; the
            figures in its README were made without.
        reference: what the scores may be called; "" is HPS and its version.
    """

    model: PlaceOrName = PlaceOrName("ViT-H-14")
    checkpoint: Place = Place()
    version: Literal["v2.0", "v2.1"] = "v2.0"
    antialias: bool = True
    batch_size: Batch = 32
    reference: str = ""

    def spec(self) -> OpenClipSpec:
        """The model in open_clip's terms.

        Raises:
            FastFluxError: no such file, one of the other version, or of another architecture.
        """
        if self.model.is_path:
            return OpenClipSpec(f"{LOCAL}{self.model}", "", "longest")
        file = HPS_FILES[self.version]
        if not self.checkpoint.path.is_file():
            what = f"checkpoint {self.checkpoint} is not there" if self.checkpoint else "checkpoint is not set"
            raise FastFluxError(
                f"{what}: download {file} from https://huggingface.co/xswu/HPSv2 and give it by "
                "--set metrics.hps.checkpoint=PATH."
            )
        # The two versions differ in nothing but their numbers.
        names = {self.checkpoint.path.name, f"{_saved_as(self.checkpoint.path)}.pt"}
        if other := next((other for other, name in HPS_FILES.items() if name in names - {file}), None):
            raise FastFluxError(f"{self.checkpoint} is HPS {other}, and {self.version} was asked for; give {file}.")
        require_architecture(self.checkpoint.path, self.model)
        return OpenClipSpec(self.model, self.checkpoint, "longest", resized_by="torch", antialias=self.antialias)


class HPS:
    """Scores the images of the set "hps".

    Args:
        model: the preference model; HPS v2 shrinks the longest side and pads with black.
        reference: what the scores may be called.
    """

    Settings = HPSSettings

    def __init__(self, model: OpenClipModel, *, reference: str = "HPS v2") -> None:
        self.info = metric_named("hps").described(reference)
        self.model = model

    @classmethod
    def load(cls, settings: HPSSettings, device: str = "cpu") -> HPS:
        """The metric with its model, checked before the first image."""
        model = load_open_clip(settings.spec(), device, settings.batch_size)
        return cls(model, reference=settings.reference or f"HPS {settings.version}")

    def __call__(self, images: ImageSet) -> Measurement:
        """Values: each style's mean, "averaged" over all images, and "<style>_group_std" where there are ten groups.

        Failed if an image is missing or damaged.
        """
        images = images.subset(SET)
        settings: dict[str, JSON] = {**self.model.settings, "scale": SCALE, "interval_seed": SEED}
        if (failed := incomplete(self.info, images, settings)) is not None:
            return failed
        present = {image.style for image in images.images}
        if present != set(STYLES):
            names = sorted(str(style) for style in present)
            return Measurement.failed(
                self.info, f"the images have the styles {names}; expected {sorted(STYLES)}", settings=settings
            )
        return measure_cosines(
            self.info, self.model, images, settings, stratum=lambda image: str(image.style), summary=self._summary
        )

    def _summary(self, samples: Samples) -> Mapping[str, Estimate]:
        means = stratified_means(strata_of(samples), weighting="images", seed=SEED)
        spreads = {style: group_std(list(prompts.values())) for style, prompts in strata_of(samples).items()}
        return {
            **{style: means.strata[style] for style in STYLES},
            "averaged": means.overall,
            **{f"{style}_group_std": Estimate(std, None) for style, std in spreads.items() if std is not None},
        }


def _saved_as(checkpoint: Path) -> str:
    """The name under which torch.save wrote a file, which it keeps in it; "" where there is none."""
    if not is_zipfile(checkpoint):
        return ""
    with ZipFile(checkpoint) as file:
        return next(iter(file.namelist()), "").partition("/")[0]


def group_std(scores: Sequence[Sequence[float]]) -> float | None:
    """The spread that hpsv2 prints beside a style's score: the standard deviation of the means of 10 groups of prompts.

    Groups are of successive prompts, and the mean of their means is the style's own; the deviation divides by 10.
    None where the prompts, whose images' `scores` stand in their order, do not come out in ten equal groups.
    """
    if not scores or len(scores) % GROUPS:
        return None
    size = len(scores) // GROUPS
    groups = [scores[start : start + size] for start in range(0, len(scores), size)]
    return float(np.std([np.mean([value for prompt in group for value in prompt]) for group in groups]))
