"""Save and load transformers in diffusers' layout, strictly: what is loaded is what was saved, or an error."""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # imported there, without an __all__
from safetensors import SafetensorError, safe_open
from torch import nn

from fastflux.errors import FastFluxError, first_sentence, memory_is_full, unknown_name
from fastflux.files import file_hash, new_folder, write_text
from fastflux.models.plain import require_finite, require_plain
from fastflux.models.pruned import model_classes, plan_of, require_all_weights

WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model)(\.\w+)*(-\d+-of-\d+)?(\.\w+)*\.(safetensors|bin)(\.index(\.\w+)?\.json)?"
)
"""Names of weights as diffusers and transformers write them: whole, in shards, of a variant, and the shards' index."""

_OTHER_MODELS = ("vae.", "first_stage_model.", "text_encoders.", "conditioner.")
"""What names of the VAE's and the text encoders' weights begin with in single files that hold them too."""

_VARIANT = re.compile(
    r"((?:diffusion_pytorch_model|model)(?:-\d+-of-\d+)?(?:\.safetensors\.index)?)\.(\w+?)"
    r"((?:-\d+-of-\d+)?\.(?:safetensors|json))"
)
"""A variant's weights and index: what stands before its name, the name, and what stands behind."""

_MOST_LAYERS = 1000
"""Of a stack: a model of more is never built to its end."""

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Number formats by their names in safetensors' headers."""


def save_transformer(transformer: nn.Module, folder: Path | str, *, overwrite: bool = False) -> None:
    """Write a transformer, dense or pruned, to ``folder`` as diffusers does (config.json and safetensors).

    The folder appears complete or not at all, as `fastflux.files.new_folder` says. With ``overwrite`` it may take the
    place of a transformer's folder, and of no other. Raises ``FastFluxError`` when it may not, or cannot be written.
    """
    require_plain(transformer)
    require_finite(transformer)
    with new_folder(Path(folder), overwrite=overwrite, foreign=_foreign_to_transformer) as partial:
        write_transformer(transformer, partial)


def _foreign_to_transformer(folder: Path) -> list[str]:
    """What a folder holds that is no transformer's config or weights: all of it where the config is of none."""
    names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if not WEIGHTS.fullmatch(name) and name != "config.json"]
    if others or not names:
        return others
    config = read_json(folder / "config.json") if "config.json" in names else {}
    return [] if config.get("_class_name") in model_classes() and len(names) > 1 else names


