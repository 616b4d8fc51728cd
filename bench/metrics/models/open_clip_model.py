"""CLIP-like models through open_clip, loaded once: features of images and texts, and their cosines as scores."""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from bench.metrics.base import measured, samples_by_prompt
from bench.records.environment import sha256_of
from bench.records.results import JSON, Measurement, MetricInfo
from bench.records.statistics import Estimate
from bench.samples.image_set import GeneratedImage, ImageSet, ImageSetError, Pixels
from fastflux.errors import FastFluxError

LOCAL = "local-dir:"
"""open_clip's prefix of a folder with ``open_clip_config.json`` and the weights; nothing is fetched for it."""

PRECISION = "fp32"
"""open_clip's name of the number format."""
SCALE = 100.0
"""Of cosines."""
Samples: TypeAlias = Mapping[str, list[float]]

_Item = TypeVar("_Item")


class FeatureError(FastFluxError):
    """A model that gives features which are not finite: nothing can be scored with them."""


@dataclass(frozen=True)
class OpenClipSpec:
    """Which model, and how images come to its size.

    Args:
        model: open_clip's architecture name, or ``local-dir:<folder>``.
        pretrained: open_clip's tag or a checkpoint file; "" for a folder.
        resize_mode: "shortest" (then centre crop), "longest" (then black padding) or "squash"; None takes the model's.
        resized_by: "PIL", which rounds to whole pixel values, or "torch", which resizes the values as hpsv2 does; only
            for "longest".
        antialias: whether shrinking filters; PIL always does.
    """

    model: str
    pretrained: str = ""
    resize_mode: str | None = None
    resized_by: str = "PIL"
    antialias: bool = True


class OpenClipModel:
    """A loaded model with its preprocessing and tokenizer.

    Images are resized by PIL, which always filters when it shrinks (antialias), or by torch with the filter pinned, so
    that torchvision's version does not matter; images of the model's own size pass unchanged but for the normalisation.

    Raises:
        FastFluxError: no such folder, file or tag, weights that do not fit, or an activation that does not match them.
    """

    def __init__(self, spec: OpenClipSpec, device: str = "cpu", batch_size: int = 64) -> None:
        _require_resizing(spec)
        self.spec = spec
        self.device = device
        self.batch_size = batch_size
        weights = _weights_of(spec)
        model, self._preprocess, self._tokenizer = _load(spec, device)
        self._model: Any = model.eval().requires_grad_(requires_grad=False)
        self._weights_sha256 = None if weights is None else sha256_of(weights)
        # What records and errors call the model: no path of this machine.
        local = spec.model.startswith(LOCAL)
        self._name = f"{LOCAL}{Path(spec.model.removeprefix(LOCAL)).name}" if local else spec.model

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images the model sees."""
        size = self._model.visual.image_size
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def settings(self) -> dict[str, JSON]:
        """All that determines the features, without paths of this machine: the weights are named by their hash."""
        preprocess = self._model.visual.preprocess_cfg
        return {
            "model": self._name,
            "pretrained": Path(self.spec.pretrained).name if self._weights_sha256 else self.spec.pretrained,
            "weights_sha256": self._weights_sha256,
            "precision": PRECISION,
            "image_size": list(self.image_size),
            "resize_mode": preprocess["resize_mode"],
            "interpolation": preprocess["interpolation"],
            "antialias": self.spec.antialias,
            "resized_by": self.spec.resized_by,
        }

    def preprocess(self, image: Pixels) -> Tensor:
        """(height, width, 3) uint8 -> (3, size, size) float32, resized and normalised."""
        if self.spec.resized_by == "PIL":
            try:
                found: Tensor = self._preprocess(Image.fromarray(image))
            except ValueError as error:
                height, width = image.shape[:2]
                raise FeatureError(
                    f"An image of {width}x{height} pixels cannot be brought to the size of {self._name} ({error}): "
                    "leave it away."
                ) from error
            return found
        config = self._model.visual.preprocess_cfg
        mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))  # (3, 1, 1)
        return (fit_longest_side(image, self.image_size[0], antialias=self.spec.antialias) - mean) / std

    def image_features(self, images: Iterable[Pixels]) -> Tensor:
        """Features of (height, width, 3) uint8 images: (images, dim) float32 on the CPU, each of length 1.

        Raises:
            FeatureError: a feature is not finite.
        """
        return self._normalised(self.raw_image_features(images), "image")

    def raw_image_features(self, images: Iterable[Pixels]) -> Tensor:
        """As `image_features`, of whatever length the model gives them."""
        rows = [
            self._model.encode_image(self._to_model(torch.stack([self.preprocess(image) for image in batch])))
            for batch in self._batches(images)
        ]
        return self._joined(rows, "image")

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Features of texts: (texts, dim) float32 on the CPU, each of length 1; longer texts are cut (`too_long`).

        Raises:
            FeatureError: a feature is not finite.
        """
        rows = [self._model.encode_text(self._tokenizer(batch).to(self.device)) for batch in self._batches(iter(texts))]
        return self._normalised(self._joined(rows, "text"), "text")

    def too_long(self, texts: Sequence[str]) -> int:
        """How many texts have more tokens than the model reads."""
        length = int(self._model.context_length)
        if not texts:
            return 0
        # A text is cut where its last token, the end mark, stands for another one that one more place would show.
        read, wider = self._tokenizer(list(texts)), self._tokenizer(list(texts), context_length=length + 1)
        return int((read[:, -1] != wider[:, length - 1]).sum())

    def _batches(self, items: Iterable[_Item]) -> Iterator[list[_Item]]:
        iterator = iter(items)
        with torch.inference_mode():
            while batch := list(islice(iterator, self.batch_size)):
                yield batch

    def _to_model(self, batch: Tensor) -> Tensor:
        return batch.to(self.device, next(self._model.visual.parameters()).dtype)

    def _joined(self, rows: Sequence[Tensor], kind: str) -> Tensor:
        if not rows:
            raise FeatureError(f"There is no {kind} to take features of; give at least one.")
        features = torch.cat([row.float().cpu() for row in rows])
        if bad := int((~torch.isfinite(features)).any(dim=-1).sum()):
            raise FeatureError(
                f"{bad} of {len(features)} {kind} features of {self._name} are not finite; "
                f"check the weights, or use another precision than {PRECISION}."
            )
        return features

    def _normalised(self, features: Tensor, kind: str) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
        if bad := int((lengths == 0).sum()):
            raise FeatureError(f"{bad} {kind} features of {self._name} are zero; check the weights.")
        return features / lengths


