"""Calibration data from pictures with captions: the states a model meets where noise was added to real images."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fastflux.calibration.prompts import read_json_lines, read_text, text_of
from fastflux.calibration.trajectories import CalibrationRun
from fastflux.errors import FastFluxError
from fastflux.models.architecture import architecture_of
from fastflux.models.sizes import drawing_sizes
from fastflux.pictures import SUFFIXES, open_picture, picture_files

METADATA = "metadata.jsonl"


def read_captioned_images(folder: Path) -> list[tuple[Path, str]]:
    """The pictures of a folder with their captions, in the order of their names.

    Captions stand in ``metadata.jsonl`` (objects with ``file_name`` and ``text`` or ``prompt``, as Hugging Face's image
    folders have them) or else in a text file of the picture's name. Raises ``FastFluxError`` naming what is missing.
    """
    files = picture_files(folder)
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
    for where, entry in read_json_lines(path):
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            raise FastFluxError(f"{where} has no file_name with a text or prompt: {str(entry)[:60]!r}.")
        captions[entry["file_name"]] = text_of({key: entry[key] for key in ("text", "prompt") if key in entry}, where)
    return captions


def _caption(path: Path) -> str:
    text = path.with_suffix(".txt")
    if not text.exists():
        raise FastFluxError(f"{path.name} has no caption: write one to {text}, or all to {path.parent / METADATA}.")
    return text_of(read_text(text).strip(), str(text))


class NoisedImages(CalibrationRun[tuple[Path, str]]):
    """Runs a transformer on pictures with captions, noised to ``steps`` levels each, as `CalibrationRun` says.

    The levels are those of the pipeline's scheduler for as many sampling steps. A picture is resized to cover
    ``height`` x ``width`` pixels and cropped at its centre. ``FastFluxError`` for pictures that cannot be read.
    """

    @property
    def source(self) -> str:
        """What the calibration ran on, in words."""
        return f"{len(self.data)} pictures with captions: {self.steps} noise levels each"

    def contents(self) -> list[object]:
        """The pictures' files and their captions."""
        return list(self.data)

    @torch.no_grad()
    def __call__(self, advance: Callable[[int], object] = lambda _done: None) -> None:
        """Run all pictures; ``advance`` is told the number done after each batch."""
        transformer = self.pipeline.transformer
        architecture = architecture_of(transformer)
        if (noised_inputs := architecture.noised_inputs) is None:
            raise FastFluxError(f"{architecture.name} cannot be calibrated on pictures: give prompts.")
        sizes = drawing_sizes(self.pipeline, self.height, self.width, self.text_tokens)
        for start in range(0, len(self.data), self.batch_size):
            batch = self.data[start : start + self.batch_size]
            for arguments in noised_inputs(
                self.pipeline,
                self._latents([path for path, _ in batch], sizes["height"], sizes["width"]),
                [caption for _, caption in batch],
                partial(_noise_like, seed=self.seed + start),
                steps=self.steps,
                guidance=self.guidance,
                text_tokens=sizes["max_sequence_length"],
            ):
                transformer(**arguments, return_dict=False)
            advance(len(batch))

    def _latents(self, paths: Sequence[Path], height: int, width: int) -> Tensor:
        """Latents (n, channels, rows, columns) of pictures, as the transformer knows them."""
        vae = self.pipeline.vae
        pixels = self.pipeline.image_processor.preprocess(
            [open_picture(path) for path in paths], height=height, width=width, resize_mode="crop"
        )
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
        known: Tensor = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        return known


def _noise_like(clean: Tensor, seed: int) -> Tensor:
    """Noise of the shape (n, ...) of ``clean``, each picture's from a seed of its own."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(clean))]
    return torch.stack([torch.randn(clean.shape[1:], generator=generator) for generator in generators]).to(clean)
