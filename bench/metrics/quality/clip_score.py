"""CLIP score: 100 x cosine between the features of an image and of its prompt, mean over all images.

There is no single convention: this one does not clip at 0 and does not weight (CLIPScore, arXiv 2104.08718, weights by
2.5). Model, tag, precision and preprocessing are in the settings; scores of different models cannot be compared.
"""

from __future__ import annotations

from bench.metrics.base import incomplete
from bench.metrics.catalogue import metric_named
from bench.metrics.models.open_clip_checkpoint import ClipSettings
from bench.metrics.models.open_clip_model import SCALE, OpenClipModel, measure_cosines
from bench.records.results import JSON, Measurement
from bench.records.statistics import SEED, mean_interval
from bench.samples.image_set import ImageSet


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
