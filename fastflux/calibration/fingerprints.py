"""Hashes of all that decides a result, so that what was kept of another one is never taken for it."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from fastflux.calibration.activations import bytes_of
from fastflux.files import file_hash

VERSIONS = {name: version(name) for name in ("diffusers", "peft", "pillow", "torch", "transformers")}
"""Of the libraries that compute."""


def fingerprint(*things: object) -> str:
    """16 hex digits of a SHA-256 over all of the things: of every weight of modules every bit, and their configs.

    Tensors are read one after the other, whatever device they are on; FLUX.1-dev's 34 GB with its text encoders take
    about 25 s where the processor hashes in hardware (1.5 GB/s), and over a minute where it does not. Files are what
    is in them, whatever their names; components of pipelines that are no modules, such as tokenizers, are what they
    would save. Raises ``FastFluxError`` for a file that cannot be read.
    """
    digest = hashlib.sha256()
    for thing in things:
        _add(digest, thing)
    return digest.hexdigest()[:16]


def of_pipeline(pipeline: Any) -> list[object]:
    """What of a pipeline decides what it computes: its class, settings and components, each as `fingerprint` takes it.

    A scheduler's shift stands beside its config, which its ``set_shift`` leaves as it was.
    """
    settings = {name: value for name, value in pipeline.config.items() if name not in pipeline.components}
    scheduler = getattr(pipeline, "scheduler", None)
    return [type(pipeline).__name__, _public(settings), pipeline.components, getattr(scheduler, "shift", None)]


def _add(digest: Any, thing: Any) -> None:
    digest.update(f"<{type(thing).__name__}>".encode())
    if isinstance(thing, Tensor):
        digest.update(f"{thing.dtype} {tuple(thing.shape)} ".encode())
        digest.update(bytes_of(thing.detach().cpu().contiguous()))
    elif isinstance(thing, nn.Module):
        config = getattr(thing, "config", {})
        _add(digest, _public(config.to_dict() if hasattr(config, "to_dict") else config))
        _add(digest, dict(thing.state_dict()))
    elif isinstance(thing, Path):
        digest.update(file_hash(thing))
    elif isinstance(thing, Mapping):
        for name in sorted(thing, key=str):
            _add(digest, name)
            _add(digest, thing[name])
    elif isinstance(thing, Sequence) and not isinstance(thing, str):
        for one in thing:
            _add(digest, one)
    elif hasattr(thing, "save_pretrained"):
        if hasattr(thing, "backend_tokenizer"):  # each call leaves its padding and truncation there for the next
            thing = copy.deepcopy(thing)
            thing.backend_tokenizer.no_padding()
            thing.backend_tokenizer.no_truncation()
        with TemporaryDirectory() as folder:
            thing.save_pretrained(folder)
            files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            _add(digest, {str(path.relative_to(folder)): path for path in files})
    else:
        digest.update(repr(thing).encode(errors="surrogatepass"))
    digest.update(b"</>")


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without notes of diffusers' and transformers' own, such as where it was loaded from."""
    return {name: value for name, value in config.items() if not name.startswith("_")}
