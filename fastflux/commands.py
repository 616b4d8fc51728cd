"""What the command line's commands do; `__main__` holds their options."""

import argparse
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from fastflux.calibration.activations import require_bounds
from fastflux.calibration.images import NoisedImages, read_captioned_images
from fastflux.calibration.importance import MEASURED_RANKINGS, fit_blocks, rank_blocks
from fastflux.calibration.least_squares import DEFAULT_RIDGE
from fastflux.calibration.parts import collect_in_parts
from fastflux.calibration.prompts import read_prompts
from fastflux.calibration.run import CalibrationRun
from fastflux.calibration.statistics import Calibration, collect_statistics
from fastflux.calibration.trajectories import Trajectories
from fastflux.errors import FastFluxError, unknown_name
from fastflux.files import require_new_folder, require_room, whole_file, write_text
from fastflux.io.checkpoint import cast_, read_json, revision_of, stored_dtype
from fastflux.io.hub import local_pipeline
from fastflux.io.pipeline_files import foreign_to_pipeline, require_output
from fastflux.io.pipelines import export_pipeline, load_pipeline
from fastflux.io.progress_folder import progress_folder, require_progress_folder
from fastflux.io.ranking_files import read_ranking
from fastflux.methods.registry import make_config
from fastflux.models.folding import fold_
from fastflux.models.pruned import parameter_count
from fastflux.models.sizes import drawing_sizes
from fastflux.plan import JSON, PruningPlan
from fastflux.progress import progress_bar
from fastflux.pruning import prune_

#: Characters a table of rankings takes; a narrower terminal wraps its lines.
WIDE = 120
#: Options that go into the method's config where they are given; which ones a method has, its config class says.
SETTINGS = ("ratio", "blocks", "ranking", "ridge", "seed", "layers", "samples", "rank", "train_steps", "batch", "lr")


def prune(options: argparse.Namespace) -> None:
    """Prune a pipeline's transformer and write a new pipeline."""
    # Everything cheap that can fail comes before the model is loaded.
    settings: dict[str, JSON] = {
        name.removeprefix("train_"): getattr(options, name) for name in SETTINGS if getattr(options, name) is not None
    }
    if options.ranking is not None and options.ranking.endswith(".json"):
        settings["ranking"] = read_ranking(Path(options.ranking))
    config = make_config(options.method, settings)
    require_positive(options, "limit", "steps", "batch_size", "save_every")
    require_bounds(options.activations, options.keep)
    if options.offload and options.method == "l1_norm" and options.train_steps:
        raise FastFluxError(
            "--offload brings a block at a time, but l1_norm's --train-steps train the model as a whole: "
            "leave one of the two away."
        )
    if options.save_every is not None and hasattr(config, "samples"):
        raise FastFluxError(
            f"--save-every is for statistics of one calibration pass, and {options.method} collects none: leave it "
            "away (--work keeps what sandwich_training has finished)."
        )
    kind, data = calibration_data(options, options.method) if config.needs_statistics else (Trajectories, [])
    name = options.pipeline.resolve().name if options.pipeline.exists() else options.pipeline.as_posix()
    inputs = {"the file of prompts": options.prompts, "the folder of pictures": options.images, "--work": options.work}
    if options.ranking is not None and options.ranking.endswith(".json"):
        inputs["the ranking"] = Path(options.ranking)
    if not options.pipeline.exists():  # what is fetched takes long
        require_new_folder(options.output, overwrite=options.overwrite, foreign=foreign_to_pipeline, inputs=inputs)
    options.pipeline = local_pipeline(options.pipeline)
    require_output(options.pipeline, options.output, overwrite=options.overwrite, inputs=inputs)
    if config.needs_statistics:
        require_progress_folder(options.work, options.output)

    saved = as_dtype(options.save_dtype) or stored_dtype(options.pipeline / "transformer")

    console = Console(stderr=True)
    pipeline = open_pipeline(options)
    transformer = pipeline.transformer
    before = parameter_count(transformer)
    drive = calibration_drive(options, pipeline, kind, data)
    kept = progress_folder(options.work, options.output) if config.needs_statistics else nullcontext()
    with kept as work:
        with progress_bar(console) as progress:
            calibrating = progress.add_task("calibrating", total=len(data), visible=config.needs_statistics)
            replacing = progress.add_task("replacing blocks", total=None, visible=False)
            calibration = Calibration(
                lambda: drive(lambda done: progress.advance(calibrating, done)),
                folder=work,
                advance=lambda done, total: progress.update(replacing, completed=done, total=total, visible=True),
                batch_size=options.batch_size,
                activations=options.activations,
                keep=options.keep,
            )
            if work is not None and options.save_every is not None:
                calibration.collected = collect_in_parts(
                    transformer,
                    drive,
                    work,
                    every=options.save_every,
                    advance=lambda done: progress.advance(calibrating, done),
                )
            plan = prune_(
                transformer,
                config,
                calibration,
                base_model=options.base_model or name,
                base_revision=revision_of(options.pipeline / "transformer"),
            )
        if options.fold:
            plan = fold_(transformer)
        cast_(transformer, saved)
        export_pipeline(
            options.pipeline,
            transformer,
            options.output,
            overwrite=options.overwrite,
            calibration=drive if data else None,
        )
    after = parameter_count(transformer)
    cost = calibration.cost
    if cost.training_steps:
        console.print(
            f"{cost.training_steps:,} training steps, at most {cost.trainable_parameters:,} parameters at once, "
            f"{cost.seconds:.0f} s",
            markup=False,
        )
    console.print(
        f"{options.output}: plan {plan.hash}, {len(plan.replacements)} blocks replaced, "
        f"{after:,} parameters ({after / before:.1%} of the dense model).",
        soft_wrap=True,
        markup=False,
    )


