"""The rendered world: scenes drawn from a seed, with exact ground truth (classes, colours, boxes, masks) and captions.

A scene holds one to four objects that never overlap. Its metadata follows GenEval's scheme, its caption GenEval's
templates. The splits draw from separate seed streams; pairs named by `vocabulary.held_out` occur in no training scene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.samples.prompts import RELATIONS, TASKS
from bench.shapes.vocabulary import COLOR_NAMES, COLORS, HELD_OUT, MAX_OBJECTS, SHAPES, STYLE_NAMES, caption

SIZE = 64
#: Each split has its own stream of seeds, so no scene of one can occur in another.
SPLITS = {"train": 0, "calibration": 1, "evaluation": 2}
#: How often each caption template occurs in training; "position_color" exists for richer prompts only.
TASK_WEIGHTS = {
    "single_object": 0.10,
    "two_object": 0.18,
    "counting": 0.20,
    "colors": 0.12,
    "position": 0.14,
    "color_attr": 0.16,
    "position_color": 0.10,
}
#: What the transformers see: more bindings than the world's own mixture, for they are learned last.
TRAINING_TASKS = {
    "single_object": 0.16,
    "two_object": 0.19,
    "counting": 0.14,
    "colors": 0.07,
    "position": 0.18,
    "color_attr": 0.14,
    "position_color": 0.12,
}


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes: everything that determines the pictures, and what is true of them.

    shapes, colors: (n, 4) indices, -1 where there is no object; centers: (n, 4, 2) pixels x, y; radii: (n, 4) pixels;
    styles: (n,) indices; noise: (n, 8) uniform numbers that vary lighting and brush strokes.
    """

    shapes: np.ndarray
    colors: np.ndarray
    centers: np.ndarray
    radii: np.ndarray
    styles: np.ndarray
    noise: np.ndarray
    metadata: tuple[dict[str, Any], ...]
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.styles)

    def __getitem__(self, rows: slice) -> Scenes:
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))


def sample_scenes(count: int, seed: int, split: str = "train", *, tasks: dict[str, float] | None = None) -> Scenes:
    """Draw `count` scenes of a split; the same arguments always give the same scenes.

    `tasks` overrides the weights of the caption templates. Only the evaluation split contains held-out pairs.
    Raises KeyError for an unknown split.
    """
    rng = np.random.default_rng([SPLITS[split], seed])
    weights = tasks or TASK_WEIGHTS
    names = list(weights)
    chances = np.array([weights[name] for name in names])
    chosen = rng.choice(len(names), size=count, p=chances / chances.sum())
    shapes = np.full((count, MAX_OBJECTS), -1)
    colors = np.full((count, MAX_OBJECTS), -1)
    centers = np.zeros((count, MAX_OBJECTS, 2))
    radii = rng.uniform(8.0, 11.5, size=(count, MAX_OBJECTS))
    styles = rng.integers(len(STYLE_NAMES), size=count)
    metadata: list[dict[str, Any]] = []

    def color_of(shape: str) -> str:
        while True:
            color = COLOR_NAMES[rng.integers(len(COLOR_NAMES))]
            if split == "evaluation" or (color, shape) not in HELD_OUT:
                return color

    for row in range(count):
        task = names[chosen[row]]
        entry = _draw_metadata(task, rng, color_of)
        objects = _expand(entry, color_of)
        number = len(objects)
        shapes[row, :number], colors[row, :number] = zip(*objects, strict=True)
        relation = entry["include"][1]["position"][0] if task.startswith("position") else None
        centers[row, :number] = _layout(number, relation, rng)
        if number == 1:
            radii[row, 0] = rng.uniform(9.0, 13.0)
        metadata.append(entry)
    captions = tuple(caption(STYLE_NAMES[style], entry) for style, entry in zip(styles, metadata, strict=True))
    return Scenes(shapes, colors, centers, radii, styles, rng.random((count, 8)), tuple(metadata), captions)


