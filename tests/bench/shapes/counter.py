"""A counter of FLUX-Shapes objects without a model: colour segmentation, then the best-fitting outline by area.

It shares nothing with the detector but the world's definition of a shape, a colour and a style, so where both
agree on a picture neither is fooled by it (`test_judge.py`). `python -m tests.bench.shapes.counter runs/shapes` holds
both against each other on every fourth GenEval picture of each variant of a run, seconds a variant.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from bench.metrics.detection import Detection
from bench.metrics.quality.geneval_judge import judge
from bench.progress import console
from bench.records.results import read_records
from bench.samples.image_set import Pixels
from bench.samples.prompts import read_prompts
from bench.shapes.vocabulary import COLOR_NAMES, COLORS, SHAPES, STYLE_NAMES, STYLES
from bench.shapes.world import SIZE, signed_distance

#: Agreement with its best outline from which on a patch of colour is that shape (`_fit`).
SOUND = 0.9
#: Pixels below which a patch is a speck.
SMALLEST = 40
#: By how many pixels an outline is moved about to find where it fits.
SHIFT = 3
#: The gradients' colours at the top and at the bottom, as the world draws them.
_SKIES = {
    "photo": ((0.70, 0.71, 0.73), (0.52, 0.52, 0.54)),
    "anime": ((0.74, 0.88, 0.97), (0.90, 0.96, 0.99)),
    "concept-art": ((0.09, 0.16, 0.22), (0.20, 0.30, 0.34)),
    "paintings": ((0.85, 0.77, 0.60), (0.76, 0.66, 0.48)),
}
_PALETTE = np.array(list(COLORS.values())) / 255  # (10, 3)
_GLOW = np.array([0.95, 0.85, 0.55])


@dataclass(frozen=True)
class Counted:
    """A patch: what it is nearest to, how far it agrees with that outline, its colour, its box."""

    shape: str
    fit: float
    color: str
    box: tuple[float, float, float, float]


def _shades(style: str) -> np.ndarray:
    """What each colour may look like inside an object: (10, shades, 3)."""
    if style == "photo":
        light = np.linspace(0.7, 1.35, 6)[:, None]
        return np.clip(_PALETTE[:, None] * light + 0.10 * (light - 1), 0, 1)
    if style == "anime":
        return _PALETTE[:, None] * np.array([0.82, 1.0])[:, None]
    if style == "concept-art":
        return np.clip(_PALETTE[:, None] * np.linspace(0.8, 1.1, 4)[:, None], 0, 1)
    return np.clip(_PALETTE[:, None] * 0.94 + 0.03 + np.linspace(-0.07, 0.07, 3)[:, None], 0, 1)


def _grounds(style: str, image: np.ndarray) -> np.ndarray:
    """What the ground may look like in each row: (64, shades, 3); its brightness is read at the picture's edges."""
    top, bottom = (np.array(color) for color in _SKIES[style])
    ramp = np.linspace(1, 0, SIZE)[:, None]
    sky = bottom + (top - bottom) * ramp
    sky = sky + np.median(np.concatenate([image[:, :2], image[:, -2:]], axis=1) - sky[:, None], axis=(0, 1))
    if style == "photo":
        return np.stack([sky * shadow for shadow in np.linspace(0.62, 1.02, 15)], axis=1)
    if style == "concept-art":
        return np.stack([sky + glow * (_GLOW - sky) for glow in np.linspace(0, 0.36, 10)], axis=1)
    return np.stack([sky + stroke for stroke in (-0.05, 0.0, 0.05)], axis=1)


def _distance(image: np.ndarray, shades: np.ndarray) -> np.ndarray:
    """Of each pixel to the nearest of some colours (rows or 1, shades, 3)."""
    found: np.ndarray = np.linalg.norm(image[:, :, None] - shades[:, None], axis=-1).min(axis=-1)
    return found


@cache
def _outlines(radius: float) -> np.ndarray:
    """The shapes of a radius around the middle of a (2 SIZE + 1)-wide picture: boolean (8, side, side)."""
    steps = torch.arange(-SIZE, SIZE + 1) / radius
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return np.stack([(signed_distance(shape, x, y) < 0).numpy() for shape in range(len(SHAPES))])


