"""Pipelines quantised by torchao as diffusers loads them: bytes, time and pictures beside the same ones unquantised.

`python -m experiments.quantisation DENSE PRUNED --prompts FILE` prints the table of docs/prune.md; needs torchao.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import cyclopts
import numpy as np
import torch
from diffusers import BitsAndBytesConfig, DiffusionPipeline, PipelineQuantizationConfig, TorchAoConfig
from rich.console import Console

from bench.metrics.cost.timing import interleave, percentiles, step_timer
from bench.metrics.quality.image_similarity import mean_squared_error, psnr
from fastflux.calibration.prompts import read_prompts
from fastflux.errors import FastFluxError
from fastflux.models.architecture import example_inputs
from fastflux.models.sizes import drawing_sizes, sampling_arguments, sequence_length

FORMATS = ("unquantised", "int8", "float8")
"""What weights are stored in where the table is measured; int8 and float8 are torchao's weight-only configs."""
HEADER = ("Pipeline", "Weights", "Bytes", "Step, ms of one core", "PSNR to unquantised, dB")


def load(folder: Path, weights: str) -> Any:
    """The pipeline as diffusers loads it, its transformer's linear layers in one of `FORMATS` or bitsandbytes' nf4."""
    options: dict[str, Any] = {"dtype": torch.float32}
    if weights != "unquantised":
        if weights == "nf4":
            own: Any = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        else:
            scheme = f"{weights.capitalize()}WeightOnlyConfig"
            own = TorchAoConfig(getattr(import_module("torchao.quantization"), scheme)())
        options["quantization_config"] = PipelineQuantizationConfig(quant_mapping={"transformer": own})
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: Any, prompts: Sequence[str], steps: int, guidance: float) -> Any:
    """Pictures ``(n, height, width, 3)`` in uint8, each prompt's from its own noise."""
    drawn = pipeline(
        **sampling_arguments(pipeline, prompts, guidance=guidance),
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
        output_type="np",
    )
    return np.rint(255 * drawn.images).astype(np.uint8)


def table(
    folders: Mapping[str, Path], prompts: Sequence[str], *, steps: int, guidance: float, rounds: int
) -> list[tuple[str, ...]]:
    """A line for every folder in every format, saved and loaded again, and timed in turn.

    Raises:
        FastFluxError: What was saved draws other pictures, or a step fails.
    """
    timed, bytes_of, pictures = {}, {}, {}
    for name, folder in folders.items():
        for weights in FORMATS:
            pipeline = load(folder, weights)
            pictures[name, weights] = drawn = draw(pipeline, prompts, steps, guidance)
            with TemporaryDirectory() as saved:
                pipeline.save_pretrained(saved)
                again = draw(load(Path(saved), FORMATS[0]), prompts, steps, guidance)
                bytes_of[name, weights] = sum(file.stat().st_size for file in Path(saved, "transformer").glob("*.saf*"))
            if not np.array_equal(again, drawn):
                raise FastFluxError(f"The {name} pipeline in {weights} draws other pictures once it was saved.")
            sizes = drawing_sizes(pipeline)
            inputs = example_inputs(pipeline.transformer, 1, sizes["height"], sizes["width"], sequence_length(pipeline))
            timed[f"{name} {weights}"] = partial(torch.no_grad()(pipeline.transformer), **inputs)
    found = interleave(timed, step_timer("cpu", process_time)[1], warmup=2, rounds=rounds, seed=0)
    if found.faults:
        raise FastFluxError(f"A step failed: {found.faults}.")
    lines = []
    for (name, weights), drawn in pictures.items():
        error = float(np.mean([*map(mean_squared_error, drawn, pictures[name, FORMATS[0]])]))
        like = f"{psnr(error):.1f}" if error else "-"
        milliseconds = percentiles(found.times[f"{name} {weights}"])["p50_ms"]
        lines.append((name, weights, f"{bytes_of[name, weights]:,}", f"{milliseconds:.1f}", like))
    return lines


def quantisation(
    *folders: Path, prompts: Path, limit: int = 32, steps: int = 10, guidance: float = 3.0, rounds: int = 20
) -> None:
    """Print a Markdown table of pipelines, dense or pruned, as they are and quantised.

    Args:
        folders: Pipelines in diffusers' layout.
        prompts: A file of prompts, as `fastflux prune` reads it.
        limit: How many of them are drawn.
        steps: Sampling steps of a picture.
        guidance: Guidance scale.
        rounds: Timed steps of each.
    """
    lines = table(
        {folder.name: folder for folder in folders},
        read_prompts(prompts)[:limit],
        steps=steps,
        guidance=guidance,
        rounds=rounds,
    )
    console = Console(soft_wrap=True)
    for cells in (HEADER, ("---",) * len(HEADER), *lines):
        console.print(f"| {' | '.join(cells)} |", markup=False, highlight=False)


if __name__ == "__main__":
    cyclopts.run(quantisation)
