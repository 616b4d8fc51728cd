"""FLOPs and parameters of a transformer. FLOPs = 2 x MACs of all matrix products, attention included.

Counted by torch on the meta device: no arithmetic, no memory. Tests hold the counter against formulas by hand.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.metrics.catalogue import metric_named
from bench.records.results import JSON, Measurement
from fastflux.errors import FastFluxError
from fastflux.models.architecture import map_tensors

FLOPS = metric_named("flops").info
PARAMETERS = metric_named("parameters").info


def measure_flops(
    transformer: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    dense_forward: float | None = None,
    forward: int | None = None,
) -> Measurement:
    """FLOPs of one forward as a measurement.

    Args:
        inputs: keyword arguments of the forward; only their shapes and types count.
        dense_forward: FLOPs of the dense model with the same inputs; without it there is no "ratio_to_dense".
        forward: the FLOPs, where they are counted already.

    Returns:
        Values "forward" and "ratio_to_dense".
    """
    forward = count_flops(transformer, inputs) if forward is None else forward
    settings: dict[str, JSON] = {
        "counter": "torch.utils.flop_counter.FlopCounterMode on the meta device",
        "torch": torch.__version__,
        "inputs": map_tensors(lambda value: list(value.shape), dict(inputs)),
    }
    return Measurement(FLOPS, "ok", values=_with_ratio("forward", forward, dense_forward), scored=1, settings=settings)


def measure_parameters(
    transformer: nn.Module, *, dense_total: float | None = None, checkpoint: Path | None = None
) -> Measurement:
    """Number of parameters as a measurement.

    Args:
        dense_total: of the dense model; without it there is no "ratio_to_dense".
        checkpoint: folder whose ``*.safetensors`` files the setting "checkpoint_bytes" adds up.

    Returns:
        Values "total" and "ratio_to_dense".

    Raises:
        FastFluxError: a checkpoint folder without safetensors files.
    """
    total = sum(parameter.numel() for parameter in transformer.parameters())
    settings: dict[str, JSON] = {}
    if checkpoint is not None:
        files = list(checkpoint.rglob("*.safetensors"))
        if not files:
            raise FastFluxError(f"{checkpoint} holds no *.safetensors files; give the folder of the transformer.")
        settings["checkpoint_bytes"] = sum(file.stat().st_size for file in files)
    return Measurement(PARAMETERS, "ok", values=_with_ratio("total", total, dense_total), scored=1, settings=settings)


def count_flops(transformer: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """FLOPs of ``transformer(**inputs)``, counted on a copy without weights: the module itself is not touched.

    LoRA adapters count where they are not merged into the weights, as they then are products of their own.

    Raises:
        FastFluxError: nothing was counted.
    """
    return count_by_module(transformer, inputs)[""]


def count_by_module(transformer: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, int]:
    """`count_flops` of every module that runs any, by its name in ``named_modules``; "" is the whole transformer."""
    meta = _meta_copy(transformer)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        meta(**map_tensors(lambda value: value.to("meta"), dict(inputs)))
    total = int(counter.get_total_flops())
    if total <= 0:
        raise FastFluxError(f"No FLOPs were counted in {type(transformer).__name__}; update torch to 2.15 or newer.")
    whole = f"{type(meta).__name__}."  # which the counter puts before every name
    counts = {
        name.removeprefix(whole): sum(int(flops) for flops in operations.values())
        for name, operations in counter.get_flop_counts().items()
        if name.startswith(whole)
    }
    return {**counts, "": total}


def _with_ratio(key: str, value: float, dense: float | None) -> dict[str, float]:
    return {key: float(value)} | ({} if dense is None else {"ratio_to_dense": value / dense})


def _meta_copy(module: nn.Module) -> nn.Module:
    """A copy without storage; the memo keeps deepcopy from ever duplicating a weight."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
        for parameter in module.parameters()
    }
    memo.update({id(buffer): torch.empty_like(buffer, device="meta") for buffer in module.buffers()})
    return copy.deepcopy(module, memo)
