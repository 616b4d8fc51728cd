"""The detector behind GenEval's judge on FLUX-Shapes: a small one-stage, anchor-free network.

In FCOS's manner (arXiv 1904.01355):
every cell of a 16x16 grid says which shapes are there and how far their box reaches; a second head outlines the
foreground, whose part within a box is the object's mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.ops import nms

from bench.metrics.detection import Detection, DetectorError
from bench.records.environment import sha256_of
from bench.records.results import JSON
from bench.shapes.degradation import spoil_some
from bench.shapes.faults import drawn_with_faults, render_faulty, visible_fit
from bench.shapes.training import Schedule, train
from bench.shapes.vae import reconstruct
from bench.shapes.vocabulary import SHAPES
from bench.shapes.world import SIZE, Scenes, object_boxes, object_masks, render, sample_scenes
from fastflux.errors import FastFluxError

STRIDE = 4
GRID = SIZE // STRIDE
SCHEDULE = Schedule(steps=3200, lr=2e-3, ema=0.995, weight_decay=0.01)
BATCH = 64
#: From this step on, half of each batch has been through the VAE, through which all generated pictures come.
RECONSTRUCTIONS_FROM = 2000
#: Then what is no shape is taught: faulty renders, half of them reconstructions, and what models of too few blocks
#: drew.
FAULTS_SCHEDULE = Schedule(steps=1500, lr=1e-3, ema=0.99, weight_decay=0.01, warmup=20)
FAULTY, DRAWN = 40, 24
FAULTY_SHARE = 0.4
#: From which `visible_fit` on an object is sound, and below which it is none; between the two it is nobody's fault.
SOUND, BROKEN = 0.92, 0.8
#: What was taught doubt gives sound objects lower scores: with its logits doubled, GenEval's 0.9 for counting stands at
#: what was 0.75, and its 0.3 for all else at 0.4.
SHARPENED = 2.0
#: What is reported at all; the judge applies its own, higher thresholds.
MIN_SCORE = 0.05
NMS_IOU = 0.5


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class DetectorNetwork(nn.Module):
    """Images (n, 3, 64, 64) in [0, 1] to logits of classes (n, 8, 16, 16), box reaches (n, 4, 16, 16), mask logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 24, 2), _conv(24, 24))
        self.quarter = nn.Sequential(_conv(24, 48, 2), _conv(48, 48))
        self.eighth = nn.Sequential(_conv(48, 96, 2), _conv(96, 96), _conv(96, 96))
        self.merge = nn.Sequential(nn.Conv2d(96 + 48, 64, 1), _conv(64, 64), _conv(64, 64))
        self.classes = nn.Conv2d(64, len(SHAPES), 1)
        self.reach = nn.Conv2d(64, 4, 1)
        self.mask = nn.Sequential(_conv(24 + 16, 24), nn.Conv2d(24, 4, 1), nn.PixelShuffle(2))
        self.lift = nn.Conv2d(64, 16, 1)
        nn.init.constant_(cast("Tensor", self.classes.bias), -4.0)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(class logits, box reaches, mask logits)."""
        half = self.stem(images * 2 - 1)
        quarter = self.quarter(half)
        eighth = F.interpolate(self.eighth(quarter), scale_factor=2.0, mode="nearest")
        merged = self.merge(torch.cat([eighth, quarter], dim=1))
        lifted = F.interpolate(self.lift(merged), scale_factor=2.0, mode="nearest")
        mask = self.mask(torch.cat([half, lifted], dim=1))[:, 0]
        return self.classes(merged), F.softplus(self.reach(merged)) * 4, mask


def _targets(scenes: Scenes, device: str, fit: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(class targets, ignore mask, reaches, foreground); cells near an object's border are ignored.

    So is an object that `fit` (n, 4) calls neither sound nor broken; a broken one is no object at all.
    """
    masks = object_masks(scenes, device)
    boxes = object_boxes(masks)
    centers = (torch.arange(GRID, device=device) + 0.5) * STRIDE
    reach = torch.stack(
        torch.broadcast_tensors(
            centers[None, None, None, :] - boxes[:, :, 0, None, None],
            centers[None, None, :, None] - boxes[:, :, 1, None, None],
            boxes[:, :, 2, None, None] - centers[None, None, None, :],
            boxes[:, :, 3, None, None] - centers[None, None, :, None],
        )
    )  # (4, n, objects, 16, 16)
    present = torch.from_numpy(scenes.shapes).to(device)[:, :, None, None] >= 0
    inside = (reach.amin(dim=0) > 0) & present
    fit = torch.ones(len(scenes), inside.shape[1], device=device) if fit is None else fit.to(device)
    core = (reach.amin(dim=0) > 4.5) & present & (fit >= SOUND)[:, :, None, None]
    owner = inside.float().argmax(dim=1, keepdim=True)  # boxes never overlap by much; the first owner serves
    shapes = torch.from_numpy(scenes.shapes).to(device).clamp(min=0)
    classes = torch.zeros(len(scenes), len(SHAPES), GRID, GRID, device=device)
    classes.scatter_add_(1, shapes[:, :, None, None].expand(-1, -1, GRID, GRID), core.float())
    own_reach = reach.gather(2, owner[None].expand(4, -1, -1, -1, -1))[:, :, 0].transpose(0, 1)
    ignore = (inside & (fit >= BROKEN)[:, :, None, None]).any(dim=1) & ~core.any(dim=1)
    return classes.clamp(max=1), ignore, own_reach, masks.any(dim=1).float()


