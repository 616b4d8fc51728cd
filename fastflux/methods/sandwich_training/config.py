"""Settings of Sandwich Training: which blocks are replaced, and how each sandwich is trained."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fastflux.errors import FastFluxError, unknown_name
from fastflux.methods.finetuning import require_rank
from fastflux.methods.linear_replacement import LinearReplacementConfig
from fastflux.methods.registry import amount, later_field, require_targets
from fastflux.models.architecture import architecture_of
from fastflux.plan import WHOLE_KINDS, BlockRef

LAYERS = (1, 3, 5)
"""Sandwich sizes of the paper's Figure 7: the replaced block alone, or one or two adapted blocks on either side."""


@dataclass(frozen=True)
class Sandwich:
    """Consecutive ``blocks`` around ``center``, in the order of the data flow.

    ``adapted`` blocks are unpruned and get LoRA; ``replaced`` ones, the center among them, are trained in full. Blocks
    that are neither do not exist: between the outermost adapted blocks everything is one or the other.
    """

    center: BlockRef
    blocks: tuple[BlockRef, ...]
    adapted: tuple[BlockRef, ...]
    replaced: tuple[BlockRef, ...]


def require_layers(layers: int) -> None:
    """Raise ``FastFluxError`` unless ``layers`` is one of `LAYERS`."""
    if layers not in LAYERS:
        raise FastFluxError(f"A sandwich of {layers} layers is asked for: choose one of {', '.join(map(str, LAYERS))}.")


def sandwich_around(
    center: BlockRef, replaced: Collection[BlockRef], blocks: Sequence[BlockRef], *, layers: int = 3
) -> Sandwich:
    """The sandwich around ``center`` when the blocks ``replaced`` are replaced already.

    ``blocks`` are all blocks of the model in the order of the data flow. The span reaches to the nearest unpruned
    blocks before and after the center (equation 3: u and d), past replaced ones, which then train along; with five
    layers to the second nearest. At an end of the model it stops at the last block there is. With one layer the span is
    the center alone. Raises ``FastFluxError`` when ``center`` is no block of the model or is replaced already, for
    another number of layers, and when no unpruned block is left to adapt.
    """
    require_layers(layers)
    if center not in blocks:
        raise FastFluxError(f"The model has no block {center}: it has {len(blocks)} blocks, first {blocks[0]}.")
    if center in replaced:
        raise FastFluxError(f"Block {center} is replaced already: a block is the center of one sandwich only.")
    at = list(blocks).index(center)
    if layers == 1:
        return Sandwich(center, (center,), (), (center,))
    wanted = (layers - 1) // 2
    before = [index for index in range(at - 1, -1, -1) if blocks[index] not in replaced][:wanted]
    after = [index for index in range(at + 1, len(blocks)) if blocks[index] not in replaced][:wanted]
    if not before and not after:
        raise FastFluxError(f"All blocks around {center} are replaced: lower the ratio, so that one is left to adapt.")
    span = tuple(blocks[min([*before, at]) : max([*after, at]) + 1])
    adapted = tuple(block for block in span if block != center and block not in replaced)
    return Sandwich(center, span, adapted, tuple(block for block in span if block not in adapted))


@dataclass(frozen=True)
class SandwichTrainingConfig(LinearReplacementConfig):
    """Replace the least important blocks one by one, each repaired by Sandwich Training.

    ``ratio`` or ``blocks``, ``ranking``, ``seed`` and ``ridge`` as in `LinearReplacementConfig`; ``replacement`` is
    "linear", or "removed" for the ablation of Figure 6; ``layers`` 1, 3 or 5 (Figure 7); ``samples`` images at one time
    step each calibrate and train (the paper uses 512 and another 512). A sandwich is trained by AdamW, with cosine
    decay to 0 after a linear warm-up over 5 % of the ``steps``, on ``batch`` samples each: at ``lr`` LoRA of ``rank``
    and scale 1 (alpha = rank) in the adapted blocks' linear layers, at ``linear_lr`` the replaced blocks' linear
    layers, which start at their least-squares fit; the paper names no values. With ``reuse_from``, a higher ratio, the
    sandwiches trained up to that ratio serve this one ("inference reuse"). ``targets`` are what the "current" model,
    already pruned, gave at the sandwich's end, or what the "dense" one does: then errors do not add up, for a copy of
    the model in memory.
    """

    method: ClassVar[str] = "sandwich_training"
    version: ClassVar[int] = 3
    """Raised whenever the same settings would give other weights or figures: no earlier progress is then taken."""

    replacement: str = "linear"
    layers: int = 3
    samples: int = 512
    rank: int = 16
    steps: int = 200
    batch: int = 8
    lr: float = 1e-3
    linear_lr: float = 1e-4
    reuse_from: float | None = None
    targets: str = later_field("current")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_layers(self.layers)
        require_targets(self.targets)
        if self.samples < 1:
            raise FastFluxError(f"The sandwich's samples are {self.samples}, but there must be at least 1.")
        if self.replacement not in WHOLE_KINDS:
            raise unknown_name("replacement kind", self.replacement, WHOLE_KINDS)
        if self.reuse_from is not None and (self.ratio is None or not self.ratio < self.reuse_from <= 1):
            raise FastFluxError(
                f"reuse_from is {self.reuse_from}, but it must be a ratio above the one pruned to, {self.ratio}."
            )

    def require_fits(self, transformer: nn.Module) -> None:
        """Raise ``FastFluxError`` where this transformer cannot be pruned by these settings."""
        super().require_fits(transformer)
        require_rank(self.rank, transformer)
        for name, value in (("steps", self.steps), ("batch", self.batch)):
            if value < 1:
                raise FastFluxError(f"The sandwich's {name} is {value}, but it must be at least 1.")
        for name, rate in (("lr", self.lr), ("linear_lr", self.linear_lr)):
            if not (math.isfinite(rate) and rate >= 0):
                raise FastFluxError(f"The sandwich's {name} is {rate}, but it must be a number that is not negative.")
        ratio = self.ratio if self.reuse_from is None else self.reuse_from
        require_spans(
            self, count=amount(transformer, ratio, self.blocks), blocks=architecture_of(transformer).chain(transformer)
        )


def require_spans(config: SandwichTrainingConfig, *, count: int, blocks: Sequence[BlockRef]) -> None:
    """Raise ``FastFluxError`` when replacing ``count`` of ``blocks`` leaves a sandwich without a block to adapt."""
    if config.layers > 1 and count >= len(blocks):
        raise FastFluxError(
            f"All {len(blocks)} blocks would be replaced, so that none is left to adapt: lower the ratio."
        )
