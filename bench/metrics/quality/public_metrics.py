"""The published scorers by their checkpoints: HPS v2, CLIP score and retrieval, FID on InceptionV3, paired metrics.

Every checkpoint is looked at before the first image: that it is there, whole, and of the right architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.metrics.models.inception import load_inception
from bench.metrics.models.open_clip_checkpoint import require_architecture
from bench.metrics.models.open_clip_model import OpenClipSpec
from bench.metrics.quality.clip_score import ClipScore
from bench.metrics.quality.fid import FID
from bench.metrics.quality.hps import HPS
from bench.metrics.quality.paired import Paired
from bench.metrics.quality.retrieval import Retrieval
from bench.samples.image_set import ImageSet, Pixels
from fastflux.errors import FastFluxError

HPS_FILES = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}
"""Checkpoints in https://huggingface.co/xswu/HPSv2 by version."""


def hps_v2(
    checkpoint: Path,
    version: str = "v2.0",
    *,
    antialias: bool = True,
    architecture: str = "ViT-H-14",
    device: str = "cpu",
    batch_size: int = 32,
) -> HPS:
    """HPS v2 as hpsv2 computes it, in float32: on a GPU hpsv2 itself runs in half precision (amp).

    Args:
        checkpoint: the file of that version; the paper's scores are of v2.0.
        antialias: whether images are filtered when they shrink: so does hpsv2 with torchvision 0.17 and later; the
            figures in its README were made without.
        architecture: open_clip's name of the model in the checkpoint.

    Raises:
        FastFluxError: no such version or file, a file of the other version, or of another architecture.
    """
    if version not in HPS_FILES:
        raise FastFluxError(f"There is no HPS {version!r}; expected one of {', '.join(HPS_FILES)}.")
    if not checkpoint.is_file():
        raise FastFluxError(
            f"{checkpoint} is not there; download {HPS_FILES[version]} from https://huggingface.co/xswu/HPSv2."
        )
    # The two versions differ in nothing but their numbers.
    others = {file: other for other, file in HPS_FILES.items() if other != version}
    if checkpoint.name in others:
        raise FastFluxError(
            f"{checkpoint} is HPS {others[checkpoint.name]}, and {version} was asked for; give {HPS_FILES[version]}."
        )
    require_architecture(checkpoint, architecture)
    spec = OpenClipSpec(architecture, str(checkpoint), "longest", resized_by="torch", antialias=antialias)
    return HPS(spec, reference=f"HPS {version}", device=device, batch_size=batch_size)


def clip_spec(architecture: str = "ViT-L-14", tag: str = "openai", checkpoint: Path | None = None) -> OpenClipSpec:
    """A published CLIP, built with the activation that its weights were trained with.

    OpenAI's weights, and a few others, were trained with a fast approximation of GELU. open_clip builds ``ViT-L-14``
    with exact GELU whatever the tag, so that every feature is off; its name with ``-quickgelu`` is the right one.

    Args:
        tag: open_clip's name of the weights; it decides the activation, also of a checkpoint's.
        checkpoint: a file with them; without one open_clip fetches them.

    Raises:
        FastFluxError: no such architecture, tag or file, or a file of another architecture.
    """
    import open_clip

    architecture = architecture.removesuffix("-quickgelu")
    found = open_clip.get_pretrained_cfg(architecture, tag)
    if not found:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none, or no such architecture"
        raise FastFluxError(f"open_clip has no weights {tag!r} of {architecture}; it has {known}.")
    name = f"{architecture}-quickgelu" if found.get("quick_gelu") else architecture
    if checkpoint is None:
        return OpenClipSpec(name, tag)
    if not checkpoint.is_file():
        source = f"https://huggingface.co/{str(found.get('hf_hub', '')).rstrip('/')}"
        raise FastFluxError(f"{checkpoint} is not there; download open_clip_model.safetensors from {source}.")
    if (found["mean"], found["std"], found["resize_mode"]) != (
        open_clip.OPENAI_DATASET_MEAN,
        open_clip.OPENAI_DATASET_STD,
        "shortest",
    ):
        raise FastFluxError(
            f"{tag} of {architecture} was trained on images prepared in another way than those a file is scored with; "
            "give no checkpoint, so that open_clip fetches both."
        )
    require_architecture(checkpoint, name)
    return OpenClipSpec(name, str(checkpoint))


def clip_score(
    architecture: str = "ViT-L-14",
    tag: str = "openai",
    checkpoint: Path | None = None,
    *,
    device: str = "cpu",
    batch_size: int = 64,
) -> ClipScore:
    """CLIP score of a published CLIP (`clip_spec`), 100 x cosine; model, tag and precision are in its reference."""
    spec = clip_spec(architecture, tag, checkpoint)
    return ClipScore(spec, reference=f"CLIP score of {_named(spec, tag)}", device=device, batch_size=batch_size)


def retrieval(
    architecture: str = "ViT-L-14",
    tag: str = "openai",
    checkpoint: Path | None = None,
    *,
    device: str = "cpu",
    batch_size: int = 64,
) -> Retrieval:
    """Retrieval recall by a published CLIP (`clip_spec`)."""
    spec = clip_spec(architecture, tag, checkpoint)
    return Retrieval(spec, reference=f"clip_benchmark with {_named(spec, tag)}", device=device, batch_size=batch_size)


def paired(
    reference: ImageSet,
    architecture: str = "ViT-L-14",
    tag: str = "openai",
    checkpoint: Path | None = None,
    *,
    device: str = "cpu",
    batch_size: int = 64,
) -> Paired:
    """Paired metrics against `reference`, with the image features of a published CLIP (`clip_spec`)."""
    spec = clip_spec(architecture, tag, checkpoint)
    label = f"paired with the dense model, CLIP similarity by {_named(spec, tag)}"
    return Paired(reference, spec, label=label, device=device, batch_size=batch_size)


def inception_fid(
    weights: Path | None,
    reference_images: Path | Sequence[Pixels],
    *,
    device: str = "cpu",
    batch_size: int = 64,
    precision_recall: bool = True,
) -> FID:
    """FID and KID on InceptionV3, as published figures have them, with precision and recall on the same features.

    Args:
        weights: torch-fidelity's file (`bench.metrics.models.inception.load_inception`).
        reference_images: as `FID` takes them.

    Raises:
        FastFluxError: no weights, or others than InceptionV3's; no reference images.
    """
    features = load_inception(weights, device, batch_size)
    reference = "FID and KID, InceptionV3"
    return FID(features, reference_images=reference_images, reference=reference, precision_recall=precision_recall)


def _named(spec: OpenClipSpec, tag: str) -> str:
    return f"{spec.model} {tag}, {spec.precision}"
