"""A few pictures drawn on the CPU by one thread, as hashes of their pixels: the same until the arithmetic changes."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace
from torch import nn

from bench.run.base_model import BaseModel
from bench.samples.generate import jobs_of
from bench.samples.prompts import Prompt
from fastflux.calibration.statistics import Calibration
from fastflux.methods.registry import PruningConfig
from fastflux.models.sizes import drawing_sizes
from fastflux.pruning import prune_

CALIBRATION_PROMPTS = 8
"""A fit on these costs a second; its bits are what counts, not its quality."""


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads: sums come out the same whatever the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fitted(base: BaseModel, config: PruningConfig) -> nn.Module:
    """The dense model pruned in closed form on the first calibration prompts: no training, so exact to the bit."""
    model = base.dense()
    base.pipeline.transformer = model
    prune_(model, config, Calibration(base.drive_on(base.calibration_prompts[:CALIBRATION_PROMPTS])))
    return model.eval()


def render_hashes(
    base: BaseModel, models: Mapping[str, nn.Module], prompts: Sequence[Prompt]
) -> dict[str, dict[str, str]]:
    """SHA-256 of the pixels of one picture of each prompt, by model and prompt id, drawn by one thread."""
    sampling = replace(base.profile.sampling, samples={prompt.set: 1 for prompt in prompts})
    jobs = jobs_of(tuple(prompts), sampling)
    found: dict[str, dict[str, str]] = {}
    for name, model in models.items():
        base.pipeline.transformer = model
        with threads(1):
            drawn: Any = base.pipeline(
                prompt=[job.prompt.prompt for job in jobs],
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                **drawing_sizes(base.pipeline, sampling.height, sampling.width),
                generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
                output_type="pil",
            )
        pixels = [np.asarray(image.convert("RGB")) for image in drawn.images]
        found[name] = {
            job.prompt.id: hashlib.sha256(array.tobytes()).hexdigest() for job, array in zip(jobs, pixels, strict=True)
        }
    return found
