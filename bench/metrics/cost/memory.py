"""Peak memory of one transformer step: the weights and whatever tensors the step holds at once.

On CUDA the step's peak is the allocator's (`torch.cuda.max_memory_allocated`). On a CPU it is added up from the
allocations and releases that torch's profiler saw: exact and repeatable for tensors, blind to scratch memory of
libraries. A process' resident size would see that too, but also the allocator's leftovers of earlier steps.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from bench.metrics.catalogue import metric_named
from bench.metrics.cost.profiler import quiet_profiler
from bench.records.results import JSON, Measurement

MEMORY = metric_named("memory").info

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
        "method": "torch.cuda.max_memory_allocated" if cuda else "allocations seen by torch.profiler",
        "weights_mib": weights / _MIB,
        "device_type": torch.device(device).type,
    }
    try:
        step()  # caches and workspaces made once are no part of a step
        peak = _cuda_peak(step, device) if cuda else cpu_peak(step)
    except RuntimeError as error:
        return Measurement.failed(MEMORY, f"{type(error).__name__}: {error}", missing=1, settings=common)
    return Measurement(MEMORY, "ok", values={"peak_mib": (weights + peak) / _MIB}, scored=1, settings=common)


def weight_bytes(*modules: nn.Module, device_type: str | None = None) -> int:
    """Bytes of parameters and buffers, shared ones once; those on devices of one type alone, if it is named."""
    tensors = [
        tensor
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
        if device_type in (None, tensor.device.type)
    ]
    storages = {(tensor.device, tensor.untyped_storage().data_ptr()): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def cpu_peak(step: Callable[[], object]) -> int:
    """The most bytes of CPU tensors that `step` held at once, beyond those there were before."""
    with quiet_profiler(profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        held += change
        peak = max(peak, held)
    return peak


def _cuda_peak(step: Callable[[], object], device: str) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
