"""Pipelines on disk: export one around a pruned transformer, and load any."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from fastflux.calibration.trajectories import CalibrationRun
from fastflux.errors import FastFluxError, first_sentence, memory_is_full
from fastflux.files import new_folder, require_new_folder, write_text
from fastflux.io.checkpoint import (
    WEIGHTS,
    load_model,
    load_single_file,
    load_skeleton,
    load_transformer,
    quiet_loading,
    read_json,
    read_weights,
    require_weights,
    variant_of,
    without_variant,
    write_transformer,
)
from fastflux.io.model_card import CARD, PREVIOUS_CARDS, keep_foreign_cards, licence_files, model_card
from fastflux.models.architecture import architecture_of
from fastflux.models.offload import offload_pipeline_
from fastflux.models.plain import require_finite, require_plain
from fastflux.models.pruned import PrunedTransformer, model_classes, plan_of


def export_pipeline(
    base_folder: Path | str,
    transformer: nn.Module,
    out_folder: Path | str,
    *,
    overwrite: bool = False,
    calibration: CalibrationRun[Any] | None = None,
) -> None:
    """Write a complete pipeline: the components of ``base_folder`` copied, ``transformer`` in place of its own.

    After ``import fastflux``, diffusers' own pipeline class loads it (``FluxPipeline.from_pretrained(out_folder)``).
    What is copied are the folders that the base's index names and the licence's files
    (`copied_files`). The folder appears complete or not at all, as
    `fastflux.files.new_folder` says.

    Args:
        base_folder: A pipeline in diffusers' layout.
        transformer: Dense or pruned; a pruned one's folder gets a model card as its README.md, any other the base's.
        out_folder: Folder to write. A README.md that people wrote there stays as README.previous.md.
        overwrite: Whether it may take the place of a pipeline; it never does of anything else.
        calibration: What the pruning ran on, for the card.

    Raises:
        FastFluxError: ``base_folder`` is no pipeline, ``out_folder`` must not be replaced or cannot be written, or the
            transformer cannot be saved as it is (`fastflux.models.plain`).

    Example:
        >>> transformer = fastflux.load_transformer(f"{folder}/transformer")
        >>> plan = fastflux.prune_(transformer, fastflux.L1NormConfig(ratio=0.2))
        >>> fastflux.export_pipeline(folder, transformer, out)
        >>> fastflux.plan_of(fastflux.load_pipeline(out).transformer) == plan
        True
    """
    base, out = Path(base_folder), Path(out_folder)
    index = read_index(base)
    require_output(base, out, overwrite=overwrite)
    require_plain(transformer)
    require_finite(transformer)
    package = "fastflux" if isinstance(transformer, PrunedTransformer) else "diffusers"
    index["transformer"] = [package, type(transformer).__name__]
    index.pop("_name_or_path", None)
    plan = plan_of(transformer)
    with new_folder(out, overwrite=overwrite, foreign=foreign_to_pipeline) as partial:
        for file, name in copied_files(base, card=plan is None):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            _copy(file, partial / name)
        (partial / "transformer").mkdir()
        write_transformer(transformer, partial / "transformer")
        write_text(partial / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")
        if plan is not None:
            write_text(partial / CARD, model_card(transformer, plan, base, calibration, str(index.get("_class_name"))))
        keep_foreign_cards(out, partial)


def _copy(file: Path, target: Path) -> None:
    """Copy a component's file; of a folder that has a variant's weights alone, under the names of plain weights."""
    if variant_of(file.parent) is None:
        shutil.copy2(file, target)
    elif file.name.endswith(".json") and without_variant(file.name) != file.name:  # the shards' index
        index = read_json(file)
        index["weight_map"] = {key: without_variant(str(shard)) for key, shard in index["weight_map"].items()}
        write_text(target.with_name(without_variant(target.name)), json.dumps(index, indent=2) + "\n")
    else:
        shutil.copy2(file, target.with_name(without_variant(target.name)))


def load_pipeline(
    folder: Path | str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    offload: bool = False,
    checkpoint: Path | None = None,
) -> DiffusionPipeline:
    """Load a pipeline from a local folder, its transformer dense or pruned, strictly and without running foreign code.

    Args:
        folder: A pipeline in diffusers' layout.
        dtype: Number format that all models are loaded in.
        device: Where they are put.
        offload: Keep the transformer's blocks and the text encoders on the host but while they run.
        checkpoint: Single file whose transformer takes the place of the pipeline's.

    Raises:
        FastFluxError: A component or its weights are missing, truncated or do not fit.

    Example:
        >>> fastflux.load_pipeline(folder).transformer.config.num_layers
        2
    """
    folder = Path(folder)
    check_pipeline(folder)
    pipeline: Any = _assembled(folder, _load_models(folder, dtype, checkpoint))
    if offload:
        offload_pipeline_(pipeline, device)
        return pipeline
    return pipeline.to(device)


def load_outline(folder: Path | str) -> DiffusionPipeline:
    """A pipeline without weights: its transformer on the meta device, tokenizers and scheduler, no other models.

    Raises ``FastFluxError`` for a folder that holds no pipeline of a transformer that can be pruned.
    """
    folder = Path(folder)
    index = require_pipeline(folder)
    models: dict[str, Any] = {
        name: None for name, component in components(folder, index).items() if (component / "config.json").is_file()
    }
    models["transformer"] = load_skeleton(folder / "transformer")
    return _assembled(folder, models)


def require_pipeline(folder: Path) -> dict[str, Any]:
    """The index of a text-to-image pipeline of a known family; raises ``FastFluxError`` for any other."""
    index = read_index(folder)
    expected = architecture_of(load_skeleton(folder / "transformer")).pipeline_classes
    if (found := index.get("_class_name")) not in expected:
        raise FastFluxError(
            f"{folder} is a {found}, but FastFLUX calibrates and draws with {' or '.join(expected)} alone: give a "
            f"text-to-image pipeline. (One of the same weights for pictures or masks: load it as {expected[0]} and "
            "save that.)"
        )
    return index


def _load_models(folder: Path, dtype: torch.dtype, checkpoint: Path | None) -> dict[str, Any]:
    """All models of a pipeline by their names; diffusers' own loading of a pipeline only warns of missing weights."""
    models: dict[str, Any] = {}
    index = read_index(folder)
    for name, path in components(folder, index).items():
        library, class_name = index[name]
        if name == "transformer" and checkpoint is not None:
            models[name] = load_single_file(checkpoint, path, dtype)
        elif name == "transformer" and class_name in model_classes():
            models[name] = load_transformer(path, dtype=dtype)
        elif library in ("diffusers", "transformers") and ((path / "config.json").is_file() or read_weights(path)):
            models[name] = load_model(getattr(import_module(library), class_name, None), path, dtype)
    return models