def _draw_metadata(task: str, rng: np.random.Generator, color_of: Callable[[str], str]) -> dict[str, Any]:
    """One entry of GenEval's metadata scheme, without its prompt; `color_of` draws a colour for a shape."""
    first, second = (SHAPES[i] for i in rng.choice(len(SHAPES), size=2, replace=False))
    if task == "counting":
        count = int(rng.integers(2, MAX_OBJECTS + 1))
        item: dict[str, Any] = {"class": first, "count": count}
        if rng.random() < 0.3:
            item["color"] = color_of(first)
        return {"tag": task, "include": [item], "exclude": [{"class": first, "count": count + 1}]}
    include: list[dict[str, Any]] = [{"class": first, "count": 1}]
    if task not in {"single_object", "colors"}:
        include.append({"class": second, "count": 1})
    if task in {"colors", "color_attr", "position_color"}:
        for item in include:
            item["color"] = color_of(item["class"])
    if task.startswith("position"):
        include[1]["position"] = [RELATIONS[rng.integers(len(RELATIONS))], 0]
    return {"tag": task if task in TASKS else "position", "include": include}


def _expand(entry: dict[str, Any], color_of: Callable[[str], str]) -> list[tuple[int, int]]:
    """(shape, colour) index of every object to draw; objects of one counted group share their colour."""
    objects = []
    for item in entry["include"]:
        color = item.get("color") or color_of(item["class"])
        objects += [(SHAPES.index(item["class"]), COLOR_NAMES.index(color))] * item["count"]
    return objects


def _layout(number: int, relation: str | None, rng: np.random.Generator) -> np.ndarray:
    """Centres (number, 2) in pixels, far enough apart that objects of the largest radius cannot touch.

    For a relation, the second object stands in it to the first ("left of": second left of first).
    """
    near, far = 17.0, 47.0
    if number == 1:
        return rng.uniform(16.0, 48.0, size=(1, 2))
    if number == 2:
        relation = relation or RELATIONS[rng.integers(len(RELATIONS))]
        along = rng.uniform(-3.0, 3.0, size=2) + (
            np.array([far, near]) if relation in {"left of", "above"} else np.array([near, far])
        )
        across = 32.0 + rng.uniform(-9.0, 9.0, size=2)
        return np.stack([along, across] if relation in {"left of", "right of"} else [across, along], axis=1)
    corners = np.array([(near, near), (far, near), (near, far), (far, far)])
    places = rng.permutation(4)[:number]
    return corners[places] + rng.uniform(-3.0, 3.0, size=(number, 2))


def signed_distance(shape: int, x: Tensor, y: Tensor) -> Tensor:  # noqa: PLR0911  # one return a shape
    """Signed distance (in radii, negative inside) to the outline of a shape; x, y in radii, y downwards."""
    name = SHAPES[shape]
    length = torch.hypot(x, y)
    if name == "circle":
        return length - 0.95
    if name == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.82
    if name == "triangle":
        return torch.maximum(y - 0.8, (1.8 * x.abs() - 0.95 * y) / 2.035 - 0.467)
    if name == "star":
        # Fold the plane into one tenth of the star, where its outline is a single straight edge.
        fold = torch.remainder(torch.atan2(x, -y), 2 * torch.pi / 5)
        fold = torch.minimum(fold, 2 * torch.pi / 5 - fold)
        px, py = length * torch.cos(fold), length * torch.sin(fold)
        inner_x, inner_y = 0.45 * np.cos(np.pi / 5), 0.45 * np.sin(np.pi / 5)
        edge_x, edge_y = inner_x - 1.05, inner_y
        norm = np.hypot(edge_x, edge_y)
        distance: Tensor = ((px - 1.05) * edge_y - py * edge_x) / norm
        return distance
    if name == "ring":
        return (length - 0.7).abs() - 0.25
    if name == "cross":
        a, b = x.abs(), y.abs()
        return torch.minimum(torch.maximum(a - 0.3, b - 0.95), torch.maximum(b - 0.3, a - 0.95))
    if name == "heart":
        lobes = torch.hypot(x.abs() - 0.4, y + 0.3) - 0.566
        return torch.minimum((x.abs() + (y - 0.1).abs() - 0.8) / np.sqrt(2.0), lobes)
    return torch.maximum(length - 0.95, 0.72 - torch.hypot(x - 0.42, y + 0.12))  # moon


