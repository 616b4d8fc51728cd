"""Resizing of pixel values by torch as hpsv2 does it: nothing is rounded, and the antialias filter is pinned."""

import torch
from torch import Tensor
from torch.nn import functional

from bench.samples.image_set import Pixels


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
