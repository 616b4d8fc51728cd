"""Save and load transformers in diffusers' layout, strictly: what is loaded is what was saved, or an error."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import nn

from fastflux.errors import FastFluxError, unknown_name
from fastflux.files import new_folder, write_text
from fastflux.models.pruned import MODEL_CLASSES, plan_of, require_all_weights

WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model)(\.\w+)*(-\d+-of-\d+)?(\.\w+)*\.(safetensors|bin)(\.index(\.\w+)?\.json)?"
)
"""Names of weights as diffusers and transformers write them: whole, in shards, of a variant, and the shards' index."""

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Number formats by their names in safetensors' headers."""


def save_transformer(transformer: nn.Module, folder: Path | str, *, overwrite: bool = False) -> None:
    """Write a transformer, dense or pruned, to ``folder`` as diffusers does (config.json and safetensors).

    The folder appears complete or not at all, as `fastflux.files.new_folder` says. With ``overwrite`` it may take the
    place of a transformer's folder, and of no other. Raises ``FastFluxError`` when it may not, or cannot be written.
    """
    with new_folder(Path(folder), overwrite=overwrite, foreign=_foreign_to_transformer) as partial:
        write_transformer(transformer, partial)


def _foreign_to_transformer(folder: Path) -> list[str]:
    """What a folder holds that is no transformer's config or weights: all of it where the config is of none."""
    names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if not WEIGHTS.fullmatch(name) and name != "config.json"]
    if others or not names:
        return others
    config = read_json(folder / "config.json") if "config.json" in names else {}
    return [] if config.get("_class_name") in MODEL_CLASSES and len(names) > 1 else names


def write_transformer(transformer: Any, folder: Path) -> None:
    """Write a transformer into an existing folder, without the paths of this machine."""
    transformer.save_pretrained(folder, safe_serialization=True)
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
    name = str(read_json(folder / "config.json").get("_class_name"))
    if name not in MODEL_CLASSES:
        raise unknown_name(f"transformer class in {folder / 'config.json'}", name, MODEL_CLASSES)
    require_weights(folder)
    try:
        model, info = MODEL_CLASSES[name].from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise FastFluxError(f"Cannot load the transformer in {folder}: {first_sentence(error)}.") from error
    require_all_weights(info, folder)
    transformer: nn.Module = model.to(device).eval()
    return transformer


def load_skeleton(folder: Path | str) -> nn.Module:
    """The transformer saved in ``folder`` on the meta device: shapes without weights, for counting.

    Raises ``FastFluxError`` when its config is missing or of an unknown class.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    if name not in MODEL_CLASSES:
        raise unknown_name(f"transformer class in {folder / 'config.json'}", name, MODEL_CLASSES)
    with torch.device("meta"):
        transformer: nn.Module = MODEL_CLASSES[name].from_config(config)
    return transformer.eval()


def revision_of(folder: Path | str) -> str:
    """16 hex digits of the SHA-256 over a saved transformer's config and weights: which base a plan belongs to."""
    folder = Path(folder)
    require_weights(folder)
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def stored_dtype(folder: Path | str) -> torch.dtype:
    """The number format that most of a saved transformer's parameters have; only headers are read.

    Raises ``FastFluxError`` when the folder's weights are missing, truncated or of no number format of torch's.
    """
    folder = Path(folder)
    require_weights(folder)
    counts: dict[str, int] = {}
    for path in _read_by_diffusers(folder):
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # no mapping
                part = weights.get_slice(name)
                counts[part.get_dtype()] = counts.get(part.get_dtype(), 0) + math.prod(part.get_shape())
    most = max(counts, key=lambda name: counts[name], default="none")
    if most not in _DTYPES:
        raise FastFluxError(
            f"The weights in {folder} are of the format {most}: give --dtype, and to prune --save-dtype."
        )
    return _DTYPES[most]


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
    """Convert a transformer to a number format; raises ``FastFluxError`` for weights too large for float16."""
    largest = torch.finfo(dtype).max
    if dtype == torch.float16:  # bfloat16 has float32's range
        for name, value in transformer.state_dict().items():
            if value.is_floating_point() and float(size := value.abs().max()) > largest:
                raise FastFluxError(
                    f"{name} holds {float(size):.3g}, and float16 ends at {largest:.0f}: give --save-dtype bfloat16."
                )
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
    except (OSError, ValueError) as error:
        raise FastFluxError(
            f"Cannot read {path} as JSON: {first_sentence(error)}; restore it from its source."
        ) from error
    if not isinstance(data, dict):
        raise FastFluxError(f"{path} holds no JSON object: restore it from its source.")
    return data


def first_sentence(error: Exception) -> str:
    """The first line of an error's message, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
