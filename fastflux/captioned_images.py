"""Calibration data from pictures with captions: the states a model meets where noise was added to real images."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from PIL import Image
from torch import Tensor

from fastflux.errors import FastFluxError
from fastflux.trajectories import drawing_sizes, require_sizes

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
METADATA = "metadata.jsonl"


def read_captioned_images(folder: Path) -> list[tuple[Path, str]]:
    """The pictures of a folder with their captions, in the order of their names.

    Captions stand in ``metadata.jsonl`` (objects with ``file_name`` and ``text`` or ``prompt``, as Hugging Face's image
    folders have them) or else in a text file of the picture's name. Raises ``FastFluxError`` naming what is missing.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise FastFluxError(f"{folder} holds no picture: expected files ending in {', '.join(SUFFIXES)}.")
    if not (folder / METADATA).exists():
        return [(path, _caption(path)) for path in files]
    captions = _metadata(folder / METADATA)
    if missing := [path.name for path in files if path.name not in captions]:
        raise FastFluxError(f"{missing[0]} has no caption in {folder / METADATA}: add a line for it.")
    return [(path, captions[path.name]) for path in files]


def _metadata(path: Path) -> dict[str, str]:
    captions = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            captions[entry["file_name"]] = entry["text"] if "text" in entry else entry["prompt"]
        except (ValueError, KeyError, TypeError) as error:
            raise FastFluxError(
                f"{path}, line {number} has no file_name with a text or prompt: {line[:60]!r}."
            ) from error
    return captions


def _caption(path: Path) -> str:
    text = path.with_suffix(".txt")
    if not text.exists():
        raise FastFluxError(f"{path.name} has no caption: write one to {text}, or all to {path.parent / METADATA}.")
    return text.read_text(encoding="utf-8").strip()


@dataclass(frozen=True)
class NoisedImages:
    """Runs a FLUX transformer on pictures, noised to ``steps`` levels each, for `collect_statistics`.

    The levels are those of the pipeline's scheduler for as many sampling steps. A picture is resized to cover
    ``height`` x ``width`` pixels (the VAE's sample size) and cropped at its centre; its noise comes from ``seed`` plus
    its index, so batching does not change it. ``FastFluxError`` for sizes that FLUX cannot draw and pictures that
    cannot be read.
    """

    pipeline: Any
    images: Sequence[tuple[Path, str]]
    steps: int = 20
    guidance: float = 3.5
    batch_size: int = 1
    height: int | None = None
    width: int | None = None
    text_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_sizes(self.pipeline, self.height, self.width, self.text_tokens)

    @property
    def source(self) -> str:
        """What the calibration ran on, in words."""
        return f"{len(self.images)} pictures with captions: {self.steps} noise levels each"

    @torch.no_grad()
    def __call__(self, advance: Callable[[int], object] = lambda _done: None) -> None:
        """Run all pictures; ``advance`` is told the number done after each batch."""
        pipeline = self.pipeline
        transformer = pipeline.transformer
        sizes = drawing_sizes(pipeline, self.height, self.width, self.text_tokens)
        for start in range(0, len(self.images), self.batch_size):
            batch = self.images[start : start + self.batch_size]
            clean, ids = self._tokens([path for path, _ in batch], sizes["height"], sizes["width"])
            noise = torch.stack(
                [
                    torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(self.seed + start + i))
                    for i in range(len(batch))
                ]
            ).to(clean)
            sequence, pooled, text_ids = pipeline.encode_prompt(
                prompt=[caption for _, caption in batch],
                prompt_2=None,
                max_sequence_length=sizes["max_sequence_length"],
            )
            guidance = None
            if transformer.config.guidance_embeds:
                guidance = torch.full((len(batch),), self.guidance, device=clean.device)
            for sigma in self._levels(clean.shape[1]):
                transformer(
                    hidden_states=(1 - sigma) * clean + sigma * noise,
                    timestep=torch.full((len(batch),), sigma, device=clean.device, dtype=clean.dtype),
                    guidance=guidance,
                    pooled_projections=pooled,
                    encoder_hidden_states=sequence,
                    txt_ids=text_ids,
                    img_ids=ids,
                    return_dict=False,
                )
            advance(len(batch))

    def _tokens(self, paths: Sequence[Path], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Packed latents (n, tokens, channels) of pictures, and their position ids."""
        pipeline = self.pipeline
        vae = pipeline.vae
        pixels = pipeline.image_processor.preprocess(
            [_opened(path) for path in paths], height=height, width=width, resize_mode="crop"
        )
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        count, channels, rows, columns = latents.shape
        tokens = pipeline._pack_latents(latents, count, channels, rows, columns)  # noqa: SLF001  # FLUX's own order
        ids = pipeline._prepare_latent_image_ids(count, rows // 2, columns // 2, latents.device, latents.dtype)  # noqa: SLF001
        return tokens.to(pipeline.transformer.dtype), ids

    def _levels(self, tokens: int) -> list[float]:
        """The scheduler's noise levels in (0, 1] for this many image tokens."""
        scheduler = self.pipeline.scheduler
        settings = scheduler.config
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        mu = calculate_shift(tokens, *(settings[name] for name in names))
        sigmas = torch.linspace(1, 1 / self.steps, self.steps).tolist()
        scheduler.set_timesteps(sigmas=sigmas, mu=mu)
        return [float(sigma) for sigma in scheduler.sigmas[:-1]]


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise FastFluxError(f"{path} is damaged or no picture ({error}): replace it or take it away.") from error
