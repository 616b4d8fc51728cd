"""Human preference score of images by style: 100 x cosine between image and prompt features of a preference model.

Source: HPS v2, https://github.com/tgxs002/HPSv2 (benchmark: one image of each of 4 x 800 prompts; a style's score is
the mean of 10 groups of 80 images, which is the mean of its 800; "Averaged" is the mean of all 3200).
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.image_set import ImageSet, ImageSetError
from bench.metrics.base import incomplete, samples_by_prompt, values_and_intervals
from bench.metrics.clip_score import SCALE, own_prompt_cosines, prompts_of
from bench.metrics.open_clip_model import FeatureError, OpenClipSpec, load_open_clip
from bench.results import JSON, Measurement, MetricInfo
from bench.statistics import strata_of, stratified_means

STYLES = ("anime", "concept-art", "paintings", "photo")


class HPS:
    """Scores the images of the set "hps".

    Args:
        model, pretrained: the preference model (`OpenClipSpec`); HPS v2.0 is ("ViT-H-14", its checkpoint file).
        reference: what the scores may be called.
        styles: the styles there must be; their order is that of the values.
        resize_mode: HPS v2 shrinks the longest side and pads with black.
        seed: of the intervals' resampling.
    """

    def __init__(
        self,
        model: str,
        pretrained: str = "",
        *,
        reference: str = "HPS v2",
        styles: Sequence[str] = STYLES,
        resize_mode: str = "longest",
        device: str = "cpu",
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        self.info = MetricInfo("hps", "1", "100 x cosine", higher_is_better=True, reference=reference)
        self.styles = tuple(styles)
        self.seed = seed
        self.model = load_open_clip(OpenClipSpec(model, pretrained, resize_mode), device, batch_size)

    def __call__(self, images: ImageSet) -> Measurement:
        """Values: the mean of each style and "averaged" over all images; failed if an image is missing or damaged."""
        images = images.subset("hps")
        settings: dict[str, JSON] = {**self.model.settings, "scale": SCALE, "interval_seed": self.seed}
        if (failed := incomplete(self.info, images, settings)) is not None:
            return failed
        present = {image.style for image in images.images}
        if present != set(self.styles):
            names = sorted(str(style) for style in present)
            return Measurement.failed(
                self.info, f"the images have the styles {names}; expected {sorted(self.styles)}", settings=settings
            )
        try:
            scores = own_prompt_cosines(self.model, images)
        except (ImageSetError, FeatureError) as error:
            return Measurement.failed(self.info, str(error), missing=len(images), settings=settings)
        samples = samples_by_prompt(
            (str(image.style), image, score) for image, score in zip(images.images, scores, strict=True)
        )
        means = stratified_means(strata_of(samples), weighting="images", seed=self.seed)
        ordered = {style: means.strata[style] for style in self.styles}
        values, intervals = values_and_intervals({**ordered, "averaged": means.overall})
        return Measurement(
            self.info,
            "ok",
            values=values,
            intervals=intervals,
            scored=len(images),
            samples=samples,
            settings={**settings, "prompts_too_long": self.model.too_long(prompts_of(images))},
        )
