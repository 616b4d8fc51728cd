"""The models that are timed at full size: views of one dense transformer that share its weights, plus what they change.

A replaced block adds some megabytes, so all FastFLUX variants fit beside the dense model; sliced ones hold every block
anew, in its smaller size. All are random: a step's time does not depend on the values.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from torch import nn

from bench.metrics.cost.flops import meta_copy
from bench.records.results import Measurement, MetricInfo
from bench.records.variant_id import DENSE, L1_EQUAL, VariantId
from bench.studies.full_size.random_weights import Sizes, materialise_
from fastflux.methods.l1_norm import L1NormConfig, choose_widths
from fastflux.methods.sandwich_training.config import sandwich_around
from fastflux.models.flux import FLUX
from fastflux.models.folding import fold_
from fastflux.models.sublayers import replaced_layers
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef, PruningPlan, Replacement, block_count
from fastflux.pruning import apply_plan_

#: Of 24 heads and of every 24 MLP channels, as the paper's 12, 21 and 27 % of the parameters.
SLICED = (4, 7, 9)
OF_HEADS = 24
#: The ratio of the run of adjacent blocks, which folding makes one block.
RUN_RATIO = 0.20
#: Of the blocks that lose one half, by the family of the variant.
HALVES_RATIO = 0.40
HALVES = {"attention": "linear_attention", "mlp": "linear_mlp"}
LORA_RANK = 16
BASE = "FLUX.1-dev, random weights"
EQUAL_LATENCY = MetricInfo(
    "equal_latency", "1", "fraction, or count of what is kept", higher_is_better=None,
    reference="L1-norm slicing whose step takes as long as that of a FastFLUX model",
)  # fmt: skip


@dataclass(frozen=True)
class FullSizeVariant:
    """A model to time: `replaced` blocks, or the halves that `kind` names, give way to linear layers, or it is sliced.

    `folded` merges adjacent linear layers, `adapters` leaves LoRA unmerged in the blocks beside the replaced ones.
    `sliced` is the share of heads and channels that goes, in 24ths; `widths` are heads and channels kept instead, so
    that a step takes as long as that of `target`.
    """

    id: str
    label: str
    replaced: tuple[BlockRef, ...] = ()
    kind: str = "linear"
    folded: bool = False
    adapters: bool = False
    sliced: int = 0
    widths: tuple[int, int] | None = None
    target: str = ""
    ratio: float = 0.0


def full_size_variants(sizes: Sizes) -> tuple[FullSizeVariant, ...]:
    """The dense model, FastFLUX on single blocks alone and with double ones, a run of neighbours, halves, L1 slicing.

    Blocks are spread evenly: of the single blocks, or, in a mix, of all blocks in the order of the data flow, so that
    double blocks are taken in their share, 19 of 57. Which blocks go does not matter to the time beyond their kind.
    """
    singles = _stack("single_transformer_blocks", sizes.single_blocks)
    every = (*_stack("transformer_blocks", sizes.double_blocks), *singles)
    variants = [FullSizeVariant(DENSE, "Dense")]
    for ratio in sizes.ratios:
        count, name = block_count(ratio, len(every)), f"{100 * ratio:02.0f}"
        variants += [
            FullSizeVariant(f"fastflux-{name}", f"FastFLUX-{100 * ratio:.0f}%", spread(singles, count), ratio=ratio),
            FullSizeVariant(
                f"mix-{name}", f"FastFLUX-{100 * ratio:.0f}%, doubles too", spread(every, count), ratio=ratio
            ),
        ]
    run = tuple(singles[-1 - block_count(RUN_RATIO, len(every)) : -1])
    name = f"{100 * RUN_RATIO:02.0f}"
    label = f"FastFLUX-{name}%, neighbours"
    variants += [
        FullSizeVariant(f"run-{name}", label, run, ratio=RUN_RATIO),
        FullSizeVariant(f"run_folded-{name}", f"{label}, folded", run, folded=True, ratio=RUN_RATIO),
        FullSizeVariant(f"run_lora-{name}", f"{label}, LoRA not merged", run, adapters=True, ratio=RUN_RATIO),
    ]
    variants += [
        FullSizeVariant(
            str(VariantId.at(family, HALVES_RATIO)),
            f"{'Attention' if family == 'attention' else 'MLP'} of {HALVES_RATIO:.0%} of the blocks",
            spread(every, block_count(HALVES_RATIO, len(every))),
            kind=kind,
            ratio=HALVES_RATIO,
        )
        for family, kind in HALVES.items()
    ]
    variants += [FullSizeVariant(f"l1-{k}of24", f"L1-norm, {k}/24 sliced", sliced=k, ratio=k / 24) for k in SLICED]
    return tuple(variants)


def spread(blocks: Sequence[BlockRef], count: int) -> tuple[BlockRef, ...]:
    """So many of the blocks at even distances, first and last spared where that goes."""
    return tuple(blocks[(2 * place + 1) * len(blocks) // (2 * count)] for place in range(count))


def equal_variant(target: FullSizeVariant, heads: int, channels: int, ratio: float) -> FullSizeVariant:
    """The sliced model that is to be as fast as `target`."""
    label = f"L1-norm at the latency of {target.label}"
    return FullSizeVariant(equal_id(target.id), label, widths=(heads, channels), target=target.id, ratio=ratio)


def equal_id(target: str) -> str:
    """Of the sliced model that is to be as fast as the target."""
    return str(replace(VariantId.parse(target), family=L1_EQUAL))


def found_variant(target: FullSizeVariant, measurement: Measurement) -> FullSizeVariant:
    """The sliced model that a search for the target's latency ended with."""
    values = measurement.values
    return equal_variant(target, int(values["heads"]), int(values["mlp_channels"]), values["ratio"])


