"""Whole runs from a pipeline to a result, as the command line has them: prune, rank and draw."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console

from fastflux.calibration.fingerprints import collect_in_parts, fingerprint
from fastflux.calibration.images import NoisedImages, read_captioned_images
from fastflux.calibration.importance import DEFAULT_RANKING, MEASURED_RANKINGS, BlockFit, fit_blocks, rank_blocks
from fastflux.calibration.least_squares import DEFAULT_RIDGE
from fastflux.calibration.prompts import read_prompts
from fastflux.calibration.statistics import Calibration, collect_statistics, no_trajectories
from fastflux.calibration.trajectories import CalibrationRun, Trajectories
from fastflux.command_line import progress_bar
from fastflux.cost import PruningCost
from fastflux.errors import FastFluxError, unknown_name
from fastflux.files import progress_folder, require_new_folder, require_progress_folder
from fastflux.io.checkpoint import cast_, local_pipeline, revision_of, stored_dtype
from fastflux.io.pipelines import (
    export_pipeline,
    foreign_to_pipeline,
    load_outline,
    load_pipeline,
    require_output,
    require_pipeline,
)
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.methods.registry import PruningConfig, require_fits
from fastflux.models.folding import fold_
from fastflux.models.plain import require_finite
from fastflux.models.pruned import parameter_count, plan_of
from fastflux.models.sizes import drawing_sizes, require_sizes, sampling_arguments
from fastflux.pictures import open_picture
from fastflux.plan import BlockRef, PruningPlan, require_ridge
from fastflux.pruning import prune_
from fastflux.settings import (
    CalibrationSettings,
    Format,
    Place,
    Resources,
    require_device,
    require_guidance,
    require_positive,
)


@dataclass(frozen=True)
class PrunedPipeline:
    """What `prune` wrote: the folder, its plan, the transformers' numbers of parameters, and what pruning took."""

    folder: Path
    plan: PruningPlan
    parameters: int
    dense_parameters: int
    cost: PruningCost


def prune(
    pipeline: Path | str,
    config: PruningConfig,
    data: CalibrationSettings | None = None,
    *,
    output: Path | str,
    overwrite: bool = False,
    fold: bool = False,
    save_dtype: Format | None = None,
    base_model: str = "",
    resources: Resources | None = None,
) -> PrunedPipeline:
    """Prune a pipeline's transformer and write a new pipeline, which diffusers loads after ``import fastflux``.

    All that can be known without running the model is checked before its weights are loaded.

    Args:
        pipeline: Folder of the dense pipeline in diffusers' layout, or its hub id.
        config: The method and its settings, such as `LinearReplacementConfig`.
        data: What to calibrate on; needed where ``config.needs_statistics``.
        output: Folder to write.
        overwrite: Whether a pipeline that is there already may be replaced.
        fold: Whether adjacent linear replacements become one (`fold_`).
        save_dtype: Number format to write the transformer in; by default that which the dense one is stored in.
        base_model: Name of the base model in the plan; by default the folder's name, the hub id or the file's name.
        resources: Where the model computes, and where activations and progress are kept.

    Returns:
        The folder, the plan, the numbers of parameters and the cost.

    Raises:
        FastFluxError: Something that the user can mend; its message says how. No output was written then.

    Example:
        >>> config = fastflux.LinearReplacementConfig(blocks=1)
        >>> data = fastflux.CalibrationSettings(prompts=["a red star", "a blue ring"], steps=8)
        >>> pruned = fastflux.prune(folder, config, data, output=out, resources=fastflux.Resources(device="cpu"))
        >>> len(pruned.plan.replacements)
        1
    """
    source, out = Path(pipeline), Path(output)
    data, resources = data or CalibrationSettings(), resources or Resources()
    _require_settings(config, resources, fold=fold)
    kind, items = _calibration_data(data, config.method) if config.needs_statistics else (Trajectories, [])
    work = None if resources.work is None else Path(resources.work)
    inputs = {"the file of prompts": data.prompt_file, "the folder of pictures": data.image_folder, "--work": work}
    if not source.exists():  # what is fetched takes long
        require_new_folder(out, overwrite=overwrite, foreign=foreign_to_pipeline, inputs=inputs)
    base = local_pipeline(source)
    require_output(base, out, overwrite=overwrite, inputs=inputs)
    _require_runnable(base, data, items, config)
    if config.needs_statistics:
        require_progress_folder(work, out)
    saved = _as_dtype(save_dtype) or stored_dtype(_weights(base, resources))

    loaded = open_pipeline(base, resources, offload=resources.offload)
    transformer = loaded.transformer
    require_finite(transformer, saved)
    before = parameter_count(transformer)
    run = _calibration_run(loaded, kind, items, data)
    with progress_folder(work, out) if config.needs_statistics else nullcontext() as kept:
        with progress_bar(Console(stderr=True)) as progress:
            calibrating = progress.add_task("calibrating", total=len(items), visible=config.needs_statistics)
            replacing = progress.add_task("replacing blocks", total=None, visible=False)

            def advance(done: int) -> None:
                progress.advance(calibrating, done)

            calibration = Calibration(
                partial(run, advance),
                folder=kept,
                advance=lambda done, total: progress.update(replacing, completed=done, total=total, visible=True),
                batch_size=data.batch_size,
                activations=resources.activations,
                keep=resources.keep,
                run=run,
            )
            if kept is not None and (every := resources.save_every) is not None:
                calibration.collected = collect_in_parts(transformer, run, kept, every=every, advance=advance)
            plan = prune_(
                transformer,
                config,
                calibration,
                base_model=base_model or _model_name(Path(resources.checkpoint or source)),
                base_revision=revision_of(_weights(base, resources)),
                calibrated_on=_digest(run) if items else "",
            )
        if fold:
            plan = fold_(transformer)
        cast_(transformer, saved)
        export_pipeline(base, transformer, out, overwrite=overwrite, calibration=run if items else None)
    return PrunedPipeline(out, plan, parameter_count(transformer), before, calibration.cost)