def inspect(options: argparse.Namespace) -> None:
    """Tell what was pruned."""
    inner = options.folder / "transformer"
    config = read_json((inner if inner.is_dir() else options.folder) / "config.json")
    table = Table(show_header=False, box=None)
    table.add_row("class", str(config.get("_class_name")))
    if (data := config.get("pruning_plan")) is None:
        table.add_row("plan", "none: the model is dense")
    else:
        plan = PruningPlan.from_json(data)
        table.add_row("plan", plan.hash)
        table.add_row("base model", escape(f"{plan.base_model or 'not recorded'} {plan.base_revision}"))
        table.add_row("method", plan.method)
        for name, value in plan.config.items():
            table.add_row(f"  {name}", escape(str(value)))
        for replacement in plan.replacements:
            table.add_row(replacement.kind, str(replacement.block))
    Console(soft_wrap=True).print(table)


def rank(options: argparse.Namespace) -> None:
    """List the blocks, least important first."""
    if options.ranking not in MEASURED_RANKINGS:
        raise unknown_name("measured ranking", options.ranking, MEASURED_RANKINGS)
    require_positive(options, "limit", "steps", "batch_size")
    kind, data = calibration_data(options, "rank")
    options.pipeline = local_pipeline(options.pipeline)
    console = Console(stderr=True)
    pipeline = open_pipeline(options)
    drive = calibration_drive(options, pipeline, kind, data)
    with progress_bar(console) as progress:
        task = progress.add_task("calibrating", total=len(data))
        statistics = collect_statistics(pipeline.transformer, lambda: drive(lambda done: progress.advance(task, done)))
    fits = fit_blocks(pipeline.transformer, statistics, ridge=DEFAULT_RIDGE if options.ridge is None else options.ridge)
    order = rank_blocks(options.ranking, pipeline.transformer, fits)
    table = Table("#", Column("block", no_wrap=True), *(name.replace("_", " ") for name in MEASURED_RANKINGS), box=None)
    for place, block in enumerate(order, 1):
        table.add_row(str(place), str(block), *(f"{getattr(fits[block], name):.4g}" for name in MEASURED_RANKINGS))
    Console(width=max(Console().width, WIDE), soft_wrap=True).print(table)
    if options.json is not None:
        entries = [
            {"block": str(block), **{name: getattr(fits[block], name) for name in (*MEASURED_RANKINGS, "ridge")}}
            for block in order
        ]
        write_text(options.json, json.dumps({"ranking": options.ranking, "blocks": entries}, indent=1) + "\n")


