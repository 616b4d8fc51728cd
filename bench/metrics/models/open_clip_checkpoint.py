"""What a checkpoint file holds, told from the shapes in it before anything is built or scored."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch

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
