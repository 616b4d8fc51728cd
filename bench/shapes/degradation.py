"""Ways to spoil a picture by a known amount: material for preference pairs and for making the detector robust."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("blur", "noise", "pixelate", "fade", "smear")


def _blur(images: Tensor, level: Tensor) -> Tensor:
    """Blend towards a strongly blurred copy, squared so that low levels stay mild."""
    soft = F.avg_pool2d(F.pad(images, (3, 3, 3, 3), mode="replicate"), 7, stride=1)
    return images + level * (soft - images)


def _noise(images: Tensor, level: Tensor, generator: torch.Generator) -> Tensor:
    return images + 0.35 * level * torch.randn(images.shape, generator=generator).to(images.device)


def _pixelate(images: Tensor, level: Tensor) -> Tensor:
    coarse = F.interpolate(F.avg_pool2d(images, 8), scale_factor=8, mode="nearest")
    return images + level * (coarse - images)


def _fade(images: Tensor, level: Tensor) -> Tensor:
    """Lose contrast towards the picture's mean colour."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return images + 0.85 * level * (mean - images)


def _smear(images: Tensor, level: Tensor, generator: torch.Generator) -> Tensor:
    """Shift pixels by a smooth random field: outlines bend."""
    field = torch.randn(len(images), 2, 6, 6, generator=generator).to(images.device)
    field = F.interpolate(field, size=images.shape[-2:], mode="bicubic", align_corners=True)
    steps = torch.linspace(-1, 1, images.shape[-1], device=images.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([x, y], dim=-1) + 0.22 * level * field.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=True)


def degrade(images: Tensor, kinds: Tensor, levels: Tensor, seed: int) -> Tensor:
    """Spoil uint8 images (n, 3, h, w), each by its kind (n,) of KINDS and level (n,) in [0, 1]; 0 changes nothing.

    The same seed gives the same noise and bends, so two levels of one seed differ in strength alone.
    """
    generator = torch.Generator().manual_seed(seed)
    clean = images.float() / 255
    level = levels.to(images.device).float()[:, None, None, None]
    blurred, noisy = (_blur(clean, level), _noise(clean, level, generator))  # then the smear draws
    spoiled = blurred, noisy, _pixelate(clean, level), _fade(clean, level), _smear(clean, level, generator)
    stacked = torch.stack(spoiled)[kinds.to(images.device), torch.arange(len(images), device=images.device)]
    return (stacked.clamp(0, 1) * 255).round().to(torch.uint8)


def spoil_some(images: Tensor, share: float, strongest: float, seed: int) -> Tensor:
    """A copy of uint8 images with about `share` of them spoiled, by a random kind and a level up to `strongest`."""
    generator = torch.Generator().manual_seed(seed)
    rows = (torch.rand(len(images), generator=generator) < share).nonzero()[:, 0]
    kinds = torch.randint(len(KINDS), (len(rows),), generator=generator)
    levels = strongest * torch.rand(len(rows), generator=generator)
    spoiled = images.clone()
    spoiled[rows] = degrade(images[rows], kinds, levels, seed)
    return spoiled