def _fit(mask: np.ndarray) -> tuple[str, float]:
    """The shape whose outline, of any place and size, overlaps a patch most; and how much of both agrees.

    1 - the pixels that one has and the other has not, nor next to them, over the outline's area: a pixel at the edge
    says nothing, and thin shapes are mostly edge.
    """
    rows, columns = np.nonzero(mask)
    patch = np.pad(mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], 2)
    height, width = patch.shape
    best, found = 0.0, ("", 0.0)
    for radius in np.arange(0.46, 0.64, 0.03) * (max(patch.shape) - 4):
        outlines = _outlines(round(float(radius) * 2) / 2)
        top, left = SIZE - height // 2 - SHIFT, SIZE - width // 2 - SHIFT
        around = outlines[:, top : top + height + 2 * SHIFT, left : left + width + 2 * SHIFT]
        windows = np.lib.stride_tricks.sliding_window_view(around, patch.shape, axis=(1, 2))
        common = np.tensordot(windows.astype(np.float32), patch.astype(np.float32), axes=2)  # (8, places, places)
        area = outlines.sum(axis=(1, 2))
        overlaps = common / (area[:, None, None] + patch.sum() - common)
        if (value := float(overlaps.max())) > best:
            shape, *place = np.unravel_index(overlaps.argmax(), overlaps.shape)
            outline = windows[shape, *place]
            wrong = (patch & ~ndimage.binary_dilation(outline)) | (outline & ~ndimage.binary_dilation(patch))
            best, found = value, (SHAPES[int(shape)], 1 - float(wrong.sum() / area[shape]))
    return found


def patches(pixels: Pixels, style: str) -> list[Counted]:
    """All patches of colour of a picture in a known style, whatever they show."""
    image = pixels.astype(np.float64) / 255
    shades = _shades(style)
    by_color = np.stack([_distance(image, shades[[color]]) for color in range(len(shades))])
    ground = _distance(image, _grounds(style, image))
    edge = [(0.10, 0.08, 0.20)] if style == "anime" else [tuple(_GLOW)] if style == "concept-art" else []
    outline = _distance(image, np.array([edge])) if edge else np.full_like(ground, np.inf)
    labels, number = ndimage.label(np.minimum(by_color.min(axis=0), outline) < ground)
    found = []
    for label in range(1, number + 1):
        mask = labels == label
        if mask.sum() < SMALLEST:
            continue
        inner = mask & (outline > by_color.min(axis=0))
        votes = by_color[:, inner if inner.any() else mask].argmin(axis=0)
        main = int(np.bincount(votes, minlength=len(COLOR_NAMES)).argmax())
        # A pixel half ground, half object looks like a third colour: the edge is where the object's own is nearer.
        blends = [shades[main] + part * (np.array(edge) - shades[main]) for part in (0.0, 0.25, 0.5, 0.75, 1.0) if edge]
        mask &= _distance(image, np.concatenate(blends or [shades[main]])[None]) < ground
        if mask.sum() < SMALLEST:
            continue
        rows, columns = np.nonzero(mask)
        box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
        found.append(Counted(*_fit(mask), COLOR_NAMES[main], box))
    return found


def style_of(prompt: str) -> str:
    """The style that a caption asks for."""
    return next(name for name in STYLE_NAMES if prompt.startswith(STYLES[name]))


def verdict(pixels: Pixels, prompt: str, metadata: Mapping[str, Any]) -> bool:
    """GenEval's rules on what this counter sees."""
    colors = {}
    detections = []
    for patch in patches(pixels, style_of(prompt)):
        if patch.fit >= SOUND:
            detections.append(Detection(patch.shape, 1.0, patch.box))
            colors[id(detections[-1])] = patch.color
    return judge(
        pixels, detections, metadata, lambda _image, objects, _name: [colors[id(one)] for one in objects]
    ).correct


def main(run: Path, prompts: Path = Path("prompts/shapes/geneval.jsonl")) -> None:
    """Print on how much of a run's pictures judge and counter agree, and what one of them alone takes for right."""
    asked = {prompt.id: prompt for prompt in read_prompts(prompts)}
    for record in read_records(run / "results"):
        judged = next(found.samples for found in record.measurements if found.info.name == "geneval")
        both: list[tuple[bool, bool]] = []
        for place, name in enumerate(sorted(judged)):
            prompt, draw = asked[name.rpartition("/")[2]], place % 4
            path = run / record.variant / "images" / f"{prompt.id}_{draw}.png"
            pixels = np.asarray(Image.open(path).convert("RGB"))
            both.append((bool(judged[name][draw]), verdict(pixels, prompt.prompt, prompt.metadata or {})))
        agreed = sum(ours == theirs for ours, theirs in both) / len(both)
        told = f"right by the judge alone {both.count((True, False))}, by the counter alone {both.count((False, True))}"
        console.print(f"{record.variant}: {agreed:.3f} of {len(both)}; {told}", markup=False, highlight=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
