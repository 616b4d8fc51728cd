"""Human preference score of images by style: 100 x cosine between image and prompt features of a preference model.

Source: HPS v2, https://github.com/tgxs002/HPSv2 (benchmark: one image of each of 4 x 800 prompts; a style's score is
the mean of 10 groups of 80 images, which is the mean of its 800; "Averaged" is the mean of all 3200).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bench.metrics.base import incomplete
from bench.metrics.catalogue import metric_named
from bench.metrics.models.open_clip_model import OpenClipSpec, open_clip_of
from bench.metrics.quality.clip_score import SCALE, Samples, measure_cosines
from bench.records.results import JSON, Measurement
from bench.records.statistics import Estimate, strata_of, stratified_means
from bench.samples.hps_layout import SET, STYLES
from bench.samples.image_set import ImageSet

GROUPS = 10


class HPS:
    """Scores the images of the set "hps".

    Args:
        model: the preference model, an `OpenClipSpec` or its architecture; then `pretrained` and `resize_mode` complete
            it. `bench.metrics.quality.public_metrics.hps_v2` has the published one.
        reference: what the scores may be called.
        styles: the styles there must be; their order is that of the values.
        resize_mode: HPS v2 shrinks the longest side and pads with black.
        seed: of the intervals' resampling.
    """

    def __init__(
        self,
        model: str | OpenClipSpec,
        pretrained: str = "",
        *,
        reference: str = "HPS v2",
        styles: Sequence[str] = STYLES,
        resize_mode: str = "longest",
        device: str = "cpu",
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        self.info = metric_named("hps").described(reference)
        self.styles = tuple(styles)
        self.seed = seed
        self.model = open_clip_of(model, pretrained, resize_mode, device, batch_size)

    def __call__(self, images: ImageSet) -> Measurement:
        """Values: each style's mean, "averaged" over all images, and "<style>_group_std" where there are ten groups.

        Failed if an image is missing or damaged.
        """
        images = images.subset(SET)
        settings: dict[str, JSON] = {**self.model.settings, "scale": SCALE, "interval_seed": self.seed}
        if (failed := incomplete(self.info, images, settings)) is not None:
            return failed
        present = {image.style for image in images.images}
        if present != set(self.styles):
            names = sorted(str(style) for style in present)
            return Measurement.failed(
                self.info, f"the images have the styles {names}; expected {sorted(self.styles)}", settings=settings
            )
        return measure_cosines(
            self.info,
            self.model,
            images,
            settings,
            stratum=lambda image: str(image.style),
            summary=self._summary,
        )

    def _summary(self, samples: Samples) -> Mapping[str, Estimate]:
        means = stratified_means(strata_of(samples), weighting="images", seed=self.seed)
        spreads = {style: group_std(list(prompts.values())) for style, prompts in strata_of(samples).items()}
        return {
            **{style: means.strata[style] for style in self.styles},
            "averaged": means.overall,
            **{
                f"{style}_group_std": Estimate(spread, None)
                for style in self.styles
                if (spread := spreads[style]) is not None
            },
        }


def group_std(scores: Sequence[Sequence[float]]) -> float | None:
    """The spread that hpsv2 prints beside a style's score: the standard deviation of the means of 10 groups of prompts.

    Groups are of successive prompts, and the mean of their means is the style's own; the deviation divides by 10.
    None where the prompts do not come out in ten equal groups.

    Args:
        scores: of the images of each prompt, in the prompts' order.
    """
    if not scores or len(scores) % GROUPS:
        return None
    size = len(scores) // GROUPS
    groups = [scores[start : start + size] for start in range(0, len(scores), size)]
    return float(np.std([np.mean([value for prompt in group for value in prompt]) for group in groups]))
