"""Files of tensors that appear complete or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fastflux.errors import FastFluxError


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, *, remedy: str, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file; raises ``FastFluxError`` that ends with the ``remedy`` when that fails."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        save_file(dict(tensors), partial, metadata=None if metadata is None else dict(metadata))
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise FastFluxError(f"Cannot write {path}: {error}; {remedy}.") from error
    finally:
        partial.unlink(missing_ok=True)
