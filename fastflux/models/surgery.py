"""Exchange blocks of a transformer in place; the lengths of its stacks never change.

Kept lengths keep LoRA keys and ControlNet residual indices in line with the dense model.
"""

import torch
from torch import nn

from fastflux.errors import FastFluxError
from fastflux.models.architecture import architecture_of, config_of
from fastflux.models.sublayers import LINEAR_BLOCKS, REMOVED_BLOCKS, replace_sublayers_
from fastflux.plan import SUBLAYER_KINDS, BlockRef, Replacement

RUNS_ON = "fastflux_runs_on"
"""The attribute of an offloaded block (`fastflux.models.offload`): the device it runs on while its weights lie
elsewhere."""


def get_block(transformer: nn.Module, block: BlockRef) -> nn.Module:
    """The module that ``block`` names; raises ``FastFluxError`` when the transformer has no such block."""
    return _stack(transformer, block)[block.index]


def require_prunable(transformer: nn.Module, block: BlockRef) -> None:
    """Raise ``FastFluxError`` unless the transformer has the block and it may be pruned."""
    get_block(transformer, block)
    architecture = architecture_of(transformer)
    if block not in architecture.blocks(transformer):
        raise FastFluxError(
            f"Cannot replace {block}: {architecture.name}'s last block is no block like the others and is kept."
        )


def replace_block_(transformer: nn.Module, replacement: Replacement) -> nn.Module:
    """Put the replacement's module in the block's place, where that runs, in its dtype and mode, and return it.

    A ``linear`` replacement starts as the identity; `copy_fit_` of `linear_replacement` or a checkpoint fills it.
    Raises ``FastFluxError`` for a block that there is not or that must not be pruned.
    """
    require_prunable(transformer, replacement.block)
    stack = _stack(transformer, replacement.block)
    old = stack[replacement.block.index]
    contract = architecture_of(transformer).stack(replacement.block)
    if replacement.kind in SUBLAYER_KINDS:
        require_halves(transformer)
        replace_sublayers_(old, replacement.kind, hidden_size(transformer))
        return old
    if replacement.kind == "removed":
        new: nn.Module = REMOVED_BLOCKS[contract.joined]()
    else:
        reference = next(old.parameters(), None)
        if reference is None:
            reference = next(transformer.parameters())
        new = LINEAR_BLOCKS[contract.joined](
            hidden_size(transformer),
            joint=contract.joint,
            device=getattr(old, RUNS_ON, reference.device),
            dtype=reference.dtype,
        )
    stack[replacement.block.index] = new.train(old.training)
    return new


def hidden_size(transformer: nn.Module) -> int:
    """The width of the residual streams."""
    return architecture_of(transformer).hidden_size(config_of(transformer))


def require_halves(transformer: nn.Module) -> None:
    """Raise ``FastFluxError`` unless attention and MLP of the blocks can be replaced apart."""
    architecture = architecture_of(transformer)
    if not all(stack.halves for stack in architecture.stacks):
        raise FastFluxError(
            f"Attention and MLP of {architecture.name}'s blocks cannot be replaced apart: replace whole blocks."
        )


def slice_linear_(linear: nn.Linear, *, rows: torch.Tensor | None = None, columns: torch.Tensor | None = None) -> None:
    """Keep only the given output ``rows`` and input ``columns`` of a linear layer, in place."""
    with torch.no_grad():
        if rows is not None:
            linear.weight = nn.Parameter(linear.weight[rows].contiguous(), linear.weight.requires_grad)
            if linear.bias is not None:
                linear.bias = nn.Parameter(linear.bias[rows].contiguous(), linear.bias.requires_grad)
        if columns is not None:
            linear.weight = nn.Parameter(linear.weight[:, columns].contiguous(), linear.weight.requires_grad)
    linear.out_features, linear.in_features = linear.weight.shape


def _stack(transformer: nn.Module, block: BlockRef) -> nn.ModuleList:
    name = architecture_of(transformer).stack(block).name
    stack = transformer.get_submodule(name)
    if not isinstance(stack, nn.ModuleList) or not 0 <= block.index < len(stack):
        raise FastFluxError(f"The transformer has no block {block}: {name} holds {len(stack)} blocks.")  # type: ignore[arg-type]
    return stack
