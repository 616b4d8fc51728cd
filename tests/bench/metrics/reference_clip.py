"""HPS v2's score by its published definition, in float64 and from a state dict alone: no code of open_clip or hpsv2.

Preprocessing after `hpsv2/src/open_clip/transform.py`: values from 0 to 1, longest side to the model's by bicubic
interpolation (torchvision's: a = -0.5 with antialias, -0.75 without), black padding, normalised. Then a pre-norm ViT,
a causal text transformer (arXiv 2103.00020), the projections, and the cosine.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.samples.image_set import Pixels

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
State = Mapping[str, Tensor]
Array = np.ndarray[Any, np.dtype[np.float64]]


def cubic(x: Array, a: float) -> Array:
    """Keys' kernel."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def bicubic_matrix(before: int, after: int, *, antialias: bool) -> Array:
    """(after, before): what each old pixel gives to each new one, along one side."""
    scale = before / after
    matrix = np.zeros((after, before))
    centers = (np.arange(after) + 0.5) * scale
    if antialias:
        width = max(scale, 1.0)
        matrix = cubic((np.arange(before) + 0.5 - centers[:, None]) / width, -0.5)
        return matrix / matrix.sum(axis=1, keepdims=True)
    for row, center in enumerate(centers - 0.5):
        first = int(np.floor(center)) - 1
        for pixel in range(first, first + 4):  # beyond the edge stands the edge's own pixel
            matrix[row, min(max(pixel, 0), before - 1)] += cubic(np.array(pixel - center), -0.75)
    return matrix


def preprocess(image: Pixels, size: int, *, antialias: bool) -> Tensor:
    """(1, 3, size, size) float64."""
    values = image.astype(np.float64) / 255
    height, width = image.shape[:2]
    scale = size / max(height, width)
    if scale != 1:
        new = [round(side * scale) for side in (height, width)]
        rows, columns = (
            bicubic_matrix(side, to, antialias=antialias) for side, to in zip((height, width), new, strict=True)
        )
        values = np.einsum("ih,jw,hwc->ijc", rows, columns, values, optimize=True)
        height, width = new
    square = np.zeros((size, size, 3))
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = values
    return torch.from_numpy(((square - MEAN) / STD).transpose(2, 0, 1).copy())[None]


def norm(state: State, name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"].double(), state[f"{name}.bias"].double())


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].double().T + state[f"{name}.bias"].double()


def transformer(state: State, prefix: str, x: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    layers = len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})
    for layer in range(layers):
        block = f"{prefix}{layer}"
        h = norm(state, f"{block}.ln_1", x)  # (tokens, width)
        joint = h @ state[f"{block}.attn.in_proj_weight"].double().T + state[f"{block}.attn.in_proj_bias"].double()
        q, k, v = (part.reshape(len(x), heads, -1).transpose(0, 1) for part in joint.chunk(3, dim=-1))
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5  # (heads, tokens, tokens)
        weights = (scores if mask is None else scores + mask).softmax(dim=-1)
        x = x + linear(state, f"{block}.attn.out_proj", (weights @ v).transpose(0, 1).reshape(x.shape))
        h = linear(state, f"{block}.mlp.c_fc", norm(state, f"{block}.ln_2", x))
        x = x + linear(state, f"{block}.mlp.c_proj", h * 0.5 * (1 + torch.erf(h / 2**0.5)))
    return x


def image_feature(state: State, pixels: Tensor, heads: int) -> Tensor:
    patch = state["visual.conv1.weight"].double()
    x = functional.conv2d(pixels, patch, stride=patch.shape[-1])[0].flatten(1).T  # (patches, width)
    x = torch.cat([state["visual.class_embedding"].double()[None], x]) + state["visual.positional_embedding"].double()
    x = transformer(state, "visual.transformer.resblocks.", norm(state, "visual.ln_pre", x), heads, None)
    return functional.normalize(norm(state, "visual.ln_post", x[0]) @ state["visual.proj"].double(), dim=-1)


def text_feature(state: State, tokens: Tensor, heads: int) -> Tensor:
    x = state["token_embedding.weight"][tokens].double() + state["positional_embedding"].double()  # (tokens, width)
    mask = torch.full((len(x), len(x)), -torch.inf, dtype=torch.float64).triu(1)
    x = norm(state, "ln_final", transformer(state, "transformer.resblocks.", x, heads, mask))
    return functional.normalize(x[tokens.argmax()] @ state["text_projection"].double(), dim=-1)


def score(state: State, image: Pixels, tokens: Tensor, *, size: int, antialias: bool, heads: tuple[int, int]) -> float:
    """The cosine of an image and its prompt's tokens; `heads` of the image and of the text transformer."""
    pixels = preprocess(image, size, antialias=antialias)
    return float(image_feature(state, pixels, heads[0]) @ text_feature(state, tokens, heads[1]))