def generate(options: argparse.Namespace) -> None:
    """Draw one image for each prompt, all from the same seed, so that two models can be compared."""
    require_positive(options, "steps")
    options.pipeline = local_pipeline(options.pipeline)
    single = options.output.suffix.lower() == ".png"
    if single and len(options.prompt) > 1:
        raise FastFluxError(
            f"{len(options.prompt)} images do not fit into {options.output}: name a folder, or give one prompt."
        )
    pipeline = open_pipeline(options)
    sizes = drawing_sizes(pipeline, options.height, options.width, options.text_tokens)
    require_room(options.output.parent if single else options.output)
    for number, prompt in enumerate(options.prompt):
        image = pipeline(
            prompt,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            **sizes,
            generator=torch.Generator().manual_seed(options.seed),
        ).images[0]
        path = options.output if single else options.output / f"{number:03d}.png"
        with whole_file(path) as partial:
            image.save(partial, format="PNG")
        Console(soft_wrap=True).print(escape(str(path)))


def require_positive(options: argparse.Namespace, *names: str) -> None:
    """Raise ``FastFluxError`` for an option that is given and below 1."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise FastFluxError(f"--{name.replace('_', '-')} is {value}, but it must be at least 1.")


def calibration_data(options: argparse.Namespace, what: str) -> tuple[type[CalibrationRun[Any]], list[Any]]:
    """What runs on the data that ``what`` calibrates on, and the data: prompts, or pictures with their captions.

    Raises ``FastFluxError`` when there are none.
    """
    if (options.prompts is None) == (options.images is None):
        raise FastFluxError(
            f"{what} calibrates on prompts or on pictures: give a file with --prompts or a folder with --images."
        )
    if options.images is not None:
        return NoisedImages, read_captioned_images(options.images)[: options.limit]
    return Trajectories, read_prompts(options.prompts)[: options.limit]


def open_pipeline(options: argparse.Namespace) -> Any:
    """The pipeline on the device and in the dtype asked for: unasked float32 on a CPU, elsewhere as it is stored."""
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise FastFluxError(
            f"--device {device} cannot be used here: name one that PyTorch finds, such as cpu."
        ) from error
    offload = getattr(options, "offload", False)
    dtype = as_dtype(options.dtype)
    if dtype is None and torch.device(device).type == "cpu":
        dtype = torch.float32  # bfloat16 is coarse, and slow on most CPUs
    dtype = dtype or stored_dtype(options.pipeline / "transformer")
    return load_pipeline(options.pipeline, dtype=dtype, device=device, offload=offload)


def as_dtype(name: str | None) -> torch.dtype | None:
    """The number format of torch of this name."""
    return None if name is None else getattr(torch, name)


def calibration_drive(
    options: argparse.Namespace, pipeline: Any, kind: type[CalibrationRun[Any]], data: list[Any]
) -> CalibrationRun[Any]:
    """A run of the given kind with the options' settings."""
    return kind(
        pipeline,
        data,
        steps=options.steps,
        guidance=options.guidance,
        batch_size=options.batch_size or 1,
        height=options.height,
        width=options.width,
        text_tokens=options.text_tokens,
        seed=options.calibration_seed,
    )


COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "prune": prune,
    "rank": rank,
    "generate": generate,
    "inspect": inspect,
}