def detector_loss(
    network: DetectorNetwork, images: Tensor, scenes: Scenes, device: str, fit: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy for classes and foreground, L1 for box reaches, averaged over the objects' cells."""
    pixels = (images.float() / 255).contiguous(memory_format=torch.channels_last)
    # On a CPU without matrix units for it, bfloat16 takes eight times as long.
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device != "cpu"):
        outputs = network(pixels)
    classes, reach, mask = (output.float() for output in outputs)
    target, ignore, own_reach, foreground = _targets(scenes, device, fit)
    cells = target.amax(dim=1)
    count = cells.sum().clamp(min=1)
    class_loss = F.binary_cross_entropy_with_logits(classes, target, reduction="none")
    class_loss = (class_loss * ~ignore[:, None]).sum() / count
    box_loss = ((reach - own_reach).abs() * cells[:, None]).sum() / count / 4
    loss: Tensor = class_loss + 0.3 * box_loss + F.binary_cross_entropy_with_logits(mask, foreground)
    return loss


def train_detector(folder: Path, vae: AutoencoderKL, device: str = "cpu") -> DetectorNetwork:
    """Train (or continue) on renders, a third of them mildly spoiled, later half of them reconstructed by the VAE."""
    torch.manual_seed(3)
    network = DetectorNetwork().to(device).to(memory_format=torch.channels_last)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        scenes = sample_scenes(BATCH, 2 * 10**6 + step)
        images = render(scenes, device)
        if step >= RECONSTRUCTIONS_FROM:
            images[: BATCH // 2] = reconstruct(vae, images[: BATCH // 2])
        images = spoil_some(images, 1 / 3, 0.45, step)
        return detector_loss(network, images, scenes, device), {}

    train("detector", network, loss_of_step, SCHEDULE, folder)
    return network


def teach_faults(network: DetectorNetwork, folder: Path, pipeline: Any, device: str = "cpu") -> DetectorNetwork:
    """Train a detector on to find no object in what is no shape, or hardly one any more."""
    drawn = drawn_with_faults(pipeline, folder / "drawn.safetensors", DRAWN)
    network = network.to(device).to(memory_format=torch.channels_last)
    vae = pipeline.vae.to(device)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        scenes = sample_scenes(FAULTY, 7 * 10**6 + step)
        images = render_faulty(scenes, FAULTY_SHARE, step, device)
        images[: FAULTY // 2] = reconstruct(vae, images[: FAULTY // 2])
        losses = []
        for shown, of in ((images, scenes), drawn(step)):
            fit = visible_fit(shown.to(device), of)
            losses.append(detector_loss(network, spoil_some(shown.to(device), 0.25, 0.3, step), of, device, fit))
        rendered, removed = losses
        return rendered + DRAWN / FAULTY * removed, {"rendered": float(rendered.detach())}

    train("faults", network, loss_of_step, FAULTS_SCHEDULE, folder)
    return network


class ShapesDetector:
    """Callable detector with trained weights; see `bench.metrics.detection.Detector`."""

    def __init__(self, network: DetectorNetwork, device: str = "cpu", source: Mapping[str, JSON] | None = None) -> None:
        self.network = network.to(device).eval()
        self.device = device
        self.classes = SHAPES
        self.settings = {"detector": "FLUX-Shapes", **(source or {})}

    @classmethod
    def load(cls, weights: str | Path, device: str = "cpu") -> ShapesDetector:
        """Read the folder's model.safetensors; raises FastFluxError when it is missing or damaged."""
        path = Path(weights) / "model.safetensors"
        network = DetectorNetwork()
        try:
            network.load_state_dict({key: value.float() for key, value in load_file(path).items()})
        except Exception as error:
            raise FastFluxError(f"cannot read the detector's weights {path}: {error}; restore the file") from error
        return cls(network, device, {"weights": Path(weights).name, "weights_sha256": sha256_of(path)})

    @torch.no_grad()
    def __call__(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Detections of each uint8 image (64, 64, 3), best first; raises DetectorError for one of another size."""
        if other := {image.shape for image in images} - {(SIZE, SIZE, 3)}:
            raise DetectorError(f"an image has the shape {other.pop()}; this detector takes ({SIZE}, {SIZE}, 3)")
        found: list[list[Detection]] = []
        for start in range(0, len(images), 64):
            batch = (
                torch.from_numpy(np.stack(images[start : start + 64])).permute(0, 3, 1, 2).float().to(self.device) / 255
            )
            classes, reach, mask = (output.cpu() for output in self.network(batch))
            foreground = (mask > 0).numpy()
            found += [
                self._read(*pair, foreground[row])
                for row, pair in enumerate(zip((SHARPENED * classes).sigmoid(), reach, strict=True))
            ]
        return found

    def _read(self, scores: Tensor, reach: Tensor, foreground: np.ndarray) -> list[Detection]:
        labels, rows, columns = (scores > MIN_SCORE).nonzero(as_tuple=True)
        values = scores[labels, rows, columns]
        x, y = (columns + 0.5) * STRIDE, (rows + 0.5) * STRIDE
        left, top, right, bottom = reach[:, rows, columns]
        boxes = torch.stack([x - left, y - top, x + right, y + bottom], dim=1).clamp(0, SIZE)
        detections = []
        # Across classes: objects of this world never overlap, so one place holds one object, of its likeliest class.
        for index in nms(boxes, values, NMS_IOU).tolist():
            x0, y0, x1, y1 = boxes[index].tolist()
            mask = np.zeros_like(foreground)
            rows_in, columns_in = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
            mask[rows_in, columns_in] = foreground[rows_in, columns_in]
            detections.append(Detection(SHAPES[int(labels[index])], float(values[index]), (x0, y0, x1, y1), mask))
        return detections