def write_transformer(transformer: Any, folder: Path) -> None:
    """Write a transformer into an existing folder, without the paths of this machine."""
    try:
        transformer.save_pretrained(folder, safe_serialization=True)
    except SafetensorError as error:  # a full disk
        raise OSError(first_sentence(error)) from error
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)  # diffusers notes where it loaded from, which means nothing elsewhere
    if (plan := plan_of(transformer)) is not None:
        config["_name_or_path"] = plan.base_model
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_transformer(
    folder: Path | str, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> nn.Module:
    """Load the transformer saved in ``folder``, dense or pruned, ready for inference (``eval``).

    Raises ``FastFluxError`` when the folder, its config or its weights are missing, truncated, of an unknown class, or
    do not fit each other.
    """
    folder = Path(folder)
    transformer: nn.Module = load_model(_model_class(folder, read_json(folder / "config.json")), folder, dtype)
    return transformer.to(device).eval()


def load_model(model_class: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A model of diffusers or transformers from its folder; a weight that is missing or fits nothing is an error."""
    require_weights(folder)
    _require_few_layers(folder, read_json(folder / "config.json"))
    if model_class is None:
        raise FastFluxError(f"The installed libraries have no class for {folder}: update diffusers and transformers.")
    try:
        with quiet_loading():
            model, info = model_class.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                variant=variant_of(folder),
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        if memory_is_full(error):
            raise
        raise FastFluxError(f"Cannot load the model in {folder}: {first_sentence(error)}.") from error
    if not isinstance(model, ModelMixin):
        info = {**info, "unexpected_keys": ()}  # checkpoints of CLIP hold more than a text encoder reads
    require_all_weights(info, folder)
    return model


def load_single_file(file: Path, folder: Path, dtype: torch.dtype) -> Any:
    """The dense transformer of a single file, in the original authors' layout or diffusers', by ``folder``'s config.

    Raises ``FastFluxError`` where the file lacks a weight, or holds others than the transformer takes.
    """
    model_class = _model_class(folder, read_json(folder / "config.json"))
    counts = _stored_counts([file])
    try:
        with quiet_loading():
            model = model_class.from_single_file(str(file), config=str(folder), dtype=dtype, local_files_only=True)
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError, LookupError) as error:
        if memory_is_full(error):
            raise
        raise FastFluxError(f"Cannot load the transformer in {file}: {first_sentence(error)}.") from error
    weights = model.state_dict()
    held, taken = sum(counts.values()), sum(weight.numel() for weight in weights.values())
    missing = [name for name, weight in weights.items() if weight.is_meta]
    if missing or held != taken:
        raise FastFluxError(
            f"{file} does not fit {folder / 'config.json'}: the model takes {taken:,} values, {len(missing)} of its "
            f"weights are missing, and the file holds {held:,}; give the pipeline that the file belongs to, and "
            "unscaled weights."
        )
    return model


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bars of diffusers and transformers meanwhile."""
    libraries = [import_module(f"{name}.utils.logging") for name in ("diffusers", "transformers")]
    loud = [library for library in libraries if library.is_progress_bar_enabled()]
    try:
        for library in loud:
            library.disable_progress_bar()
        yield
    finally:
        for library in loud:
            library.enable_progress_bar()


def variant_of(folder: Path) -> str | None:
    """The variant, such as fp16, of a folder that has weights of no other; None where there are plain ones."""
    if read_weights(folder):
        return None
    found = {match[2] for path in folder.glob("*.safetensors") if (match := _VARIANT.fullmatch(path.name))}
    return found.pop() if len(found) == 1 else None


def without_variant(name: str) -> str:
    """The name that a variant's weights have where there is no variant; any other as it is."""
    match = _VARIANT.fullmatch(name)
    return match[1] + match[3] if match else name


def load_skeleton(folder: Path | str) -> nn.Module:
    """The transformer saved in ``folder`` on the meta device: shapes without weights, for counting.

    Raises ``FastFluxError`` when its config is missing or of an unknown class.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    _require_few_layers(folder, config)
    with torch.device("meta"):
        transformer: nn.Module = _model_class(folder, config).from_config(config)
    return transformer.eval()


def _require_few_layers(folder: Path, config: dict[str, Any]) -> None:
    """Raise ``FastFluxError`` for a config that asks for more layers than any model has."""
    for name, count in config.items():
        if "layers" in name and isinstance(count, int) and count > _MOST_LAYERS:
            raise FastFluxError(f"{name} in {folder / 'config.json'} is {count}: expected at most {_MOST_LAYERS}.")


def _model_class(folder: Path, config: dict[str, Any]) -> Any:
    """The class that a transformer's config names."""
    name, known = str(config.get("_class_name")), model_classes()
    if name not in known:
        raise unknown_name(f"transformer class in {folder / 'config.json'}", name, known)
    if config.get("quantization_config") is not None:
        raise FastFluxError(
            f"The transformer in {folder} is quantised: give the original, and load this one with diffusers alone."
        )
    return known[name]


def revision_of(source: Path | str) -> str:
    """16 hex digits of the SHA-256 over a saved transformer's config and weights: which base a plan belongs to.

    ``source`` is its folder, or a single file of weights.
    """
    source = Path(source)
    if source.is_dir():
        require_weights(source)
    digest = hashlib.sha256()
    for path in sorted([source / "config.json", *source.glob("*.safetensors")]) if source.is_dir() else [source]:
        digest.update(file_hash(path))
    return digest.hexdigest()[:16]


def stored_dtype(source: Path | str) -> torch.dtype:
    """The number format that most of a saved transformer's parameters have; only headers are read.

    ``source`` is its folder, or a single file of weights. Raises ``FastFluxError`` when the weights are missing,
    truncated or of no number format of torch's.
    """
    source = Path(source)
    if source.is_dir():
        require_weights(source)
    counts = _stored_counts(_read_by_diffusers(source) if source.is_dir() else [source])
    most = max(counts, key=lambda name: counts[name], default="none")
    if most not in _DTYPES:
        raise FastFluxError(
            f"The weights in {source} are of the format {most}: give --dtype, and to prune --save-dtype."
        )
    return _DTYPES[most]


def _stored_counts(files: list[Path]) -> dict[str, int]:
    """How many values of a transformer's safetensors files are of each number format; those of other models not."""
    counts: dict[str, int] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118  # no mapping
                    if not name.startswith(_OTHER_MODELS):
                        part = weights.get_slice(name)
                        counts[part.get_dtype()] = counts.get(part.get_dtype(), 0) + math.prod(part.get_shape())
        except (OSError, SafetensorError) as error:
            raise FastFluxError(f"Cannot read the weights in {path}: {first_sentence(error)}.") from error
    return counts


def _read_by_diffusers(folder: Path) -> list[Path]:
    """The weights files that diffusers loads: not those of a variant, such as fp16, that may lie beside them."""
    return read_weights(folder) or sorted(folder.glob("*.safetensors"))


def read_weights(folder: Path) -> list[Path]:
    """The weights files that diffusers and transformers read unless asked for a variant; none where there are none."""
    for name in (SAFETENSORS_WEIGHTS_NAME, "model.safetensors"):
        if (index := folder / f"{name}.index.json").is_file():
            return [folder / str(shard) for shard in sorted(set(read_json(index)["weight_map"].values()))]
        if (folder / name).is_file():
            return [folder / name]
    return []


def cast_(transformer: nn.Module, dtype: torch.dtype) -> None:
    """Convert a transformer to a number format; raises ``FastFluxError`` for weights that it cannot hold."""
    require_finite(transformer, dtype)
    nn.Module.to(transformer, dtype)  # diffusers' own warns of modules to be kept in float32 where there are none


def require_weights(folder: Path) -> None:
    """Raise ``FastFluxError`` unless the folder holds complete safetensors files, every shard of the index among them.

    Only headers are read, which tell how long each file must be.
    """
    present = set(folder.glob("*.safetensors"))
    for index in folder.glob("*.safetensors.index.json"):
        weights = read_json(index).get("weight_map")
        if not isinstance(weights, dict):
            raise FastFluxError(f"{index} holds no weight_map: restore the folder from its source.")
        present |= {folder / str(shard) for shard in weights.values()}
    if not present:
        raise FastFluxError(f"{folder} holds no .safetensors weights: restore the folder from its source.")
    for path in sorted(present):
        if not path.is_file():
            raise FastFluxError(f"The weights file {path} is missing: restore the folder from its source.")
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise FastFluxError(
                f"The weights file {path} is truncated or corrupt ({path.stat().st_size} bytes): "
                "restore it from its source."
            ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises ``FastFluxError`` naming the file when it is missing or anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FastFluxError(f"There is no {path}: give the folder that save_pretrained or FastFLUX wrote.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise FastFluxError(
            f"Cannot read {path} as JSON: {first_sentence(error)}; restore it from its source."
        ) from error
    if not isinstance(data, dict):
        raise FastFluxError(f"{path} holds no JSON object: restore it from its source.")
    return data


def read_ranking(path: Path) -> str:
    """The order in a file of `fastflux rank --json` or `python -m bench rank`, as a ranking given block by block.

    Raises ``FastFluxError`` when there is none.
    """
    if not path.exists():
        raise FastFluxError(f"There is no {path}: write it with `fastflux rank --json {path}`.")
    data = read_json(path)
    try:
        return ",".join(entry["block"] for entry in data["blocks"])
    except (KeyError, TypeError) as error:
        raise FastFluxError(f"{path} holds no ranking: write one with `fastflux rank --json`.") from error


def is_hub_id(text: str) -> bool:
    """Whether the text can name a model on the hub: an owner and a name; a folder's bare name is none."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


def local_pipeline(folder: Path) -> Path:
    """The folder itself if there is one; else, if it reads as a hub id, what diffusers fetches or has in its cache.

    Raises ``FastFluxError`` when there is neither, saying what to do.
    """
    if folder.is_file():
        raise FastFluxError(
            f"{folder} is a single file: give the folder or hub id of the pipeline that it belongs to, and the file "
            "with --checkpoint."
        )
    if folder.exists():
        return folder
    name = folder.as_posix()
    if not is_hub_id(name):
        raise FastFluxError(f"There is no folder {folder}, and it is no hub id such as black-forest-labs/FLUX.1-dev.")
    try:
        return Path(DiffusionPipeline.download(name))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise FastFluxError(
            f"There is no folder {folder}, and the hub does not give it ({first_sentence(error)}): check the name, "
            "accept the model's licence on its page, log in with `hf auth login`, or give a local folder."
        ) from error