def rank(
    pipeline: Path | str,
    data: CalibrationSettings,
    *,
    ranking: str = DEFAULT_RANKING,
    ridge: float = DEFAULT_RIDGE,
    place: Place | None = None,
) -> dict[BlockRef, BlockFit]:
    """Fit a linear layer to every block of a dense pipeline, and change none; arguments as of `prune`.

    Returns:
        The blocks' fits, least important block first by one of `MEASURED_RANKINGS`.

    Example:
        >>> data = fastflux.CalibrationSettings(prompts=["a red star", "a blue ring"], steps=8)
        >>> len(rank(folder, data, place=fastflux.Place(device="cpu")))
        6
    """
    if ranking not in MEASURED_RANKINGS:
        raise unknown_name("measured ranking", ranking, MEASURED_RANKINGS)
    require_ridge(ridge)
    _device(place or Place())
    kind, items = _calibration_data(data, "rank")
    base = local_pipeline(Path(pipeline))
    _require_runnable(base, data, items)
    loaded = open_pipeline(base, place or Place())
    transformer = loaded.transformer
    require_finite(transformer)
    run = _calibration_run(loaded, kind, items, data)
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("calibrating", total=len(items))
        statistics = collect_statistics(transformer, lambda: run(lambda done: progress.advance(task, done)))
    fits = fit_blocks(transformer, statistics, ridge=ridge)
    return {block: fits[block] for block in rank_blocks(ranking, transformer, fits)}


def generate(
    pipeline: Path | str,
    prompts: Sequence[str],
    *,
    steps: int = 28,
    guidance: float = 3.5,
    seed: int = 0,
    height: int | None = None,
    width: int | None = None,
    text_tokens: int | None = None,
    place: Place | None = None,
) -> Iterator[Image.Image]:
    """Draw one picture for each prompt, all from the same seed, so that two models can be compared.

    ``height`` and ``width`` are in pixels, the VAE's sample size by default; ``text_tokens`` counts T5's a prompt.
    Raises ``FastFluxError`` for settings that the pipeline cannot draw, and for values that are not finite.

    Example:
        >>> [picture] = generate(folder, ["a red star"], steps=2, place=fastflux.Place(device="cpu"))
        >>> picture.size
        (32, 32)
    """
    require_positive(steps=steps)
    require_guidance(guidance)
    place = place or Place()
    _device(place)
    folder = local_pipeline(Path(pipeline))
    require_sizes(load_outline(folder), height, width, text_tokens)
    loaded = open_pipeline(folder, place)
    for prompt in prompts:
        arguments = sampling_arguments(
            loaded, [prompt], guidance=guidance, height=height, width=width, text_tokens=text_tokens
        )
        [pixels] = loaded(
            **arguments, num_inference_steps=steps, generator=torch.Generator().manual_seed(seed), output_type="pt"
        ).images
        if not torch.isfinite(pixels).all():
            raise FastFluxError(
                f"The picture of {prompt!r} is not finite: check the model's weights, or give another --dtype."
            )
        yield loaded.image_processor.numpy_to_pil(loaded.image_processor.pt_to_numpy(pixels[None]))[0]


def open_pipeline(folder: Path, place: Place, *, offload: bool = False) -> Any:
    """The pipeline on the device and in the dtype asked for: unasked float32 on a CPU, elsewhere as it is stored."""
    require_pipeline(folder)
    device = _device(place)
    dtype = _as_dtype(place.dtype)
    if dtype is None and torch.device(device).type == "cpu":
        dtype = torch.float32  # bfloat16 is coarse, and slow on most CPUs
    dtype = dtype or stored_dtype(_weights(folder, place))
    checkpoint = None if place.checkpoint is None else Path(place.checkpoint)
    return load_pipeline(folder, dtype=dtype, device=device, offload=offload, checkpoint=checkpoint)


