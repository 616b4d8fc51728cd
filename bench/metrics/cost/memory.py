"""Peak memory of one transformer step, and of the stages of a pipeline call: encoding, denoising, decoding.

On CUDA a step's peak is the allocator's. On a CPU it is added up from the allocations and releases that torch's
profiler saw: exact and repeatable for tensors, blind to scratch memory of libraries. A process' resident size, which is
all that a whole call can be told by there, sees that too, but also what the allocator kept of earlier steps.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from bench.metrics.catalogue import metric_named
from bench.metrics.cost.end_to_end import PipelineCall
from bench.records.results import JSON, Measurement
from fastflux.cost import PeakMemory

MEMORY = metric_named("memory").info
MEMORY_END_TO_END = metric_named("memory_end_to_end").info
STAGES = ("text_encoding", "denoising", "decoding")

_ALLOCATOR = "torch.cuda.max_memory_allocated"
_MIB = 2**20


def measure_memory(
    transformer: nn.Module,
    step: Callable[[], object],
    *,
    device: str = "cpu",
    settings: Mapping[str, JSON] | None = None,
) -> Measurement:
    """Peak memory of `step` with the weights of `transformer`, after one step that is not counted.

    Returns:
        Value "peak_mib"; the settings name the method and the weights' share. Failed when the step raises a
        RuntimeError (out of memory, say).
    """
    cuda = torch.device(device).type == "cuda"
    weights = weight_bytes(transformer)
    common: dict[str, JSON] = {
        **(settings or {}),
        "method": _ALLOCATOR if cuda else "allocations seen by torch.profiler",
        "weights_mib": weights / _MIB,
        "device_type": torch.device(device).type,
    }
    try:
        step()  # caches and workspaces made once are no part of a step
        peak = _cuda_peak(step, device) if cuda else cpu_peak(step)
    except RuntimeError as error:
        return Measurement.failed(MEMORY, f"{type(error).__name__}: {error}", missing=1, settings=common)
    return Measurement(MEMORY, "ok", values={"peak_mib": (weights + peak) / _MIB}, scored=1, settings=common)


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
        "method": _ALLOCATOR if cuda else "peak resident size of the process",
        "device_type": torch.device(device).type,
    }
    try:
        call()  # caches and workspaces made once are no part of a call
        others = others_bytes(call, torch.cuda.memory_allocated(device), "cuda") if cuda else 0
        peaks = stage_peaks(call, device)
    except RuntimeError as error:
        reason = f"{type(error).__name__}: {error}"
        return Measurement.failed(MEMORY_END_TO_END, reason, missing=1, settings=common)
    values = {f"{stage}_mib": (peak - others) / _MIB for stage, peak in peaks.items() if peak is not None}
    if lacking := ", ".join(stage for stage in STAGES if peaks[stage] is None):
        reason = f"this system does not tell the peak memory of {lacking}"
        return Measurement.failed(MEMORY_END_TO_END, reason, missing=1, settings=common)
    values["peak_mib"] = max(values.values())
    return Measurement(MEMORY_END_TO_END, "ok", values=values, scored=1, settings=common)


def weight_bytes(*modules: nn.Module, device_type: str | None = None) -> int:
    """Bytes of parameters and buffers, shared ones once; those on devices of one type alone, if it is named."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    storages = {(tensor.device, tensor.untyped_storage().data_ptr()): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values() if device_type in (None, storage.device.type))


def others_bytes(call: PipelineCall, allocated: int, device_type: str) -> int:
    """Of so many bytes that are allocated before a call, those that are no weights of its pipeline."""
    parts = {**call.pipeline.components, "transformer": call.transformer}.values()
    own = weight_bytes(*(part for part in parts if isinstance(part, nn.Module)), device_type=device_type)
    return max(0, allocated - own)


def stage_peaks(call: PipelineCall, device: str) -> dict[str, int | None]:
    """Peak bytes of each of `STAGES` in one call; None where they cannot be read or the stage was not reached."""
    peaks: dict[str, int | None] = dict.fromkeys(STAGES)
    meter = PeakMemory(device)

    def ends(stage: str) -> None:
        nonlocal meter
        peaks[stage] = meter.read()
        meter = PeakMemory(device)

    def encode(own: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        encoded = own(*arguments, **options)
        ends("text_encoding")
        return encoded

    def decode(own: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        ends("denoising")
        return own(*arguments, **options)

    with _replaced(call.pipeline, "encode_prompt", encode), _replaced(call.pipeline.vae, "decode", decode):
        call()
    ends("decoding")
    return peaks


@contextmanager
def _replaced(owner: Any, method: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """Let `replacement` be called in a method's place, with the method itself before its arguments."""
    own, is_set = getattr(owner, method), method in vars(owner)
    # Past the setters of pipelines and modules, which look after components.
    object.__setattr__(owner, method, partial(replacement, own))
    try:
        yield
    finally:
        if is_set:
            object.__setattr__(owner, method, own)
        else:
            object.__delattr__(owner, method)


def cpu_peak(step: Callable[[], object]) -> int:
    """The most bytes of CPU tensors that `step` held at once, beyond those there were before."""
    with quiet_profiler(profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    held = accumulate(change for _, change in sorted(changes, key=lambda pair: pair[0]))
    return max(held, default=0)


def _cuda_peak(step: Callable[[], object], device: str) -> int:
    torch.cuda.synchronize(device)
    before, meter = torch.cuda.memory_allocated(device), PeakMemory(device)
    step()
    torch.cuda.synchronize(device)
    return (meter.read() or 0) - before


_LEVEL = "KINETO_LOG_LEVEL"
_NOTHING = "99"


def quiet_profiler(activities: Sequence[ProfilerActivity] = (ProfilerActivity.CPU,), **options: Any) -> profile:
    """``torch.profiler.profile`` of these activities; a log level that the environment names is left as it is."""
    os.environ.setdefault(_LEVEL, _NOTHING)  # read when a profiler first starts
    return profile(activities=list(activities), **options)
