"""Hashes of all that decides a result, so that nothing kept of another one is taken for it; calibration in parts."""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from fastflux.calibration.activations import bytes_of
from fastflux.calibration.statistics import (
    Statistics,
    collect_statistics,
    exact_by_default,
    load_statistics,
    save_statistics,
)
from fastflux.calibration.trajectories import CalibrationRun
from fastflux.errors import FastFluxError
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


def collect_in_parts(
    transformer: nn.Module,
    run: CalibrationRun[Any],
    folder: Path,
    *,
    every: int,
    advance: Callable[[int], object] = lambda _done: None,
) -> Statistics:
    """The statistics of a run, as `collect_statistics` gives them, written to ``folder`` behind every ``every`` data.

    What earlier parts of the same run left there is not collected again unless it is damaged; ``advance`` is told of it
    too. The same run is one of the same data, pipeline and settings, bit by bit, which takes a while to tell
    (`fingerprint`). Parts end with a batch, so that batches are those of a run in one go. Raises ``FastFluxError`` for
    ``every`` below 1, and when a file cannot be written.
    """
    if every < 1:
        raise FastFluxError(f"Statistics are to be saved every {every} prompts or pictures, but it must be at least 1.")
    step = -(-every // run.batch_size) * run.batch_size
    prefix = f"statistics-{key_of_run(transformer, run)}-"
    folder.mkdir(parents=True, exist_ok=True)
    ends = {int(path.stem.removeprefix(prefix)): path for path in folder.glob(f"{prefix}*.safetensors")}
    done, statistics = 0, None
    for end in sorted(ends, reverse=True):
        try:
            statistics = load_statistics(ends[end], device=next(transformer.parameters()).device)
        except FastFluxError:  # damaged: it is collected again
            continue
        done = end
        break
    advance(done)
    for start in range(done, len(run.data), step):
        part = replace(run, data=run.data[start : start + step], seed=run.seed + start)
        statistics = collect_statistics(transformer, lambda part=part: part(advance), into=statistics)  # type: ignore[misc]
        end = start + len(part.data)
        path = folder / f"{prefix}{end}.safetensors"
        save_statistics(statistics, path)
        for earlier in folder.glob(f"{prefix}*.safetensors"):
            if earlier != path:
                earlier.unlink()
    if statistics is None:
        raise FastFluxError("There is nothing to calibrate on: give at least one prompt or picture.")
    return statistics


def key_of_run(transformer: nn.Module, run: CalibrationRun[Any]) -> str:
    """16 hex digits of all that decides what a run gives: the data, every component of the pipeline, all settings."""
    settings = {field.name: getattr(run, field.name) for field in fields(run) if field.name not in ("pipeline", "data")}
    first = next(transformer.parameters())
    exact = exact_by_default(first.device, first.dtype)  # parts of both kinds cannot be added
    device = first.device.type
    return fingerprint(type(run).__name__, settings, run.contents(), of_pipeline(run.pipeline), exact, device, VERSIONS)
