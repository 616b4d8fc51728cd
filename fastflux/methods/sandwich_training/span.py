"""Where a sandwich lies: the span of blocks that Sandwich Training repairs around one replaced block (section 3.2)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fastflux.errors import FastFluxError
from fastflux.plan import BlockRef

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