def object_distances(scenes: Scenes, device: torch.device | str) -> Tensor:
    """Signed distance in pixels to each object: (n, 4, 64, 64), large where there is none."""
    shapes = torch.from_numpy(scenes.shapes).to(device)
    centers = torch.from_numpy(scenes.centers).float().to(device)
    radii = torch.from_numpy(scenes.radii).float().to(device)
    grid = torch.arange(SIZE, device=device) + 0.5
    distances = torch.full((*shapes.shape, SIZE, SIZE), 1e3, device=device)
    for shape in range(len(SHAPES)):
        at = (shapes == shape).nonzero(as_tuple=True)
        radius = radii[at][:, None, None]
        x = (grid[None, None, :] - centers[at][:, 0, None, None]) / radius
        y = (grid[None, :, None] - centers[at][:, 1, None, None]) / radius
        distances[at] = signed_distance(shape, *torch.broadcast_tensors(x, y)) * radius
    return distances


def object_masks(scenes: Scenes, device: torch.device | str = "cpu") -> Tensor:
    """Exact masks, boolean (n, 4, 64, 64): a pixel belongs to an object where its centre lies inside the outline."""
    return object_distances(scenes, device) < 0


def object_coverage(scenes: Scenes, cells: int, device: torch.device | str = "cpu") -> Tensor:
    """How much of each cell of a grid each shape and each colour covers: (n, 8 + 10, cells, cells) in [0, 1]."""
    parts = torch.nn.functional.adaptive_avg_pool2d(object_masks(scenes, device).float(), cells)  # (n, 4, cells, cells)
    covered = []
    for names, values in ((SHAPES, scenes.shapes), (COLOR_NAMES, scenes.colors)):
        kinds = torch.nn.functional.one_hot(torch.from_numpy(values).to(device).clamp(min=0), len(names)).float()
        covered.append(torch.einsum("nkyx,nkc->ncyx", parts, kinds))
    return torch.cat(covered, dim=1)


def object_boxes(masks: Tensor) -> Tensor:
    """Boxes (n, 4, 4) as x0, y0, x1, y1 in pixels around masks (n, 4, 64, 64); zeros where a mask is empty."""
    columns, rows = masks.any(dim=2), masks.any(dim=3)
    steps = torch.arange(SIZE, device=masks.device)
    big = SIZE + 1

    def span(hit: Tensor) -> tuple[Tensor, Tensor]:
        low = torch.where(hit, steps, big).amin(dim=-1)
        high = torch.where(hit, steps + 1, 0).amax(dim=-1)
        return torch.where(high > 0, low, 0), high

    (x0, x1), (y0, y1) = span(columns), span(rows)
    return torch.stack([x0, y0, x1, y1], dim=-1).float()


def render(scenes: Scenes, device: torch.device | str = "cpu", distance: Tensor | None = None) -> Tensor:
    """Draw the scenes: uint8 (n, 3, 64, 64), anti-aliased, each in its style.

    `distance` gives the objects other outlines than `object_distances` does.
    """
    if distance is None:
        distance = object_distances(scenes, device)
    noise = torch.from_numpy(scenes.noise).float().to(device)
    palette = torch.tensor(list(COLORS.values()), dtype=torch.float32, device=device) / 255
    colors = palette[torch.from_numpy(scenes.colors).to(device).clamp(min=0)]  # (n, 4, 3)
    styles = torch.from_numpy(scenes.styles).to(device)
    centers = torch.from_numpy(scenes.centers).float().to(device)
    radii = torch.from_numpy(scenes.radii).float().to(device)
    grid = torch.arange(SIZE, device=device) + 0.5
    picture = torch.empty(len(scenes), 3, SIZE, SIZE, device=device)
    for style, name in enumerate(STYLE_NAMES):
        at = styles == style
        x = (grid[None, None, None, :] - centers[at][:, :, 0, None, None]) / radii[at][:, :, None, None]
        y = (grid[None, None, :, None] - centers[at][:, :, 1, None, None]) / radii[at][:, :, None, None]
        picture[at] = _DRAW[name](distance[at], colors[at], noise[at], x, y)
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def _coverage(distance: Tensor) -> Tensor:
    """Part of each pixel that is inside: (n, k, 64, 64) in [0, 1], one pixel wide at the outline."""
    return (0.5 - distance).clamp(0, 1)