@lru_cache(maxsize=4)
def load_open_clip(spec: OpenClipSpec, device: str = "cpu", batch_size: int = 64) -> OpenClipModel:
    """`OpenClipModel`, one for all metrics that ask for the same."""
    return OpenClipModel(spec, device, batch_size)


def _require_resizing(spec: OpenClipSpec) -> None:
    if spec.resized_by == "PIL" and spec.antialias:
        return
    if spec.resized_by != "torch" or spec.resize_mode != "longest":
        raise FastFluxError(
            f"Images are to be resized by {spec.resized_by!r}, resize_mode={spec.resize_mode!r}, antialias="
            f"{spec.antialias}; expected 'PIL' with antialias, or 'torch' with 'longest'."
        )


def _weights_of(spec: OpenClipSpec) -> Path | None:
    """The file or folder with the weights, or None where open_clip fetches them by tag."""
    if spec.model.startswith(LOCAL):
        folder = Path(spec.model.removeprefix(LOCAL))
        if not (folder / "open_clip_config.json").is_file() or not any(folder.glob("open_clip_*.safetensors")):
            # open_clip itself would only log it and score with random weights.
            raise FastFluxError(f"{folder} lacks open_clip_config.json or open_clip_model.safetensors; give both.")
        if spec.pretrained:
            raise FastFluxError(f"{spec.model} holds its own weights, so pretrained={spec.pretrained!r} must be empty.")
        return folder
    if not spec.pretrained:
        raise FastFluxError(f"{spec.model} without pretrained weights scores at random; name a tag or a file.")
    return Path(spec.pretrained) if Path(spec.pretrained).is_file() else None


def _tokenizer_options(spec: OpenClipSpec) -> dict[str, bool]:
    """A tokenizer of transformers in a folder runs no code of that folder, whatever its configuration asks for."""
    if not spec.model.startswith(LOCAL):
        return {}
    config = json.loads((Path(spec.model.removeprefix(LOCAL)) / "open_clip_config.json").read_text(encoding="utf-8"))
    return {"trust_remote_code": False} if config["model_cfg"].get("text_cfg", {}).get("hf_tokenizer_name") else {}


def _load(spec: OpenClipSpec, device: str) -> tuple[Any, Any, Any]:
    import open_clip

    try:
        with warnings.catch_warnings():
            # ViT-L-14 with OpenAI's weights is built with another activation than they were trained with; open_clip
            # only warns, and every score is off.
            warnings.filterwarnings("error", message="QuickGELU mismatch", category=UserWarning)
            model, _, preprocess = open_clip.create_model_and_transforms(
                spec.model,
                pretrained=spec.pretrained or None,
                precision=PRECISION,
                device=device,
                image_resize_mode=spec.resize_mode,
                pretrained_text=False,
                weights_only=True,
            )
        return model, preprocess, open_clip.get_tokenizer(spec.model, **_tokenizer_options(spec))
    except UserWarning as error:
        raise FastFluxError(f"{error} Use the architecture name that ends in -quickgelu.") from error
    except (RuntimeError, ValueError, OSError, AssertionError, KeyError, AttributeError) as error:
        raise FastFluxError(f"open_clip cannot load {spec.model!r} with {spec.pretrained!r}: {error}") from error


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
    return measured(info, len(images), samples, summary(samples), settings)


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


def fit_longest_side(image: Pixels, size: int, *, antialias: bool) -> Tensor:
    """The image in the middle of a black square, its longest side as long: (3, size, size) float32.

    Bicubic on values from 0 to 1, which may leave that range beside edges; an image with a side of `size` already is
    only padded. hpsv2 leaves the filter to torchvision's default: none before 0.17, with antialias since.
    Source: https://github.com/tgxs002/HPSv2, `hpsv2/src/open_clip/transform.py` (ResizeMaxSize), commit 866735e.

    Args:
        image: (height, width, 3) uint8.
    """
    values = torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255  # (3, height, width)
    height, width = values.shape[1:]
    scale = size / max(height, width)
    if scale != 1.0:
        # A line thinner than a pixel still covers one.
        height, width = (max(1, round(side * scale)) for side in (height, width))
        values = functional.interpolate(
            values[None], size=(height, width), mode="bicubic", align_corners=False, antialias=antialias
        )[0]
    left, top = (size - width) // 2, (size - height) // 2
    return functional.pad(values, (left, size - width - left, top, size - height - top))
