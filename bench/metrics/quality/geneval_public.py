"""GenEval with public models: COCO detectors and OpenAI's CLIP, or the verdicts of the official evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bench.metrics.models.mask2former import PUBLIC_WEIGHTS, Mask2FormerDetector
from bench.metrics.models.mmdet_detector import MMDetDetector
from bench.metrics.models.open_clip_model import OpenClipSpec, load_open_clip
from bench.metrics.quality.color_classifier import ClipColorClassifier
from bench.metrics.quality.geneval import GenEval, known_images_test
from bench.metrics.quality.geneval_official import OfficialGenEval
from bench.metrics.quality.known_images import read_known_images
from bench.samples.geneval_vocabulary import COCO_CLASSES
from fastflux.errors import FastFluxError

PUBLIC_CLIP = OpenClipSpec("ViT-L-14-quickgelu", "openai")
"""GenEval's CLIP; "ViT-L-14" builds it with another activation in today's open_clip."""
#: The masks of a batch are kept, each of the size of its image, up to 100 for each image.
BATCH = 4


def public_geneval(
    detector: Literal["mask2former", "mmdet"] = "mask2former",
    *,
    weights: str | Path | None = None,
    config: str | Path | None = None,
    clip: OpenClipSpec = PUBLIC_CLIP,
    known_images: Path | None = None,
    device: str = "cpu",
) -> GenEval:
    """GenEval's judge behind a public detector, colors by CLIP.

    The scores are called "GenEval" with its own detector and CLIP; with others they are called a variant of it.

    Args:
        detector: "mask2former" (transformers) or "mmdet" (GenEval's own, which must be installed).
        weights: a folder or hub id of a Mask2Former (Facebook's Swin-S by default), or mmdet's checkpoint.
        config: mmdet's configuration of that checkpoint.
        clip: GenEval's ViT-L-14 by default.
        known_images: a folder as `read_known_images` takes it, tried first. Without one, a detector that finds nothing
            at all fails the measurement, and the share of single objects' images with any object is measured too.

    Raises:
        FastFluxError: an unknown detector, or weights, images or libraries that are missing, before any scoring.
    """
    known = None if known_images is None else read_known_images(known_images, COCO_CLASSES)
    finder = _detector(detector, weights, config, device)
    colors = ClipColorClassifier(load_open_clip(clip, device))
    others = []
    if not (isinstance(finder, MMDetDetector) and finder.is_reference):
        others.append(f"objects by {finder.settings['detector']} {finder.settings['weights']}")
    if clip != PUBLIC_CLIP:
        others.append(f"colors by {colors.settings['model']} {colors.settings['pretrained']}".rstrip())
    return GenEval(
        finder,
        colors,
        self_test=None if known is None else known_images_test(known, listed_only=True),
        reference=f"GenEval, variant: {', '.join(others)}" if others else "GenEval",
        settings={
            **finder.settings,
            **{f"color_{key}": value for key, value in colors.settings.items()},
            "known_images": 0 if known is None else len(known),
        },
        batch_size=BATCH,
    )


def official_geneval(results: Path) -> OfficialGenEval:
    """GenEval by the results file of its official evaluator, of images that `write_geneval_folder` wrote for it.

    Raises:
        FastFluxError: a file that cannot be read or is not of the evaluator's form.
    """
    return OfficialGenEval(results)


def _detector(
    name: str, weights: str | Path | None, config: str | Path | None, device: str
) -> Mask2FormerDetector | MMDetDetector:
    if name == "mask2former":
        return Mask2FormerDetector.load(weights or PUBLIC_WEIGHTS, device)
    if name != "mmdet":
        raise FastFluxError(f"There is no detector {name!r}; expected 'mask2former' or 'mmdet'.")
    if weights is None or config is None:
        raise FastFluxError("The detector 'mmdet' needs weights (its checkpoint) and config; give both files.")
    return MMDetDetector(Path(config), Path(weights), device)
