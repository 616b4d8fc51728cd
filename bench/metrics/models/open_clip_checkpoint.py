"""Which CLIP a metric uses, and what a checkpoint file holds, told from its shapes before anything is built."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch

from bench.metrics.models.open_clip_model import LOCAL, PRECISION, OpenClipModel, OpenClipSpec, load_open_clip
from bench.records.results import Data
from bench.settings import Batch, Place, PlaceOrName
from fastflux.errors import FastFluxError

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


def require_architecture(checkpoint: Path, architecture: str) -> None:
    """Check that a file holds the weights of an architecture of open_clip; pickles are read with ``weights_only``.

    Raises:
        FastFluxError: the file is none of weights, or they are another model's: what was found and what was expected.
    """
    found, expected = _found(checkpoint), _expected(architecture)
    # open_clip takes the temperature as a number or as a list of one.
    differing = [key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)]
    differing = sorted(key for key in differing if key not in {"logit_scale", "attn_mask"})
    if not differing:
        return
    key = next((key for key in differing if key in found and key in expected), differing[0])
    raise FastFluxError(
        f"{checkpoint} holds {outline(found)}; expected {architecture}, which is {outline(expected)} "
        f"({key}: {_shape(found, key)} against {_shape(expected, key)}). Give a checkpoint of that architecture."
    )


def outline(shapes: Shapes) -> str:
    """The sizes of a CLIP in words, from the shapes of its state dict."""
    patch, text = shapes.get("visual.conv1.weight"), shapes.get("text_projection")
    positions = shapes.get("visual.positional_embedding")
    if patch is None or text is None or positions is None or not (len(patch) == 4 and len(text) == 2):
        names = ", ".join(sorted(shapes)[:2])
        return f"no CLIP with two transformers ({len(shapes)} tensors: {names}, ...)"
    image = f"{_layers(shapes, 'visual.transformer.resblocks.')} image layers of width {patch[0]}"
    words = f"{_layers(shapes, 'transformer.resblocks.')} text layers of width {text[0]}"
    return f"a CLIP of {image} with {positions[0] - 1} patches of {patch[-1]} pixels, {words} and {text[1]} features"


def _layers(shapes: Shapes, prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)})


def _shape(shapes: Shapes, key: str) -> str:
    return "x".join(str(size) for size in shapes[key]) or "a number" if key in shapes else "absent"


def _expected(architecture: str) -> Shapes:
    import open_clip

    config = open_clip.get_model_config(architecture)
    if config is None:
        raise FastFluxError(f"open_clip has no architecture {architecture!r}; expected a name like 'ViT-H-14'.")
    try:
        with torch.device("meta"):
            model = open_clip.CLIP(**config)
    except TypeError as error:
        raise FastFluxError(
            f"{architecture} is no CLIP with two plain transformers ({error}); let open_clip fetch its weights by tag."
        ) from error
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _found(checkpoint: Path) -> Shapes:
    if checkpoint.suffix == ".safetensors":
        return _safetensors(checkpoint)
    try:
        content = _load(checkpoint)
    except pickle.UnpicklingError as error:
        raise FastFluxError(
            f"{checkpoint} holds more than tensors and plain data, and loading it would run what it holds; "
            "give a file of weights only."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise FastFluxError(f"{checkpoint} is no whole checkpoint ({error}); download it again.") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    shapes = {str(key): tuple(value.shape) for key, value in state.items() if isinstance(value, torch.Tensor)}
    # open_clip takes this prefix away as well; distributed training leaves it.
    return {key.removeprefix("module."): shape for key, shape in shapes.items()}


def _load(checkpoint: Path) -> Any:
    try:
        return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(checkpoint, map_location="cpu", weights_only=True)  # of torch before 1.6


def _safetensors(checkpoint: Path) -> Shapes:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(checkpoint, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  # is no dict
    except (SafetensorError, OSError) as error:
        raise FastFluxError(f"{checkpoint} is no whole checkpoint ({error}); download it again.") from error


class ClipSettings(Data, frozen=True):
    """A CLIP and how many images it takes at once.

    Args:
        model: open_clip's name of the architecture, or a folder with ``open_clip_config.json`` and the weights.
        tag: open_clip's name of the weights; it decides the activation, also of a checkpoint's. Not of a folder.
        checkpoint: a file with them; without one open_clip fetches them. Not of a folder.
        reference: what the metric's scores may be called; "" names the model.
    """

    model: PlaceOrName = PlaceOrName("ViT-L-14")
    tag: str = "openai"
    checkpoint: Place = Place()
    batch_size: Batch = 64
    reference: str = ""

    def spec(self) -> OpenClipSpec:
        """The model in open_clip's terms.

        OpenAI's weights, and a few others, were trained with a fast approximation of GELU. open_clip builds
        ``ViT-L-14`` with exact GELU whatever the tag, so that every feature is off; its name with ``-quickgelu`` is
        the right one.

        Raises:
            FastFluxError: no such architecture, tag or file, or a file of another architecture.
        """
        if self.model.is_path:
            return OpenClipSpec(f"{LOCAL}{self.model}")
        return clip_spec(self.model, self.tag, self.checkpoint)

    def load(self, device: str) -> OpenClipModel:
        """The model, one for all metrics that ask for the same."""
        return load_open_clip(self.spec(), device, self.batch_size)

    def title(self, of: str) -> str:
        """What the scores may be called: the reference, or `of` that model with its tag and precision."""
        return self.reference or f"{of} {self.spec().model} {self.tag}, {PRECISION}"


def clip_spec(architecture: str, tag: str, checkpoint: Place) -> OpenClipSpec:
    """A published CLIP, built with the activation that its weights were trained with (`ClipSettings.spec`)."""
    import open_clip

    architecture = architecture.removesuffix("-quickgelu")
    found = open_clip.get_pretrained_cfg(architecture, tag)
    if not found:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none, or no such architecture"
        raise FastFluxError(f"open_clip has no weights {tag!r} of {architecture}; it has {known}.")
    name = f"{architecture}-quickgelu" if found.get("quick_gelu") else architecture
    if not checkpoint:
        return OpenClipSpec(name, tag)
    if not checkpoint.path.is_file():
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
    require_architecture(checkpoint.path, name)
    return OpenClipSpec(name, checkpoint)
