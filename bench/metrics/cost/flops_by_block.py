"""FLOPs by kind of block, at any resolution, counted in one forward on the meta device each."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from bench.metrics.catalogue import metric_named
from bench.metrics.cost.flops import count_by_module
from bench.records.results import JSON, Measurement
from fastflux.errors import FastFluxError
from fastflux.models.architecture import architecture_of, example_inputs
from fastflux.models.blocks import LinearReplacementBlock, RemovedBlock
from fastflux.models.sublayers import sublayer_kind
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef

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
