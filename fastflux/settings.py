"""What a calibration runs on and how, as the Python functions and the command line take it; free of torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from fastflux.errors import FastFluxError

Format: TypeAlias = Literal["float32", "bfloat16", "float16"]


def require_positive(**values: int | None) -> None:
    """Raise ``FastFluxError`` for a value that is given and below 1."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise FastFluxError(f"--{name.replace('_', '-')} is {value}, but it must be at least 1.")


def require_device(device: str) -> str:
    """The device, where PyTorch computes on it; raises ``FastFluxError`` that names those that are there."""
    import torch

    try:
        torch.ones(1, device=device).item()  # "meta" can be named, but has no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ", ".join(["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))])
        raise FastFluxError(f"There is no device {device!r} here: expected one of {there} (by --device).") from error
    return device


def require_guidance(guidance: float) -> None:
    """Raise ``FastFluxError`` for a guidance scale that is not finite or negative."""
    if not (math.isfinite(guidance) and guidance >= 0):
        raise FastFluxError(f"The guidance is {guidance}, but it must be a finite number that is not negative.")


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Prompts or pictures to calibrate on, and how a model runs on them.

    Args:
        prompts: text file, a prompt a line, .jsonl with a prompt key, or a JSON list; in Python also the prompts
        images: folder of pictures with captions (picture.txt or metadata.jsonl) instead of prompts
        limit: use the first LIMIT prompts or pictures only
        steps: sampling steps, or noise levels
        guidance: guidance scale
        batch_size: prompts or pictures at once (1), and recorded samples in forwards without gradients (as many as
            hold 16,384 tokens, at most 64: 3 of FLUX.1-dev's at 1024x1024)
        height: pixels (the VAE's sample size)
        width: pixels (the VAE's sample size)
        text_tokens: T5 tokens a prompt (the tokenizer's, at most 512; SD3: 256)
        calibration_seed: seed of the noise

    Raises:
        FastFluxError: A number that cannot be meant.
    """

    prompts: Path | str | Sequence[str] | None = None
    images: Path | str | None = None
    limit: int | None = None
    steps: int = 20
    guidance: float = 3.5
    batch_size: int | None = None
    height: int | None = None
    width: int | None = None
    text_tokens: int | None = None
    calibration_seed: int = 0

    def __post_init__(self) -> None:
        require_positive(limit=self.limit, steps=self.steps, batch_size=self.batch_size)
        require_guidance(self.guidance)
        for prompt in self.prompt_list or ():
            if not isinstance(prompt, str) or not prompt.strip():
                raise FastFluxError(f"{prompt!r} is no prompt: give texts, or the name of a file.")

    @property
    def prompt_file(self) -> Path | None:
        """The file of the prompts, where they stand in one."""
        return Path(self.prompts) if isinstance(self.prompts, str | Path) else None

    @property
    def prompt_list(self) -> list[str] | None:
        """The prompts, where they are given themselves."""
        return None if isinstance(self.prompts, str | Path | None) else list(self.prompts)

    @property
    def image_folder(self) -> Path | None:
        """The folder of the pictures."""
        return None if self.images is None else Path(self.images)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and in which number format a model computes, and which file its weights come from.

    Args:
        device: cpu, cuda, ... (cuda when there is one)
        dtype: to compute in (float32 on a CPU, on a GPU what the transformer is stored in)
        checkpoint: single .safetensors file, such as flux1-dev.safetensors, whose transformer takes the place of the
            pipeline's
    """

    device: str | None = None
    dtype: Format | None = None
    checkpoint: Path | str | None = None


@dataclass(frozen=True, kw_only=True)
class Resources(Place):
    """Where a model is pruned, and where activations and progress are kept.

    Args:
        offload: keep blocks and text encoders in the machine's memory and bring each to the device when it runs
        activations: where sandwich_training keeps what enters the blocks: disk needs little memory and changes nothing
            else
        keep: places of the model it is kept for: fewer need less room and more forwards
        work: folder of sandwich_training's progress, kept for other ratios (deleted in the end without this option)
        save_every: write linear_replacement's statistics behind every N prompts or pictures: a killed run goes on
            there (FLUX.1-dev's take 8.6 GB on CUDA in bfloat16, 17 GB elsewhere)

    Raises:
        FastFluxError: A number that cannot be meant.
    """

    offload: bool = False
    activations: Literal["ram", "disk"] = "ram"
    keep: int = 4
    work: Path | str | None = None
    save_every: int | None = None

    def __post_init__(self) -> None:
        require_positive(save_every=self.save_every)
        if self.keep < 0:
            raise FastFluxError(f"Activations are to be kept at {self.keep} places, but it must not be negative.")
