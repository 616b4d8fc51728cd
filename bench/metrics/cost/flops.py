"""FLOPs and parameters of a transformer. FLOPs = 2 x MACs of all matrix products, attention included.

Counted by torch on the meta device (no arithmetic, no memory), and by a formula for FLUX that checks the counter.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.metrics.catalogue import metric_named
from bench.records.results import JSON, Measurement
from fastflux.errors import FastFluxError
from fastflux.models.architecture import map_tensors

FLOPS = metric_named("flops").info
PARAMETERS = metric_named("parameters").info

TIME_CHANNELS = 256
"""Width of diffusers' sinusoidal timestep projection."""


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


def block_flops(
    kind: Literal["double", "single", "linear", "removed"],
    *,
    dim: int,
    tokens: int,
    attention_dim: int,
    mlp_dim: int,
    sublayers: str = "",
) -> int:
    """FLOPs of one block at batch 1, by hand.

    Args:
        kind: block of ``transformer_blocks`` (of FLUX, or of SD3 but for its last) or ``single_transformer_blocks``,
            linear replacement, or removed.
        tokens: text and image tokens together: each stream has like weights of its own.
        attention_dim: heads x head size (dim when dense, less when heads are sliced off).
        mlp_dim: MLP channels (4 x dim when dense).
        sublayers: which halves of the block are linear layers, as plans say it ("linear_mlp").
    """
    if kind == "removed":
        return 0
    if kind == "linear":
        return 2 * tokens * dim * dim
    projections = tokens * 4 * dim * attention_dim  # query, key, value, output
    attention = 2 * tokens * tokens * attention_dim  # scores, and their product with the values
    mlp = tokens * 2 * dim * mlp_dim
    modulation = (12 if kind == "double" else 3) * dim * dim  # shift, scale, gate; twice per stream if double
    linear = tokens * dim * dim
    halves = linear if sublayers == "linear_attention" else projections + attention
    halves += linear if sublayers == "linear_mlp" else mlp
    if sublayers == "linear_halves":  # one layer for both, but for double blocks, whose halves have gates of their own
        halves = 2 * linear if kind == "double" else linear
    return 2 * (halves + modulation)


def flux_flops(
    config: Mapping[str, Any],
    *,
    image_tokens: int,
    text_tokens: int,
    linear: int = 0,
    linear_doubles: int = 0,
    removed: int = 0,
    heads: int | None = None,
    mlp_dim: int | None = None,
) -> int:
    """FLOPs of one forward of a FLUX transformer at batch 1, by hand from its diffusers config.

    Args:
        linear, removed: how many single blocks are replaced by linear layers or removed. (A double block costs as much
            as a single one but for its modulation, 18 x dim^2 FLOPs.)
        linear_doubles: how many double blocks are replaced: each stream by a layer of its own, over its own tokens.
        heads, mlp_dim: what is left of them in every block after slicing; None is all.
    """
    head_dim, all_heads = config["attention_head_dim"], config["num_attention_heads"]
    dim: int = head_dim * all_heads
    tokens = image_tokens + text_tokens

    def block(kind: Literal["double", "single", "linear", "removed"]) -> int:
        return block_flops(
            kind,
            dim=dim,
            tokens=tokens,
            attention_dim=head_dim * (all_heads if heads is None else heads),
            mlp_dim=4 * dim if mlp_dim is None else mlp_dim,
        )

    channels_in = config["in_channels"]
    embedders = image_tokens * channels_in * dim + text_tokens * config["joint_attention_dim"] * dim
    times = 2 if config["guidance_embeds"] else 1
    condition = times * (TIME_CHANNELS * dim + dim * dim) + config["pooled_projection_dim"] * dim + dim * dim
    channels_out = (config.get("patch_size") or 1) ** 2 * (config.get("out_channels") or channels_in)
    output = 2 * dim * dim + image_tokens * dim * channels_out
    singles = config["num_single_layers"] - linear - removed
    doubles = config["num_layers"] - linear_doubles
    layers = linear + linear_doubles
    blocks = doubles * block("double") + singles * block("single") + layers * block("linear")
    return int(2 * (embedders + condition + output) + blocks)


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
