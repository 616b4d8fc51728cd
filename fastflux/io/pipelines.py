"""Pipelines on disk: export one around a pruned transformer, and load any."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from fastflux.calibration.run import CalibrationRun
from fastflux.errors import FastFluxError
from fastflux.files import new_folder, write_text
from fastflux.io.checkpoint import first_sentence, load_skeleton, read_json, require_weights, write_transformer
from fastflux.io.model_card import CARD, keep_foreign_cards, model_card
from fastflux.io.pipeline_files import INDEX, components, copied_files, foreign_to_pipeline, read_index, require_output
from fastflux.models.offload import offload_pipeline_
from fastflux.models.pruned import PrunedTransformer, plan_of


def export_pipeline(
    base_folder: Path | str,
    transformer: nn.Module,
    out_folder: Path | str,
    *,
    overwrite: bool = False,
    calibration: CalibrationRun[Any] | None = None,
) -> None:
    """Write a complete pipeline: the components of ``base_folder`` copied, ``transformer`` in place of its own.

    After ``import fastflux``, diffusers' own pipeline class loads it (``FluxPipeline.from_pretrained(out_folder)``, or
    ``StableDiffusion3Pipeline``). What is copied are the folders that the base's index names and the licence's files
    (`fastflux.pipeline_files.copied_files`). The folder appears complete or not at all, as `fastflux.files.new_folder`
    says; with ``overwrite`` it may take the place of a pipeline, and of nothing else. A pruned model's folder gets a
    model card as its README.md, which tells of ``calibration`` if that is given, any other the base's; a README.md that
    people wrote or changed in an overwritten folder stays there as README.previous.md. Raises ``FastFluxError`` when
    ``base_folder`` is no pipeline, or ``out_folder`` must not be replaced or cannot be written.
    """
    base, out = Path(base_folder), Path(out_folder)
    index = read_index(base)
    require_output(base, out, overwrite=overwrite)
    package = "fastflux" if isinstance(transformer, PrunedTransformer) else "diffusers"
    index["transformer"] = [package, type(transformer).__name__]
    index.pop("_name_or_path", None)
    plan = plan_of(transformer)
    with new_folder(out, overwrite=overwrite, foreign=foreign_to_pipeline) as partial:
        for file, name in copied_files(base, card=plan is None):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, partial / name)
        (partial / "transformer").mkdir()
        write_transformer(transformer, partial / "transformer")
        write_text(partial / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")
        if plan is not None:
            write_text(partial / CARD, model_card(transformer, plan, base, calibration))
        keep_foreign_cards(out, partial)


def load_pipeline(
    folder: Path | str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    offload: bool = False,
) -> DiffusionPipeline:
    """Load a pipeline from a local folder, its transformer dense or pruned.

    With ``offload`` the transformer's blocks and the text encoders stay on the host but while they run. Raises
    ``FastFluxError`` when a component or its weights are missing, truncated or do not fit.
    """
    folder = Path(folder)
    check_pipeline(folder)
    try:
        pipeline: Any = DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise FastFluxError(f"Cannot load the pipeline in {folder}: {first_sentence(error)}.") from error
    if offload:
        offload_pipeline_(pipeline, device)
        return pipeline
    return pipeline.to(device)


def load_outline(folder: Path | str) -> DiffusionPipeline:
    """A pipeline without weights: its transformer on the meta device, tokenizers and scheduler, no other models.

    Raises ``FastFluxError`` for a folder that holds no pipeline of a transformer that can be pruned.
    """
    folder = Path(folder)
    index = read_json(folder / INDEX)
    models: dict[str, Any] = {
        name: None for name, component in components(folder, index).items() if (component / "config.json").is_file()
    }
    models["transformer"] = load_skeleton(folder / "transformer")
    try:
        pipeline: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **models)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise FastFluxError(f"Cannot load the pipeline in {folder}: {first_sentence(error)}.") from error
    return pipeline


def check_pipeline(folder: Path) -> None:
    """Raise ``FastFluxError`` unless every component of the pipeline is there with complete weights; loads nothing."""
    for component in components(folder, read_json(folder / INDEX)).values():
        if not component.is_dir():
            raise FastFluxError(f"The pipeline's component {component} is missing: restore it from its source.")
        if (component / "config.json").is_file():  # models have one, schedulers and tokenizers have other names
            require_weights(component)