def kept_widths(variant: FullSizeVariant, sizes: Sizes) -> tuple[int, int] | None:
    """Heads and MLP channels that slicing leaves; None of a model that is not sliced."""
    return variant.widths or (_sliced(variant.sliced, sizes) if variant.sliced else None)


def plan_for(variant: FullSizeVariant, sizes: Sizes) -> PruningPlan | None:
    """The variant's plan before folding; None for the dense model."""
    if variant.replaced:
        return PruningPlan(
            base_model=BASE,
            base_revision="",
            method="linear_replacement" if variant.kind == "linear" else "sublayer_replacement",
            config={"blocks": len(variant.replaced)},
            replacements=tuple(Replacement(block, variant.kind) for block in variant.replaced),
        )
    widths = kept_widths(variant, sizes)
    if widths is None:  # the dense model
        return None
    config = {"ratio": variant.ratio, "heads": widths[0], "mlp_channels": widths[1]}
    return PruningPlan(base_model=BASE, base_revision="", method="l1_norm", config=config)


def widths_at(ratio: float, dense: nn.Module) -> tuple[int, int]:
    """Heads and MLP channels that `l1_norm` keeps at a ratio of the parameters."""
    return choose_widths(dense, L1NormConfig(ratio).ratio)


def _sliced(of_24: int, sizes: Sizes) -> tuple[int, int]:
    kept = OF_HEADS - of_24
    return max(1, sizes.heads * kept // OF_HEADS), max(1, 4 * sizes.width * kept // OF_HEADS)


def view_of(dense: nn.Module) -> Any:
    """A twin of a transformer, modules of its own and the same tensors: changing its blocks leaves `dense` whole."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*dense.parameters(), *dense.buffers())}
    return copy.deepcopy(dense, memo)


def build(variant: FullSizeVariant, dense: Any, sizes: Sizes) -> Any:
    """The variant as a view of `dense`, on its device and in its dtype; on the meta device shapes alone.

    `dense` stays as it is. Only what the variant does not share with it takes memory.
    """
    plan = plan_for(variant, sizes)
    twin = view_of(dense)
    if plan is None:
        return twin
    reference = next(dense.parameters())
    if not variant.replaced:
        # On the meta device first: slicing a copy of the dense blocks would hold them all a second time.
        for block in FLUX.chain(twin):
            stack = cast("nn.ModuleList", twin.get_submodule(block.stack))
            stack[block.index] = meta_copy(stack[block.index])
    apply_plan_(twin, plan)
    for replacement in plan.replacements:
        for layer in replaced_layers(get_block(twin, replacement.block)):
            layer.to("meta")  # zeros, until they are drawn
    if variant.folded:
        fold_(twin)
    if variant.adapters:
        _adapt_(twin, variant)
    if not reference.is_meta:
        materialise_(twin, sizes, str(reference.device), reference.dtype, prefix=f"{variant.id}.")
    return twin.eval().requires_grad_(requires_grad=False)


def own_bytes(variant: FullSizeVariant, outline: nn.Module, sizes: Sizes, dtype: torch.dtype) -> int:
    """Bytes that the variant takes beside the dense model; `outline` is the dense one on the meta device."""
    shared = {id(parameter) for parameter in outline.parameters()}
    twin = build(variant, outline, sizes)
    own: int = sum(parameter.numel() for parameter in twin.parameters() if id(parameter) not in shared)
    return own * dtype.itemsize


def groups(
    variants: Sequence[FullSizeVariant], bytes_of: Callable[[FullSizeVariant], int], room: int
) -> list[tuple[FullSizeVariant, ...]]:
    """Variants that are in memory together, in their order, the dense model not counted; each takes `room` at most.

    A variant that does not fit alone is alone in its group: it will fail by itself, and leave the others be.
    """
    made: list[list[FullSizeVariant]] = []
    taken = room + 1
    for variant in variants:
        size = bytes_of(variant)
        if not made or taken + size > room:
            made.append([])
            taken = 0
        made[-1].append(variant)
        taken += size
    return [tuple(group) for group in made]


def _adapt_(twin: Any, variant: FullSizeVariant) -> None:
    """LoRA in the blocks that Sandwich Training adapts, as they are before it is merged; on the meta device."""
    chain = FLUX.chain(twin)
    adapted: set[BlockRef] = set()
    for place, center in enumerate(variant.replaced):
        adapted |= set(sandwich_around(center, variant.replaced[:place], chain).adapted)
    for block in sorted(adapted - set(variant.replaced)):
        module = get_block(twin, block)
        names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
        rank = min(LORA_RANK, twin.inner_dim)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
        LoraModel(module, config, "sandwich", low_cpu_mem_usage=True)


def _stack(name: str, count: int) -> tuple[BlockRef, ...]:
    return tuple(BlockRef(name, index) for index in range(count))
