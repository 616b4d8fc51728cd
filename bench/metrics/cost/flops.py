"""FLOPs and parameters of a transformer, and what pruning it took. FLOPs = 2 x MACs of all matrix products.

Counted by torch on the meta device: no arithmetic, no memory. Tests hold the counter against formulas by hand.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.metrics.catalogue import metric_named
from bench.records.results import JSON, Measurement
from fastflux.cost import PruningCost
from fastflux.errors import FastFluxError
from fastflux.models.architecture import architecture_of, example_inputs, map_tensors
from fastflux.models.sublayers import LinearReplacementBlock, RemovedBlock, sublayer_kind
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef

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
    meta = meta_copy(transformer)
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


def meta_copy(module: nn.Module) -> nn.Module:
    """A copy without storage; the memo keeps deepcopy from ever duplicating a weight."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
        for parameter in module.parameters()
    }
    memo.update({id(buffer): torch.empty_like(buffer, device="meta") for buffer in module.buffers()})
    return copy.deepcopy(module, memo)


FLOPS_BY_BLOCK = metric_named("flops_by_block").info
CLIP_TOKENS = 77
"""What SD3's pipeline puts before T5's tokens."""


@dataclass(frozen=True)
class FlopsTable:
    """A forward at batch 1: the FLOPs of all of it, and its blocks by kind in the order of the data flow.

    Args:
        forward: FLOPs of the whole.
        text_tokens: length of the text sequence.
        each: FLOPs of one block, by kind; modulations belong to their blocks.
        counts: numbers of blocks, by kind.
    """

    forward: int
    text_tokens: int
    each: dict[str, int]
    counts: dict[str, int]

    @property
    def rest(self) -> int:
        """What no block does: embedders, conditioning and output layers."""
        return self.forward - sum(flops * self.counts[kind] for kind, flops in self.each.items())


def flops_by_block(transformer: nn.Module, height: int, width: int, text_tokens: int | None = None) -> FlopsTable:
    """Count a forward that draws one image of ``height`` x ``width`` pixels; the transformer is not touched.

    Kinds are those of the family's stacks, "double" and "single" (FLUX), "joint" (SD3; "joint_dual" with a second
    attention, "joint_last" for the last one, which ends before the text's output), "linear" (replacement) and
    "removed", with linear layers inside "double_linear_mlp" and the like, each with "+lora" behind it while LoRA
    adapters are not merged. Where blocks of one kind differ in cost, as adapters of two ranks do, the later cost is a
    kind of its own: "double_2".

    Args:
        text_tokens: length of the text sequence; what the family's pipeline takes unasked by default (512 of FLUX,
            333 of SD3, CLIP's among them).

    Raises:
        FastFluxError: a transformer or an image size that the family does not have, or no text tokens.
    """
    architecture = architecture_of(transformer)
    if text_tokens is None:
        text_tokens = architecture.text_tokens + (CLIP_TOKENS if architecture.clip_in_sequence else 0)
    if text_tokens < 1:
        raise FastFluxError(f"text_tokens is {text_tokens}, but a forward takes at least 1.")
    inputs = example_inputs(transformer, 1, height, width, text_tokens, device="meta")
    counts = count_by_module(transformer, inputs)
    kinds = Counter(  # a removed block runs no product
        (kind_of_block(transformer, block), counts.get(f"{block.stack}.{block.index}", 0))
        for block in architecture.chain(transformer)
    )
    names: list[str] = []
    each: dict[str, int] = {}
    how_many: dict[str, int] = {}
    for (name, flops), count in kinds.items():
        names.append(name)
        place = names.count(name)
        kind = name if place == 1 else f"{name}_{place}"
        each[kind], how_many[kind] = flops, count
    return FlopsTable(counts[""], text_tokens, each, how_many)


def measure_flops_by_block(
    transformer: nn.Module,
    sizes: Sequence[tuple[int, int]],
    *,
    text_tokens: int | None = None,
    dense: Mapping[tuple[int, int], FlopsTable] | None = None,
) -> Measurement:
    """The tables of several (height, width) in pixels as one measurement.

    Args:
        dense: the dense model's tables by size; without them there are no ratios.

    Returns:
        Values "512x512.forward", "512x512.rest", "512x512.double" (one block) and so on, height first, and
        "512x512.ratio_to_dense"; the settings hold the number of blocks of each kind.

    Raises:
        FastFluxError: no sizes, or as `flops_by_block`.
    """
    if not sizes:
        raise FastFluxError("There are no sizes to count at: give at least one (height, width) in pixels.")
    values: dict[str, float] = {}
    for height, width in sizes:
        table = flops_by_block(transformer, height, width, text_tokens)
        size = f"{height}x{width}"
        figures = {"forward": table.forward, "rest": table.rest, **table.each}
        values |= {f"{size}.{name}": float(flops) for name, flops in figures.items()}
        if dense is not None and (height, width) in dense:
            values[f"{size}.ratio_to_dense"] = table.forward / dense[height, width].forward
        settings: dict[str, JSON] = {"blocks": {**table.counts}, "text_tokens": table.text_tokens, "batch": 1}
    return Measurement(FLOPS_BY_BLOCK, "ok", values=values, scored=len(sizes), settings=settings)


def kind_of_block(transformer: nn.Module, name: BlockRef) -> str:
    """The kind that `flops_by_block` counts a block as."""
    block: Any = get_block(transformer, name)
    if isinstance(block, LinearReplacementBlock):
        kind = "linear"
    else:
        kind = "removed" if isinstance(block, RemovedBlock) else architecture_of(transformer).stack(name).kind
    if getattr(block, "use_dual_attention", False):
        kind += "_dual"
    if getattr(block, "context_pre_only", False):
        kind += "_last"
    if (replaced := sublayer_kind(block)) is not None:
        kind += f"_{replaced}"
    return f"{kind}+lora" if has_unmerged_lora(block) else kind


def has_unmerged_lora(module: nn.Module) -> bool:
    """Whether any layer below adds a LoRA product of its own (peft's layers; merged and disabled ones do not)."""
    layers: Iterable[Any] = module.modules()
    return any(
        bool(layer.active_adapters) and not layer.merged and not layer.disable_adapters
        for layer in layers
        if hasattr(layer, "lora_A")
    )


PRUNING_COST = metric_named("pruning_cost").info


def measure_pruning_cost(cost: PruningCost | None) -> Measurement:
    """Values as `PruningCost` names them, with "peak_memory_mib" for its bytes; none where memory was not measured."""
    if cost is None:
        return Measurement.skipped(PRUNING_COST, "the dense model is not pruned")
    values = asdict(cost)
    if (peak := values.pop("peak_memory_bytes")) is not None:
        values["peak_memory_mib"] = peak / 2**20
    return Measurement(PRUNING_COST, "ok", values={name: float(value) for name, value in values.items()})
