"""Fold runs of adjacent linear replacements into one: the same function, fewer products."""

from dataclasses import replace
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from fastflux.errors import FastFluxError
from fastflux.models.architecture import architecture_of
from fastflux.models.pruned import attach_plan_, plan_of
from fastflux.models.sublayers import LinearReplacementBlock
from fastflux.models.surgery import get_block, replace_block_
from fastflux.plan import PruningPlan, Replacement


def fold_(transformer: nn.Module) -> PruningPlan:
    """Fold every run of adjacent linear replacements into its first block, in place, and return the new plan.

    With ``y = x + W1 x + b1`` and ``z = y + W2 y + b2`` the pair is ``z = x + W x + b`` for ``W = W1 + W2 + W2 W1`` and
    ``b = b1 + b2 + W2 b1``, computed in float64; the second block keeps its shortcut alone. A run may cross from double
    to single blocks: its first block then keeps a layer for each stream. Where residuals are added between blocks, as
    ControlNet does, the folded model is another function: its forward refuses them.

    Args:
        transformer: A pruned transformer, changed in place.

    Raises:
        FastFluxError: The transformer is dense.

    Example:
        >>> transformer = fastflux.load_transformer(f"{folder}/transformer")
        >>> drive = lambda: transformer(**example_inputs(transformer, 8, 32, 32, 3), return_dict=False)
        >>> plan = fastflux.prune_(transformer, fastflux.LinearReplacementConfig(ratio=1.0), drive)
        >>> sum(replacement.kind == "linear" for replacement in fastflux.fold_(transformer).replacements)
        1
    """
    plan = plan_of(transformer)
    if plan is None:
        raise FastFluxError("The transformer is dense: prune it before folding.")
    blocks = architecture_of(transformer).blocks(transformer)
    folded = {}
    # From the back, so that a longer run gathers in its first block.
    for first, second in reversed(list(pairwise(blocks))):
        pair = get_block(transformer, first), get_block(transformer, second)
        if all(isinstance(block, LinearReplacementBlock) for block in pair):
            _absorb_(cast("LinearReplacementBlock", pair[0]), cast("LinearReplacementBlock", pair[1]))
            folded[second] = Replacement(second, "removed")
            replace_block_(transformer, folded[second])
    new = replace(
        plan,
        config={**plan.config, "folded": True},
        replacements=tuple(folded.get(item.block, item) for item in plan.replacements),
    )
    attach_plan_(transformer, new)
    return new


@torch.no_grad()
def _absorb_(first: LinearReplacementBlock, second: LinearReplacementBlock) -> None:
    """Let ``first`` do what both did."""
    context = second.linear if second.linear_context is None else second.linear_context
    if first.linear_context is None:
        _compose_(first.linear, second.linear)
    else:
        _compose_(first.linear_context, context)
        _compose_(first.linear, second.linear)


def _compose_(first: nn.Linear, second: nn.Linear) -> None:
    w1, w2 = first.weight.double(), second.weight.double()
    b1, b2 = first.bias.double(), second.bias.double()
    first.weight.copy_(_sum(w1, w2, w2 @ w1))
    first.bias.copy_(_sum(b1, b2, w2 @ b1))


def _sum(*terms: Tensor) -> Tensor:
    return torch.stack(terms).sum(dim=0)