def _assembled(folder: Path, models: dict[str, Any]) -> Any:
    """The pipeline of a folder around models that are loaded already."""
    try:
        with quiet_loading():
            return DiffusionPipeline.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, **models
            )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, ImportError) as error:
        if memory_is_full(error):
            raise
        raise FastFluxError(f"Cannot load the pipeline in {folder}: {first_sentence(error)}.") from error


def check_pipeline(folder: Path) -> None:
    """Raise ``FastFluxError`` unless every component of the pipeline is there with complete weights; loads nothing."""
    for component in components(folder, read_json(folder / INDEX)).values():
        if not component.is_dir():
            raise FastFluxError(f"The pipeline's component {component} is missing: restore it from its source.")
        if (component / "config.json").is_file():  # models have one, schedulers and tokenizers have other names
            require_weights(component)


INDEX = "model_index.json"

_SETTINGS = re.compile(
    r"\w*config\.json|vocab\.(json|txt)|merges\.txt|tokenizer\.(json|model)|spiece\.model|special_tokens_map\.json"
    r"|added_tokens\.json|\w+\.jinja"
)
"""Names of what components hold besides weights."""
_OTHER_FORMATS = (".bin", ".ckpt", ".h5", ".msgpack", ".onnx", ".pt", ".pth")


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a pipeline that has a transformer; raises ``FastFluxError`` for any other folder."""
    index = read_json(folder / INDEX)
    if "transformer" not in index:
        raise FastFluxError(f"{folder / INDEX} names no transformer: FastFLUX prunes transformer pipelines only.")
    return index


def components(folder: Path, index: Mapping[str, Any]) -> dict[str, Path]:
    """The folders of the components that an index names; raises ``FastFluxError`` for a name that is no folder's."""
    entries = {name: entry for name, entry in index.items() if isinstance(entry, list)}
    for name, entry in entries.items():
        if len(entry) != 2 or [type(part) for part in entry] not in ([str, str], [type(None)] * 2):
            raise FastFluxError(f"{folder / INDEX}: {name} is {entry!r}, but must name a library and a class.")
    names = [name for name, entry in entries.items() if entry[0] is not None]
    if faulty := [name for name in names if name.startswith(".") or Path(name).name != name]:
        raise FastFluxError(f"{folder / INDEX} names a component {faulty[0]!r}, which cannot be a folder's name.")
    return {name: folder / name for name in names}


