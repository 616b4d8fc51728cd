"""Calibration in parts: statistics are written behind each, and a pass that was killed goes on behind the last one."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from fastflux.calibration.fingerprints import VERSIONS, fingerprint, of_pipeline
from fastflux.calibration.run import CalibrationRun
from fastflux.calibration.statistics import (
    Statistics,
    collect_statistics,
    exact_by_default,
    load_statistics,
    save_statistics,
)
from fastflux.errors import FastFluxError


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
