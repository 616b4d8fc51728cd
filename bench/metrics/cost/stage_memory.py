"""Peak memory of the stages of a pipeline call: text encoding, denoising, decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bench.metrics.catalogue import metric_named
from bench.metrics.cost.end_to_end import PipelineCall
from bench.metrics.cost.memory import weight_bytes
from bench.records.results import JSON, Measurement
from fastflux.models.memory import PeakMemory

MEMORY_END_TO_END = metric_named("memory_end_to_end").info
STAGES = ("text_encoding", "denoising", "decoding")

_MIB = 2**20


def measure_stage_memory(
    call: PipelineCall, *, device: str = "cpu", settings: Mapping[str, JSON] | None = None
) -> Measurement:
    """Peak memory of one pipeline call by stage, after one call that is not counted.

    Returns:
        Values "text_encoding_mib", "denoising_mib", "decoding_mib" (with the making of the pictures) and "peak_mib",
        their largest. On CUDA what tensors took at once, but for those that lie there for others, such as the models of
        other variants; on a CPU what was resident of the whole process, which keeps freed memory of the stages before.
        Failed when the call raises a RuntimeError, or where peaks cannot be read.
    """
    cuda = torch.device(device).type == "cuda"
    common: dict[str, JSON] = {
        **(settings or {}),
        **call.describe(),
        "method": "torch.cuda.max_memory_allocated" if cuda else "peak resident size of the process",
        "device_type": torch.device(device).type,
    }
    try:
        call()  # caches and workspaces made once are no part of a call
        others = others_bytes(call, torch.cuda.memory_allocated(device), "cuda") if cuda else 0
        peaks = stage_peaks(call, device)
    except RuntimeError as error:
        reason = f"{type(error).__name__}: {error}"
        return Measurement.failed(MEMORY_END_TO_END, reason, missing=1, settings=common)
    known = {stage: peak for stage, peak in peaks.items() if peak is not None}
    if lacking := ", ".join(stage for stage in STAGES if stage not in known):
        reason = f"this system does not tell the peak memory of {lacking}"
        return Measurement.failed(MEMORY_END_TO_END, reason, missing=1, settings=common)
    values = {f"{stage}_mib": (peak - others) / _MIB for stage, peak in known.items()}
    values["peak_mib"] = max(values.values())
    return Measurement(MEMORY_END_TO_END, "ok", values=values, scored=1, settings=common)


def others_bytes(call: PipelineCall, allocated: int, device_type: str) -> int:
    """Of so many bytes that are allocated before a call, those that are no weights of its pipeline."""
    parts = [call.transformer]
    parts += [
        part for name, part in call.pipeline.components.items() if isinstance(part, nn.Module) and name != "transformer"
    ]
    return max(0, allocated - weight_bytes(*parts, device_type=device_type))


def stage_peaks(call: PipelineCall, device: str) -> dict[str, int | None]:
    """Peak bytes of each of `STAGES` in one call; None where they cannot be read or the stage was not reached."""
    peaks: dict[str, int | None] = dict.fromkeys(STAGES)
    meter = PeakMemory(device)

    def ends(stage: str) -> None:
        nonlocal meter
        peaks[stage] = meter.read()
        meter = PeakMemory(device)

    with (
        _replaced(call.pipeline, "encode_prompt", after=lambda: ends("text_encoding")),
        _replaced(call.pipeline.vae, "decode", before=lambda: ends("denoising")),
    ):
        call()
    ends("decoding")
    return peaks


def _pass() -> None:
    """Nothing to do."""


@contextmanager
def _replaced(
    owner: Any, method: str, *, before: Callable[[], None] = _pass, after: Callable[[], None] = _pass
) -> Iterator[None]:
    """Let calls of a method of `owner` be preceded and followed by something."""
    own, set_before = getattr(owner, method), method in vars(owner)

    def called(*arguments: Any, **options: Any) -> Any:
        before()
        result = own(*arguments, **options)
        after()
        return result

    # Past the setters of pipelines and modules, which look after components.
    object.__setattr__(owner, method, called)
    try:
        yield
    finally:
        if set_before:
            object.__setattr__(owner, method, own)
        else:
            object.__delattr__(owner, method)
