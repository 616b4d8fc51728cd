"""What is no shape: broken, merged and half-drawn objects, and those that pruned models leave; material for the judge.

`visible_fit` says of every object of a known scene how much of it a picture still shows, so that pictures which went
through the VAE or a pruned model have their truth as renders do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from bench.profiles import RANKINGS
from bench.progress import track
from bench.shapes.transformer import pack, unpack, velocity_of
from bench.shapes.vae import encode
from bench.shapes.vocabulary import SHAPES, TEXT_TOKENS
from bench.shapes.world import SIZE, Scenes, object_boxes, object_distances, object_masks, render, sample_scenes
from fastflux.files import save_tensors
from fastflux.io.checkpoint import read_json
from fastflux.models.surgery import replace_block_
from fastflux.plan import BlockRef, Replacement

KINDS = ("cut", "hole", "blob", "stretched", "mixed", "merged")
#: How far beyond an object's box surplus pixels count against it.
MARGIN = 4
#: From which noise on a pruned model draws a known scene to its end: places stay, shapes suffer.
NOISES = (0.4, 0.55)
GUIDANCE = 3.0
#: How many of the least important blocks the models lack that draw for the detector's training.
REMOVED = (0, 6, 9, 12, 15)
#: Pictures by each of them and from each noise, and the first seed of their scenes.
DRAWN, DRAWN_SEED = 288, 6 * 10**6


def fault_of_kind(kind: int, scenes: Scenes, slots: Tensor, seed: int) -> Tensor:
    """Signed distances (n, 4, 64, 64) of the scenes, the objects that `slots` (n, 4) names with a fault."""
    generator = torch.Generator().manual_seed(seed)
    device = slots.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(*slots.shape, *(shape or (1, 1)), generator=generator)
        return (low + (high - low) * drawn).to(device)

    distance = object_distances(scenes, device)
    radii = torch.from_numpy(scenes.radii).float().to(device)[:, :, None, None]
    centers = torch.from_numpy(scenes.centers).float().to(device)
    grid = torch.arange(SIZE, device=device) + 0.5
    x, y = grid - centers[:, :, 0, None, None], grid[:, None] - centers[:, :, 1, None, None]  # (n, 4, 1 | 64, 64 | 1)
    match KINDS[kind]:
        case "cut":
            angle = uniform(0, 2 * np.pi)
            faulty = torch.maximum(distance, torch.cos(angle) * x + torch.sin(angle) * y - uniform(-0.3, 0.3) * radii)
        case "hole":
            reach = torch.hypot(x - uniform(-0.4, 0.4) * radii, y - uniform(-0.4, 0.4) * radii)
            faulty = torch.maximum(distance, uniform(0.22, 0.36) * radii - reach)
        case "blob":
            field = F.interpolate(uniform(-1, 1, 9, 9).flatten(0, 1)[None], SIZE, mode="bicubic")[0]
            faulty = distance + uniform(0.35, 0.7) * radii * field.view_as(distance)
        case "stretched":
            narrow, tall = uniform(1.45, 2.2), torch.rand(*slots.shape, generator=generator).to(device) < 0.5
            scale = torch.where(tall[..., None], torch.cat([narrow, 1 / narrow.sqrt()], -1)[:, :, 0],
                                torch.cat([1 / narrow.sqrt(), narrow], -1)[:, :, 0])  # fmt: skip
            theta = torch.zeros(slots.numel(), 2, 3, device=device)
            theta[:, [0, 1], [0, 1]] = scale.flatten(0, 1)
            theta[:, :, 2] = ((centers / (SIZE / 2) - 1) * (1 - scale)).flatten(0, 1)
            around = F.affine_grid(theta, [slots.numel(), 1, SIZE, SIZE], align_corners=False)
            near = distance.clamp(max=SIZE).flatten(0, 1)[:, None]
            faulty = F.grid_sample(near, around, padding_mode="border", align_corners=False).view_as(distance)
        case "mixed":
            other = np.where(scenes.shapes >= 0, (scenes.shapes + 1 + seed % (len(SHAPES) - 1)) % len(SHAPES), -1)
            faulty = torch.lerp(distance, object_distances(replace(scenes, shapes=other), device), uniform(0.4, 0.6))
        case _:  # merged
            angle = uniform(0, 2 * np.pi)[..., 0, 0]
            apart = torch.stack([torch.cos(angle), torch.sin(angle)], -1) * (uniform(0.8, 1.2) * radii)[..., 0]
            beside = replace(scenes, centers=(centers + apart).cpu().numpy())
            faulty = torch.minimum(distance, object_distances(beside, device))
    return torch.where(slots[:, :, None, None], faulty, distance)


def render_faulty(scenes: Scenes, share: float, seed: int, device: str = "cpu") -> Tensor:
    """The scenes as uint8 (n, 3, 64, 64), about `share` of their objects with a fault, of one kind in a scene."""
    generator = torch.Generator().manual_seed(seed)
    slots = torch.rand(scenes.shapes.shape, generator=generator) < share
    kinds = torch.randint(len(KINDS), (len(scenes),), generator=generator)
    distance = object_distances(scenes, device)
    for kind in range(len(KINDS)):
        rows = kinds == kind
        if not rows.any():
            continue
        some = Scenes(*(_rows(getattr(scenes, field.name), rows) for field in fields(scenes)))
        distance[rows] = fault_of_kind(kind, some, slots[rows].to(device), seed)
    return render(scenes, device, distance)


def _rows(values: Any, rows: Tensor) -> Any:
    return values[rows.numpy()] if isinstance(values, np.ndarray) else tuple(np.array(values, object)[rows.numpy()])


def visible_fit(images: Tensor, scenes: Scenes) -> Tensor:
    """How well uint8 pictures show each object of their scenes: (n, 4), an intersection over union; 0 without one.

    A pixel of the object is missing where the picture is nearer to the empty scene than halfway to the object; one
    beside it is surplus where the picture leaves the true one by as much. So another colour alone is no fault.
    """
    device = images.device
    wanted, shown = render(scenes, device).float(), images.float()
    empty = render(replace(scenes, shapes=np.full_like(scenes.shapes, -1)), device).float()
    contrast = (wanted - empty).norm(dim=1)  # (n, 64, 64)
    masks = object_masks(scenes, device)
    area = masks.sum(dim=(2, 3)).clamp(min=1)
    missing = masks & ((shown - empty).norm(dim=1) < contrast / 2)[:, None]
    typical = (masks * contrast[:, None]).sum(dim=(2, 3)) / area
    off = (shown - wanted).norm(dim=1)[:, None] > typical[:, :, None, None] / 2
    boxes, grid = object_boxes(masks), torch.arange(SIZE, device=device) + 0.5
    x0, y0, x1, y1 = (boxes[:, :, side, None] for side in range(4))
    across, down = (grid > x0 - MARGIN) & (grid < x1 + MARGIN), (grid > y0 - MARGIN) & (grid < y1 + MARGIN)
    # The pixel at the outline belongs to neither.
    edge = F.max_pool2d(masks.float(), 3, stride=1, padding=1) > 0
    others = masks.any(dim=1, keepdim=True) & ~masks
    surplus = off & ~edge & ~others & down[:, :, :, None] & across[:, :, None, :]
    fit: Tensor = (area - missing.sum(dim=(2, 3))) / (area + surplus.sum(dim=(2, 3)))
    return fit * masks.any(dim=3).any(dim=2)


@torch.no_grad()
def drawn_by(pipeline: Any, scenes: Scenes, noise: float, seed: int) -> Tensor:
    """The scenes, noised to `noise` and drawn to their end by the pipeline's transformer as it stands."""
    clean = pack(encode(pipeline.vae, render(scenes)))
    generator = torch.Generator().manual_seed(seed)
    tokens = (1 - noise) * clean + noise * torch.randn(clean.shape, generator=generator)
    sequence, pooled, _ = pipeline.encode_prompt(list(scenes.captions), None, max_sequence_length=TEXT_TOKENS)
    ones = torch.ones(len(scenes))
    times = np.linspace(noise, 0, round(10 * noise) + 1)
    for now, later in pairwise(times):
        inputs = tokens, float(now) * ones, GUIDANCE * ones
        tokens = tokens + float(later - now) * velocity_of(pipeline.transformer, inputs, (sequence, pooled))
    pixels: Tensor = pipeline.vae.decode(unpack(tokens)).sample
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def drawn_with_faults(pipeline: Any, path: Path, count: int) -> Callable[[int], tuple[Tensor, Scenes]]:
    """Batches of `count` pictures, by step, by the pipeline without more and more of its blocks; kept in a file."""
    if not path.exists():
        save_tensors({"images": torch.stack([*_drawn(pipeline)])}, path)
    images = load_file(path)["images"]
    groups = [sample_scenes(DRAWN, DRAWN_SEED + group) for group in range(len(images))]

    def batch(step: int) -> tuple[Tensor, Scenes]:
        group, start = step % len(groups), step // len(groups) * count % DRAWN
        return images[group, start : start + count], groups[group][start : start + count]

    return batch


def _drawn(pipeline: Any) -> Iterator[Tensor]:
    kept, ranking = pipeline.transformer, read_json(RANKINGS / "shapes.json")["blocks"]
    ways = [*product(REMOVED, NOISES)]
    for group, (removed, noise) in enumerate(track(ways, "draw without blocks", total=len(ways))):
        pipeline.transformer = copy.deepcopy(kept)
        for entry in ranking[:removed]:
            replace_block_(pipeline.transformer, Replacement(BlockRef.parse(entry["block"]), "removed"))
        yield drawn_by(pipeline, sample_scenes(DRAWN, DRAWN_SEED + group), noise, group)
    pipeline.transformer = kept
