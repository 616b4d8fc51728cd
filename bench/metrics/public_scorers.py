"""The scorers of the profiles of public models: HPS v2, GenEval, CLIP score, and FID where there are references."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from bench.metrics.quality import public_metrics as public
from bench.metrics.quality.geneval_public import PUBLIC_CLIP, official_geneval, public_geneval
from bench.profiles.profile import ROOT

if TYPE_CHECKING:
    from bench.metrics.base import Metric
    from bench.metrics.quality.paired import Paired
    from bench.samples.image_set import ImageSet


def public_scorers(
    device: str = "cpu",
    *,
    hps: str = "",
    hps_version: str = "v2.0",
    geneval_detector: Literal["mask2former", "mmdet"] = "mask2former",
    geneval_weights: str = "",
    geneval_config: str = "",
    geneval_known_images: str = "",
    geneval_results: str = "",
    clip: str = "",
    clip_architecture: str = "ViT-L-14",
    clip_tag: str = "openai",
    inception: str = "",
    fid_reference_images: str = "",
    hps_architecture: str = "ViT-H-14",
) -> tuple[Metric, ...]:
    """All image metrics, their models loaded once; what is left empty is left out (HPS, FID) or fetched (CLIP).

    Paths are absolute or relative to the repository: `hps` the checkpoint, `clip` a file of the CLIP that
    `clip_architecture` and `clip_tag` name, `geneval_weights` a folder or hub id (mask2former) or mmdet's checkpoint,
    `geneval_results` the official evaluator's results, which then stand for the detector, `fid_reference_images` a
    folder of pictures.

    Raises FastFluxError for whatever is not there or not what it should be.
    """
    scorers: list[Metric] = []
    if hps:
        scorers.append(public.hps_v2(ROOT / hps, hps_version, architecture=hps_architecture, device=device))
    if geneval_results:
        scorers.append(official_geneval(ROOT / geneval_results))
    else:
        scorers.append(
            public_geneval(
                geneval_detector,
                weights=_place(geneval_weights),
                config=_place(geneval_config),
                clip=public.clip_spec(clip_architecture, clip_tag, ROOT / clip) if clip else PUBLIC_CLIP,
                known_images=ROOT / geneval_known_images if geneval_known_images else None,
                device=device,
            )
        )
    checkpoint = ROOT / clip if clip else None
    scorers.append(public.clip_score(clip_architecture, clip_tag, checkpoint, device=device))
    scorers.append(public.retrieval(clip_architecture, clip_tag, checkpoint, device=device))
    if fid_reference_images:
        weights = ROOT / inception if inception else None
        scorers.append(public.inception_fid(weights, ROOT / fid_reference_images, device=device))
    return tuple(scorers)


def public_ranking_scorers(
    device: str = "cpu",
    *,
    inception: str = "",
    clip: str = "",
    clip_architecture: str = "ViT-L-14",
    clip_tag: str = "openai",
    **_others: str,
) -> tuple[Metric, ...]:
    """FID on InceptionV3 and CLIP score, for the importance of blocks, which gives FID its reference itself."""
    weights = ROOT / inception if inception else None
    nothing = [np.zeros((64, 64, 3), dtype=np.uint8)] * 2  # FID wants two
    return (
        public.inception_fid(weights, nothing, device=device, precision_recall=False),
        public.clip_score(clip_architecture, clip_tag, ROOT / clip if clip else None, device=device),
    )


def public_paired(
    reference: ImageSet,
    device: str = "cpu",
    *,
    clip: str = "",
    clip_architecture: str = "ViT-L-14",
    clip_tag: str = "openai",
    **_others: str,
) -> Paired:
    """Paired metrics against the dense model's images, with the CLIP of `public_scorers`."""
    return public.paired(reference, clip_architecture, clip_tag, ROOT / clip if clip else None, device=device)


def _place(text: str) -> str | None:
    """A path of the repository made absolute; a hub id, which is no file here, as it is; None for nothing."""
    return str(ROOT / text) if text and (ROOT / text).exists() else text or None