def require_output(base: Path, out: Path, *, overwrite: bool, inputs: Mapping[str, Path | None] | None = None) -> None:
    """Raise ``FastFluxError`` unless a pipeline pruned from ``base`` can be written to ``out``, before any work.

    An existing ``out`` may be replaced where ``overwrite`` is set, it is a pipeline and nothing else, and neither the
    base nor any of the ``inputs`` lies in it, wherever links lead. All that the base gives must be there.
    """
    if base.resolve() in (out.resolve(), *out.resolve().parents):
        raise FastFluxError(f"Cannot export to {out}, which is the base pipeline's own folder: choose another folder.")
    require_new_folder(
        out, overwrite=overwrite, foreign=foreign_to_pipeline, inputs={"the base pipeline": base, **(inputs or {})}
    )
    for _ in copied_files(base):
        pass


def copied_files(base: Path, *, card: bool = True) -> Iterator[tuple[Path, str]]:
    """What an export copies from its base: (file, name in the pipeline), all but the transformer and the index.

    That is what is in the folders of the components which the index names, but for hidden files and further copies of
    weights that loading without a variant does not read, the licence's files, and the ``card`` if asked for. Links are
    resolved; raises ``FastFluxError`` for one that leads out of the base, other than into the hub cache, for one to a
    folder that is no component's, and for a component that is missing.
    """
    for name, component in components(base, read_index(base)).items():
        if name == "transformer":
            continue
        real = _real(component, base)
        if not real.is_dir() or real == base.resolve():
            raise FastFluxError(f"The pipeline's component {component} is missing: restore it from its source.")
        yield from ((file, f"{name}/{inner}") for file, inner in _files(real, base))
    for file in (*licence_files(base), *([base / CARD] if card and (base / CARD).is_file() else [])):
        yield _real(file, base), file.name


def _files(folder: Path, base: Path) -> Iterator[tuple[Path, str]]:
    read = read_weights(folder)
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or (read and _is_further_copy(path, read)):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from ((file, f"{path.name}/{inner}") for file, inner in _files(path, base))
            continue
        real = _real(path, base)
        if not real.is_file():
            raise FastFluxError(f"{path} is no file, or a link to none: replace it or take it away.")
        yield real, path.name


def _is_further_copy(path: Path, read: list[Path]) -> bool:
    """Whether a file holds weights in another precision or format than those read, or is the index of such."""
    if path.suffix not in _OTHER_FORMATS and not WEIGHTS.fullmatch(path.name):
        return False
    index = f"{read[0].name.removesuffix('.safetensors').partition('-')[0]}.safetensors.index.json"
    return path not in read and path.name != index


def _real(path: Path, base: Path) -> Path:
    """A path with its links resolved; raises ``FastFluxError`` where they lead nowhere or out of the base."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop, before Python 3.13
        raise FastFluxError(f"{path} is missing, or a link to nothing: restore it from its source.") from error
    in_cache = real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    if base.resolve() not in real.parents and real != base.resolve() and not in_cache:
        raise FastFluxError(
            f"{path} is a link out of the pipeline's folder, to {real}, which is not copied into the new one: "
            "put a copy of what it leads to in its place."
        )
    return real


def foreign_to_pipeline(folder: Path) -> list[str]:
    """What a folder holds that neither diffusers nor FastFLUX writes: all of it where it is no pipeline."""
    entries = sorted(folder.iterdir())
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        known = components(folder, index)
    except (OSError, ValueError, AttributeError, FastFluxError):
        return [path.name for path in entries]
    own = {*(path.name for path in licence_files(folder)), INDEX, CARD}
    found: list[str] = []
    for path in entries:
        if path.name in known and path.is_dir():
            inner = [] if path.is_symlink() else sorted(path.iterdir())
            found += [
                f"{path.name}/{file.name}"
                for file in inner
                if file.is_dir() or not (WEIGHTS.fullmatch(file.name) or _SETTINGS.fullmatch(file.name))
            ]
        elif path.name not in own and not PREVIOUS_CARDS.fullmatch(path.name):
            found.append(path.name)
    return found
