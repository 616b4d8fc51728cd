"""The FLUX-Shapes VAE: diffusers' AutoencoderKL, 8x smaller, its latents normalised within its own 1x1 convolutions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from bench.shapes.training import Schedule, frozen, train
from bench.shapes.world import object_masks, render, sample_scenes

LATENT_CHANNELS = 8
SCHEDULE = Schedule(steps=9700, lr=7e-3, ema=0.995, weight_decay=0.0)
#: Then the decoder alone, on latents with up to three times the noise: what is drawn is never quite on the manifold.
DECODER_SCHEDULE = Schedule(steps=3500, lr=4e-3, ema=0.995, weight_decay=0.0)
DECODER_NOISE = 3.0
BATCH = 32
#: Deviation of the latents' noise, fixed: a learned one drowns channels that the decoder does not use yet, for good.
NOISE = 0.1
#: How much more an object's pixel counts than the background's, which fills most of a picture and says least.
FOREGROUND = 8.0
#: Then the decoder once more, each object by how little it stands out: pale ones were blurred away.
CONTRAST_SCHEDULE = Schedule(steps=1600, lr=4e-3, ema=0.995, weight_decay=0.0)
CONTRAST_BATCH = 128
#: The contrast (norm of RGB on [-1, 1]) below which an object counts no more.
LEAST_CONTRAST = 0.25
#: Keeps the latents from growing without end to outdo the noise.
SCALE_WEIGHT = 1e-3


def build_vae() -> AutoencoderKL:
    """An untrained VAE: images (n, 3, 64, 64) in [-1, 1] to latents (n, 8, 8, 8)."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        # One channel a group would divide a colour's contrast out of every picture.
        norm_num_groups=2,
        sample_size=64,
        scaling_factor=1.0,
        shift_factor=0.0,
        mid_block_add_attention=False,
    )


def to_model_range(images: Tensor) -> Tensor:
    """uint8 images to float in [-1, 1]."""
    return images.float() / 127.5 - 1


def _chroma(images: Tensor) -> Tensor:
    """Red minus green and yellow minus blue: small in most pixels, yet what names a colour."""
    red, green, blue = images.unbind(dim=1)
    return torch.stack([red - green, (red + green) / 2 - blue], dim=1)


def _reconstruction_error(difference: Tensor, weight: Tensor, edge_weight: Tensor) -> Tensor:
    """Of pixels and chroma by `weight`, and of edges by `edge_weight`, both (n, 1, 64, 64)."""
    error = (weight * (difference.abs() + difference.square())).mean()
    across = difference[..., 1:] - difference[..., :-1], edge_weight[..., 1:]
    down = difference[..., 1:, :] - difference[..., :-1, :], edge_weight[..., 1:, :]
    for edge, counts in (across, down):
        # Outlines carry the shape; sharper edges keep small objects recognisable.
        error = error + (counts * edge.abs()).mean()
    return error + 2 * (weight * _chroma(difference).abs()).mean()


class _Step(nn.Module):
    """Reconstruction loss with the encoder's noise, in one module so that it compiles as one graph."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor, noise: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(weighted reconstruction error, mean square of the latents)."""
        mean = self.vae.quant_conv(self.vae.encoder(images)).chunk(2, dim=1)[0]
        difference = self.vae.decoder(self.vae.post_quant_conv(mean + NOISE * noise)).float() - images
        return _reconstruction_error(difference, weight, torch.ones_like(weight)), mean.square().mean()