def _background(top: tuple[float, ...], bottom: tuple[float, ...], noise: Tensor) -> Tensor:
    """A vertical gradient (n, 3, 64, 64) whose brightness varies a little from scene to scene."""
    ramp = torch.linspace(0, 1, SIZE, device=noise.device)[None, None, :, None]
    low, high = (torch.tensor(color, device=noise.device)[None, :, None, None] for color in (bottom, top))
    shade = 0.04 * (noise[:, 0, None, None, None] - 0.5)
    return (high + (low - high) * ramp + shade).expand(-1, -1, -1, SIZE).clone()


def _paint(canvas: Tensor, distance: Tensor, fill: Tensor) -> Tensor:
    """Lay objects over the canvas; fill: (n, 4, 3, 64, 64)."""
    cover = _coverage(distance)[:, :, None]
    for slot in range(distance.shape[1]):
        canvas = canvas + cover[:, slot] * (fill[:, slot] - canvas)
    return canvas


def _draw_photo(distance: Tensor, colors: Tensor, noise: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Grey studio backdrop, light from the upper left, soft shadows."""
    canvas = _background((0.70, 0.71, 0.73), (0.52, 0.52, 0.54), noise)
    shadow = torch.roll(distance, (2, 2), (2, 3)).amin(dim=1)[:, None]
    canvas = canvas * (1 - 0.35 * torch.sigmoid(-shadow / 1.5))
    light = (1.0 + 0.16 * (-x - y)).clamp(0.7, 1.35)[:, :, None]
    return _paint(canvas, distance, colors[..., None, None] * light + 0.10 * (light - 1))


def _draw_anime(distance: Tensor, colors: Tensor, noise: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Pale sky, dark outlines, two flat tones."""
    canvas = _background((0.74, 0.88, 0.97), (0.90, 0.96, 0.99), noise)
    tone = torch.where(y + 0.4 * x > 0.35, 0.82, 1.0)[:, :, None]
    ink = torch.tensor([0.10, 0.08, 0.20], device=canvas.device)[None, None, :, None, None]
    edge = _coverage(distance + 1.4)[:, :, None]
    return _paint(canvas, distance, ink + edge * (colors[..., None, None] * tone - ink))


def _draw_concept_art(distance: Tensor, colors: Tensor, noise: Tensor, _x: Tensor, y: Tensor) -> Tensor:
    """Dark teal depth, glowing rims."""
    canvas = _background((0.09, 0.16, 0.22), (0.20, 0.30, 0.34), noise)
    near = distance.amin(dim=1)[:, None]
    glow = torch.tensor([0.95, 0.85, 0.55], device=canvas.device)[None, :, None, None]
    canvas = canvas + 0.35 * torch.exp(-near.clamp(min=0) / 2.5) * (glow - canvas)
    body = colors[..., None, None] * (0.95 - 0.15 * y.clamp(-1, 1))[:, :, None]
    rim = _coverage(distance + 1.2)[:, :, None]
    return _paint(canvas, distance, glow[:, None] + rim * (body - glow[:, None]))


def _draw_painting(distance: Tensor, colors: Tensor, noise: Tensor, _x: Tensor, _y: Tensor) -> Tensor:
    """Warm canvas with broad diagonal strokes that run through background and objects."""
    canvas = _background((0.85, 0.77, 0.60), (0.76, 0.66, 0.48), noise)
    grid = torch.arange(SIZE, device=canvas.device, dtype=torch.float32)
    across = grid[None, :, None] + grid[None, None, :]
    phase = 2 * torch.pi * noise[:, 1, None, None]
    strokes = torch.sin(across / 4.0 + phase)[:, None]
    canvas = canvas + 0.05 * strokes
    wobble = distance + 0.35 * torch.sin(across / 3.0 + phase)[:, None]
    return _paint(canvas, wobble, colors[..., None, None] * 0.94 + 0.03 + 0.07 * strokes[:, None])


_DRAW = {"photo": _draw_photo, "anime": _draw_anime, "concept-art": _draw_concept_art, "paintings": _draw_painting}
