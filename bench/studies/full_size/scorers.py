"""Stage of the scorers at full size with random weights: images a second of HPS, GenEval's parts, CLIP, Inception."""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from bench.metrics.detection import Detection
from bench.metrics.models.inception import LAYER, InceptionFeatures
from bench.metrics.models.mask2former import Mask2FormerDetector
from bench.metrics.models.open_clip_model import OpenClipModel, OpenClipSpec
from bench.metrics.quality.geneval_judge import ClipColorClassifier
from bench.records.results import JSON, Measurement, MetricInfo
from bench.samples.image_set import Pixels
from bench.studies.full_size.random_weights import Sizes, fill_, made_on
from bench.studies.full_size.workbench import Need, Workbench, one_each, release

THROUGHPUT = MetricInfo(
    "scorer_throughput", "1", "images/s", higher_is_better=True,
    reference="a scorer's whole work on one image, its preparation on the CPU with it; random weights in float32",
)  # fmt: skip
VARIANT = "scorers"
SIDE = 512
ROUNDS = 3
OBJECTS = 2
DETECTOR = "geneval_detector"
"""Runs one image at a time, as GenEval runs its own."""

Score = Callable[[Sequence[Pixels]], object]


class RandomOpenClip(OpenClipModel):
    """A model of open_clip by its name, with random weights."""

    def __init__(self, architecture: str, sizes: Sizes, device: str, batch_size: int) -> None:
        import open_clip

        self.spec = OpenClipSpec(architecture)
        self.device, self.batch_size = device, batch_size
        model, _, self._preprocess = open_clip.create_model_and_transforms(architecture, device=device)
        fill_(model, sizes.seed, prefix=f"{architecture}.")
        self._model = model.eval()
        self._tokenizer = open_clip.get_tokenizer(architecture)
        self._weights_sha256, self._name = None, architecture


class RandomInception(InceptionFeatures):
    """torch-fidelity's InceptionV3 with random weights."""

    def __init__(self, sizes: Sizes, device: str, batch_size: int) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        class Unloaded(FeatureExtractorInceptionV3):  # type: ignore[misc]  # torch-fidelity has no annotations
            """Takes its file for read."""

            def load_state_dict(self, *_arguments: Any, **_options: Any) -> None:
                """Keep what the constructor made."""

        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        network = Unloaded("inception-v3-compat", [LAYER], feature_extractor_weights_path=nothing)
        fill_(network, sizes.seed, prefix="inception.")
        self.device, self.batch_size, self._network, self._sha256 = device, batch_size, network.to(device), ""


def random_detector(sizes: Sizes, device: str) -> Mask2FormerDetector:
    """Mask2Former Swin-S for COCO."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    hidden = sizes.detector_hidden
    backbone = SwinConfig(
        embed_dim=sizes.detector_width, depths=list(sizes.detector_depths), num_heads=list(sizes.detector_heads),
        window_size=7, out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=hidden, mask_feature_size=hidden, hidden_dim=hidden,
        encoder_feedforward_dim=4 * hidden, dim_feedforward=8 * hidden, num_labels=80,
    )  # fmt: skip
    with made_on(device, torch.float32):
        model = Mask2FormerForUniversalSegmentation(config)
    fill_(model, sizes.seed, prefix="detector.")
    return Mask2FormerDetector(model, device=device)


def _clip_score(model: OpenClipModel, images: Sequence[Pixels]) -> object:
    texts = [f"a photo of {number} stars" for number in range(len(images))]
    return (model.image_features(images) * model.text_features(texts)).sum(dim=-1)


def _colors(model: ClipColorClassifier, images: Sequence[Pixels]) -> object:
    side = SIDE // 2
    objects = [Detection("star", 1.0, (0.0, 0.0, float(side), float(side)), None)] * OBJECTS
    return [model(image, objects, "star") for image in images]


def makers(sizes: Sizes, device: str) -> Mapping[str, Callable[[int], Score]]:
    """By scorer: for a batch size, what scores images."""

    def clip(architecture: str, batch: int) -> OpenClipModel:
        return RandomOpenClip(architecture, sizes, device, batch)

    return {
        "hps": lambda batch: partial(_clip_score, clip(sizes.hps_architecture, batch)),
        "clip_score": lambda batch: partial(_clip_score, clip(sizes.clip_architecture, batch)),
        DETECTOR: lambda _batch: random_detector(sizes, device),
        "geneval_colors": lambda batch: partial(_colors, ClipColorClassifier(clip(sizes.clip_architecture, batch))),
        "inception": lambda batch: RandomInception(sizes, device, batch).raw_image_features,
    }


def units(bench: Workbench) -> list[str]:
    """Every scorer."""
    return list(makers(bench.sizes, bench.device))


def _named(scorer: str) -> MetricInfo:
    return MetricInfo(f"{THROUGHPUT.name}_{scorer}", THROUGHPUT.version, THROUGHPUT.unit, True, THROUGHPUT.reference)  # noqa: FBT003


def _measure(bench: Workbench, name: str) -> Measurement:
    bench.clear()
    sizes = bench.sizes
    batches = (1,) if name in (DETECTOR, "geneval_colors") else sizes.scorer_batches
    generator = np.random.default_rng(sizes.seed)
    images: list[Pixels] = list(generator.integers(0, 256, (sizes.scorer_images, SIDE, SIDE, 3), dtype=np.uint8))
    values: dict[str, float] = {}
    samples: dict[str, list[float]] = {}
    for batch in batches:
        score = makers(sizes, bench.device)[name](batch)
        count = min(len(images), max(16, 4 * batch))
        score(images[:batch])  # warm
        seconds = [_seconds(score, images[:count], bench.device) for _ in range(ROUNDS)]
        values[f"batch{batch}"] = count / median(seconds)
        samples[f"batch{batch}/s"] = seconds
        del score
        release(bench.device)
    settings: dict[str, JSON] = {
        "weights": "random", "image_pixels": SIDE, "images": sizes.scorer_images, "rounds": ROUNDS,
        "architecture": {"hps": sizes.hps_architecture, "inception": "InceptionV3"}.get(name, sizes.clip_architecture)
        if name != DETECTOR else "Mask2Former, Swin",
        "objects": OBJECTS if name == "geneval_colors" else 0, "threads": torch.get_num_threads(),
    }  # fmt: skip
    return Measurement(_named(name), "ok", values=values, scored=len(images), samples=samples, settings=settings)


def _seconds(score: Score, images: Sequence[Pixels], device: str) -> float:
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
    began = perf_counter()
    score(images)
    if cuda:
        torch.cuda.synchronize(device)
    return perf_counter() - began


pieces = one_each(lambda bench, name: {VARIANT: [_measure(bench, name)]}, _named, lambda _: VARIANT)


def need(bench: Workbench) -> Need:
    """The largest of them, HPS v2's."""
    import open_clip

    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(bench.sizes.hps_architecture))
    size = sum(parameter.nbytes for parameter in model.parameters())
    return Need(device=size, remedy="take a GPU with more, or --device cpu for this stage")