def train_vae(folder: Path, device: str = "cpu") -> AutoencoderKL:
    """Train (or continue) the VAE, then its decoder alone, and fold the normalisation of its latents into it."""
    torch.manual_seed(0)
    vae = build_vae().to(device)
    # Latents are computed once and reused by the transformer; the compiled step serves training alone.
    compiled = torch.compile(_Step(vae).to(memory_format=torch.channels_last))

    def loss_of_step(step: int, noise_scale: float = 1.0) -> tuple[Tensor, dict[str, float]]:
        scenes = sample_scenes(BATCH, step)
        images = to_model_range(render(scenes, device))
        foreground = object_masks(scenes, device).any(dim=1, keepdim=True).float()
        weight = (1 + FOREGROUND * foreground) / (1 + FOREGROUND * foreground.mean())
        generator = torch.Generator(device).manual_seed(step)
        noise = torch.randn(BATCH, LATENT_CHANNELS, 8, 8, device=device, generator=generator)
        if noise_scale > 1:
            noise = noise * noise_scale * torch.rand(BATCH, 1, 1, 1, device=device, generator=generator)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            error, scale = compiled(images.contiguous(memory_format=torch.channels_last), noise, weight)
        return error + SCALE_WEIGHT * scale, {"reconstruction": float(error.detach()), "scale": float(scale.detach())}

    train("vae", vae, loss_of_step, SCHEDULE, folder)
    vae.requires_grad_(requires_grad=False)
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_()
    # Another range of seeds than the whole VAE's training saw.
    train("decoder", decoder, lambda step: loss_of_step(10**8 + step, DECODER_NOISE), DECODER_SCHEDULE, folder)
    normalise_latents_(vae, device)
    return vae


def sharpen(vae: AutoencoderKL, folder: Path, device: str = "cpu") -> AutoencoderKL:
    """Train (or continue) the decoder of a finished VAE on objects in the measure in which they are hard to see."""
    vae = frozen(vae, device)
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_()

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        scenes = sample_scenes(CONTRAST_BATCH, 2 * 10**8 + step)
        images = to_model_range(render(scenes, device))
        empty = to_model_range(render(replace(scenes, shapes=np.full_like(scenes.shapes, -1)), device))
        contrast = (images - empty).norm(dim=1, keepdim=True).clamp(min=LEAST_CONTRAST)
        objects = object_masks(scenes, device).any(dim=1, keepdim=True) / contrast
        weight = 1 + FOREGROUND * F.max_pool2d(objects, 3, stride=1, padding=1)
        weight = weight / weight.mean()
        generator = torch.Generator(device).manual_seed(step)
        with torch.no_grad():
            known = vae.encode(images).latent_dist
        deviation = DECODER_NOISE * torch.rand(CONTRAST_BATCH, 1, 1, 1, device=device, generator=generator) * known.std
        noise = deviation * torch.randn(known.mean.shape, device=device, generator=generator)
        difference = vae.decode(known.mean + noise).sample - images
        return _reconstruction_error(difference, weight, weight), {}

    train("contrast", decoder, loss_of_step, CONTRAST_SCHEDULE, folder)
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, batch: int = 256) -> Tensor:
    """uint8 images (n, 3, 64, 64) to mean latents (n, 8, 8, 8)."""
    return torch.cat([vae.encode(to_model_range(part)).latent_dist.mean for part in images.split(batch)])


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """uint8 images through the VAE and back."""
    parts = [((vae.decode(encode(vae, part)).sample + 1) * 127.5).round().clamp(0, 255) for part in images.split(128)]
    return torch.cat(parts).to(torch.uint8)


@torch.no_grad()
def normalise_latents_(vae: AutoencoderKL, device: str = "cpu") -> None:
    """Give every latent channel mean 0 and deviation 1 by scaling quant_conv and, inversely, post_quant_conv.

    FluxPipeline knows one scale and one shift for all channels; folding the rest into the VAE keeps it exact and plain.
    """
    images = render(sample_scenes(2048, 10**6), device)
    latents = encode(vae, images)
    mean = latents.mean(dim=(0, 2, 3))
    std = latents.std(dim=(0, 2, 3))
    weight, bias = vae.quant_conv.weight, vae.quant_conv.bias
    half = LATENT_CHANNELS
    weight[:half] /= std[:, None, None, None]
    bias[:half] = (bias[:half] - mean) / std
    # The encoder's own deviation, constant: that of the noise it was trained with.
    weight[half:] = 0
    bias[half:] = 2 * (NOISE / std).log()
    # post_quant_conv sees z' = (z - mean) / std and must act as it did on z.
    matrix = vae.post_quant_conv.weight[:, :, 0, 0]
    vae.post_quant_conv.bias += matrix @ mean
    vae.post_quant_conv.weight *= std[None, :, None, None]