def _weights(folder: Path, place: Place) -> Path:
    """Where a pipeline's transformer comes from: its folder, or a single file."""
    return folder / "transformer" if place.checkpoint is None else Path(place.checkpoint)


def _device(place: Place) -> str:
    """The device asked for, or the one there is; raises ``FastFluxError`` for one that computes nothing."""
    unasked = "cuda" if torch.cuda.is_available() else "cpu"
    return require_device(unasked if place.device is None else place.device)


def _require_settings(config: PruningConfig, resources: Resources, *, fold: bool) -> None:
    """Raise ``FastFluxError`` for settings that do not go together, or a device that is not there."""
    _device(resources)
    if resources.offload and isinstance(config, L1NormConfig) and config.steps:
        raise FastFluxError(
            f"--offload brings a block at a time, but {config.method}'s --train-steps train the model as a whole: "
            "leave one of the two away."
        )
    if resources.save_every is not None and hasattr(config, "samples"):
        raise FastFluxError(
            f"--save-every is for statistics of one calibration pass, and {config.method} collects none: leave it "
            "away (--work keeps what sandwich_training has finished)."
        )
    if resources.checkpoint is not None and not Path(resources.checkpoint).is_file():
        raise FastFluxError(f"There is no file {resources.checkpoint}: give a single .safetensors file.")
    if fold and not hasattr(config, "ridge"):
        raise FastFluxError(f"--fold is for linear replacements, and {config.method} makes none: leave it away.")


def _require_runnable(
    base: Path, data: CalibrationSettings, items: list[Any], config: PruningConfig | None = None
) -> None:
    """Raise ``FastFluxError`` for what cannot be calibrated or pruned, as far as it shows without any weights."""
    outline: Any = load_outline(base)
    if (plan := plan_of(outline.transformer)) is not None:
        raise FastFluxError(f"{base} is pruned already, by plan {plan.hash}: give the dense pipeline.")
    require_sizes(outline, data.height, data.width, data.text_tokens)
    for path, _ in items if data.image_folder is not None else ():
        open_picture(path)  # a damaged one is better found now than behind those before it
    if config is None:
        return
    require_fits(config, outline.transformer)
    if data.images is not None and (count := getattr(config, "trajectories", 0)):
        raise no_trajectories(count)
    samples = getattr(config, "samples", 0) if config.needs_statistics else 0
    # SD3 runs every prompt and the empty one; FLUX is told its guidance.
    guided = data.guidance > 1 and hasattr(type(outline), "do_classifier_free_guidance")
    states = len(items) * data.steps * (2 if guided else 1)
    if samples > states:
        raise FastFluxError(
            f"{samples} samples are asked for, but {len(items)} prompts or pictures in {data.steps} steps give at most "
            f"{states}: give more prompts or steps, or ask for fewer samples."
        )


def _calibration_data(data: CalibrationSettings, what: str) -> tuple[type[CalibrationRun[Any]], list[Any]]:
    """What runs on the data that ``what`` calibrates on, and the data: prompts, or pictures with their captions."""
    if (data.prompts is None) == (data.images is None):
        raise FastFluxError(
            f"{what} calibrates on prompts or on pictures: give a file with --prompts or a folder with --images."
        )
    if data.image_folder is not None:
        return NoisedImages, read_captioned_images(data.image_folder)[: data.limit]
    prompts = data.prompt_list if data.prompt_file is None else read_prompts(data.prompt_file)
    return Trajectories, (prompts or [])[: data.limit]


def _calibration_run(
    pipeline: Any, kind: type[CalibrationRun[Any]], items: list[Any], data: CalibrationSettings
) -> CalibrationRun[Any]:
    return kind(
        pipeline,
        items,
        steps=data.steps,
        guidance=data.guidance,
        batch_size=data.batch_size or 1,
        height=data.height,
        width=data.width,
        text_tokens=data.text_tokens,
        seed=data.calibration_seed,
    )


def _digest(run: CalibrationRun[Any]) -> str:
    """16 hex digits of what decides a calibration beside the model: the data and how it runs on them."""
    sizes = drawing_sizes(run.pipeline, run.height, run.width, run.text_tokens)
    return fingerprint(type(run).__name__, list(run.data), run.steps, run.guidance, sizes, run.seed)


def _model_name(source: Path) -> str:
    """What a plan calls its base: a hub id, also where the folder is a snapshot of it, or else the folder's name."""
    if not source.exists():
        return source.as_posix()
    folder = source.resolve()
    owner, _, name = folder.parent.parent.name.removeprefix("models--").partition("--")
    if folder.is_file():
        return folder.stem
    return f"{owner}/{name}" if folder.parent.name == "snapshots" and name else folder.name


def _as_dtype(name: str | None) -> torch.dtype | None:
    return None if name is None else getattr(torch, name)
