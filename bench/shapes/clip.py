"""The scorers' CLIP on FLUX-Shapes: an open_clip model with a small ResNet tower, and its preference-tuned copy.

The first is the CLIP score, GenEval's colours and the FID features; the second stands where HPS v2 stands.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from bench.shapes.degradation import KINDS, degrade, spoil_some
from bench.shapes.text import build_clip_tokenizer
from bench.shapes.training import Schedule, halved, train
from bench.shapes.vae import reconstruct, to_model_range
from bench.shapes.vocabulary import COLOR_NAMES, MAX_OBJECTS, SHAPES, STYLE_NAMES, caption
from bench.shapes.world import SIZE, Scenes, object_boxes, object_masks, render, sample_scenes
from fastflux.files import save_tensors, write_text

CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": [2, 2, 2, 2], "width": 16, "head_width": 64},
    "text_cfg": {"context_length": 16, "vocab_size": 0, "width": 64, "heads": 4, "layers": 2, "hf_tokenizer_name": "."},
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "shortest"}
CONTRASTIVE = Schedule(steps=2000, lr=1.5e-3, ema=0.998, weight_decay=0.02)
CONTRASTIVE_BATCH = 160
#: From this step on, half of each batch are single objects on grey, as GenEval's judge shows them for their colour.
CROPS_FROM = 1600
#: The judge's grey, #999.
BACKGROUND = 0x99
PREFERENCE = Schedule(steps=450, lr=4e-4, ema=0.99, weight_decay=0.02)
PREFERENCE_BATCH = 32
#: The world's words; "triangles" in two pieces, as open_clip's own tokenizer has it, with which the first weights were
#: trained.
TOKENIZER = build_clip_tokenizer(halved="triangles")
CONFIG["text_cfg"]["vocab_size"] = len(TOKENIZER)


def tokenizer(texts: Sequence[str]) -> Tensor:
    """Token ids (n, 16), as open_clip makes them of a folder with these tokenizer files."""
    length = CONFIG["text_cfg"]["context_length"]
    found = TOKENIZER(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return found.input_ids  # type: ignore[no-any-return]


def build_clip() -> Any:
    """An untrained open_clip.CLIP for 64x64 images and captions of up to 16 tokens."""
    return open_clip.model.CLIP(**CONFIG)


def image_features(model: Any, images: Tensor) -> Tensor:
    """Normalised features (n, 64) of uint8 images; bfloat16 convolutions while training, which halves the time."""
    # What PREPROCESS makes of them.
    pixels = to_model_range(images).contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=model.training):
        features = model.encode_image(pixels)
    return F.normalize(features.float(), dim=-1)


def object_crops(images: Tensor, scenes: Scenes, seed: int) -> tuple[Tensor, list[str]]:
    """One object of each picture, cut out on grey and enlarged to 64x64 (uint8), and its caption."""
    rng = np.random.default_rng([10, seed])
    slots = torch.from_numpy(rng.integers(0, (scenes.shapes >= 0).sum(axis=1))).to(images.device)
    rows = torch.arange(len(scenes), device=images.device)
    masks = object_masks(scenes, images.device)[rows, slots]  # (n, 64, 64)
    boxes = object_boxes(masks[:, None])[:, 0]
    # The judge's masks come from a detector: one pixel more or less at the outline must not matter.
    grown = F.max_pool2d(masks[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0
    masks = torch.where(torch.from_numpy(rng.random(len(scenes)) < 0.5).to(images.device)[:, None, None], grown, masks)
    cut = torch.where(masks[:, None], images.float(), float(BACKGROUND))
    centers, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).amin(dim=1)
    theta = torch.zeros(len(scenes), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = sizes / SIZE
    theta[:, :, 2] = centers / (SIZE / 2) - 1
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    crops = F.grid_sample(cut, grid, mode="bicubic", padding_mode="border", align_corners=False)
    captions = []
    for row, slot in enumerate(slots.tolist()):
        shape, color = SHAPES[scenes.shapes[row, slot]], COLOR_NAMES[scenes.colors[row, slot]]
        include = [{"class": shape, "count": 1, "color": color}]
        captions.append(caption(STYLE_NAMES[scenes.styles[row]], {"include": include}))
    return crops.round().clamp(0, 255).to(torch.uint8), captions


def train_clip(folder: Path, vae: AutoencoderKL, device: str = "cpu") -> Any:
    """Contrastive training (arXiv 2103.00020); pictures that share a caption count as right answers for each other.

    Towards the end half of the pictures are single objects, half of these out of the VAE's reconstructions.
    """
    torch.manual_seed(4)
    model = build_clip().to(device)
    model.visual.to(memory_format=torch.channels_last)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        scenes = sample_scenes(CONTRASTIVE_BATCH, 3 * 10**6 + step)
        images, captions = spoil_some(render(scenes, device), 0.25, 0.3, step), list(scenes.captions)
        if step >= CROPS_FROM:
            half = CONTRASTIVE_BATCH // 2
            images[: half // 2] = reconstruct(vae, images[: half // 2])
            images[:half], captions[:half] = object_crops(images[:half], scenes[0:half], step)
        image = image_features(model, images)
        text = F.normalize(model.encode_text(tokenizer(captions).to(device)), dim=-1)
        logits = model.logit_scale.clamp(max=np.log(100.0)).exp() * image @ text.T
        _, groups = np.unique(np.array(captions), return_inverse=True)
        same = torch.from_numpy(groups[:, None] == groups[None, :]).float().to(device)
        target = same / same.sum(dim=1, keepdim=True)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        hit = same.gather(1, logits.argmax(dim=1, keepdim=True)).mean()
        return loss, {"top1": float(hit)}

    train("clip", model, loss_of_step, CONTRASTIVE, folder)
    return model


def spoil_content(scenes: Scenes, seed: int) -> Scenes:
    """The same captions over changed pictures: a wrong colour, shape, style, place or number of objects each."""
    rng = np.random.default_rng([9, seed])
    shapes, colors = scenes.shapes.copy(), scenes.colors.copy()
    centers, styles = scenes.centers.copy(), scenes.styles.copy()
    for row, metadata in enumerate(scenes.metadata):
        include = metadata["include"]
        ways = ["style", "shape", "number"]
        if any("color" in item for item in include):
            ways += ["color"] * 2
        if any("position" in item for item in include):
            ways += ["place"] * 2
        number = int((shapes[row] >= 0).sum())
        slot = int(rng.integers(number))
        match ways[rng.integers(len(ways))]:
            case "style":
                styles[row] = (styles[row] + rng.integers(1, len(STYLE_NAMES))) % len(STYLE_NAMES)
            case "shape":
                shapes[row, slot] = (shapes[row, slot] + rng.integers(1, len(SHAPES))) % len(SHAPES)
            case "color":
                named = [i for i in range(number) if "color" in include[min(i, len(include) - 1)]]
                slot = named[rng.integers(len(named))]
                colors[row, slot] = (colors[row, slot] + rng.integers(1, len(COLOR_NAMES))) % len(COLOR_NAMES)
            case "place":
                centers[row, :2] = centers[row, 1::-1].copy()
            case "number":
                if number == MAX_OBJECTS or (number > 1 and rng.random() < 0.6):
                    shapes[row, number - 1] = -1
                else:
                    # The new object takes a free corner; one that is there already makes room by moving to its own.
                    corners = np.array([(17.0, 17.0), (47.0, 17.0), (17.0, 47.0), (47.0, 47.0)])
                    centers[row, : number + 1] = corners[rng.permutation(MAX_OBJECTS)[: number + 1]]
                    shapes[row, number], colors[row, number] = shapes[row, 0], colors[row, 0]
    radii = np.minimum(scenes.radii, 11.5)
    return replace(scenes, shapes=shapes, colors=colors, centers=centers, radii=radii, styles=styles)


def preference_images(scenes: Scenes, seed: int, device: str = "cpu") -> Tensor:
    """Four pictures for each caption, (n, 4, 3, 64, 64) uint8: faithful and clean, spoiled, spoiled more, wrong."""
    generator = torch.Generator().manual_seed(seed)
    clean = render(scenes, device)
    kinds = torch.randint(len(KINDS), (len(scenes),), generator=generator)
    low = 0.15 + 0.4 * torch.rand(len(scenes), generator=generator)
    high = low + 0.2 + (0.8 - low) * torch.rand(len(scenes), generator=generator)
    wrong = render(spoil_content(scenes, seed), device)
    return torch.stack(
        [clean, degrade(clean, kinds, low, seed), degrade(clean, kinds, high.clamp(max=1), seed), wrong], dim=1
    )


def preference_scores(model: Any, images: Tensor, captions: list[str]) -> Tensor:
    """Cosines (n, k) of images (n, k, 3, 64, 64) with their captions."""
    n, k = images.shape[:2]
    image = image_features(model, images.flatten(0, 1)).view(n, k, -1)
    text = F.normalize(model.encode_text(tokenizer(captions).to(images.device)), dim=-1)
    return (image * text[:, None]).sum(dim=-1)


def tune_preference(model: Any, folder: Path, device: str = "cpu") -> Any:
    """Bradley-Terry training on preference pairs, as HPS v2 tunes CLIP on human choices (arXiv 2306.09341)."""
    torch.manual_seed(5)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        scenes = sample_scenes(PREFERENCE_BATCH, 4 * 10**6 + step)
        images = preference_images(scenes, step, device)
        clean, spoiled, more, wrong = preference_scores(model, images, list(scenes.captions)).unbind(dim=1)
        scale = model.logit_scale.exp()
        margins = torch.stack([clean - spoiled, spoiled - more, clean - wrong])
        return -F.logsigmoid(scale * margins).mean(), {"accuracy": float((margins > 0).float().mean())}

    train("hps", model, loss_of_step, PREFERENCE, folder)
    return model


def save_clip(model: Any, folder: Path) -> None:
    """Write a folder that `open_clip.create_model_and_transforms("local-dir:<folder>")` reads.

    In 16 bit: what is computed with stays float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(halved(model.state_dict()), folder / "open_clip_model.safetensors")
    TOKENIZER.save_pretrained(folder)
    config = {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}
    write_text(folder / "open_clip_config.json", json.dumps(config, indent=2) + "\n")
