"""Tensors kept for a later run, in files that tell when a bit of them has changed."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastflux.calibration.activations import bytes_of
from fastflux.errors import FastFluxError
from fastflux.files import save_tensors

_SEAL = "sha256"


def save_sealed(
    tensors: Mapping[str, Tensor], path: Path, *, remedy: str, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as `save_tensors` does, with a hash of all that the file says, which `load_sealed` checks."""
    noted = dict(metadata or {})
    save_tensors(tensors, path, remedy=remedy, metadata={**noted, _SEAL: _digest(tensors, noted)})


def load_sealed(path: Path, *, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata that `save_sealed` wrote.

    Raises ``FastFluxError`` that ends with the ``remedy`` for a file that is missing or damaged, be it by one bit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            noted = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # is no mapping
    except (OSError, SafetensorError) as error:
        raise FastFluxError(f"Cannot read {path} ({error}): {remedy}.") from error
    if noted.pop(_SEAL, "") != _digest(tensors, noted):
        raise FastFluxError(f"{path} is damaged: its content is not what was written; {remedy}.")
    return tensors, noted


def kept_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """What `save_sealed` wrote; None where it does not lie there whole, and is to be made again."""
    with suppress(FastFluxError):
        return load_sealed(path, remedy="")
    return None


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of every name, format, shape and byte."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(bytes_of(tensor.detach().cpu().contiguous()))
    return digest.hexdigest()
