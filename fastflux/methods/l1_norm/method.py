"""L1-norm structured pruning of attention heads and MLP channels, the paper's FLUX-Pruning baseline.

Hidden size, modulation, embedders, head width and rotary embedding stay; every block keeps the same number of heads and
of MLP channels, those with the largest L1 norm. The two streams of a double block share their heads. SD3's last
block, whose text half ends before the attention's output, is sliced like the others.
"""

from collections.abc import Callable
from time import monotonic

import torch
from torch import Tensor, nn

from fastflux.calibration.recording import RecordedInputs
from fastflux.calibration.statistics import Calibration
from fastflux.cost import PeakMemory, PruningCost
from fastflux.errors import FastFluxError
from fastflux.methods.finetuning import finetune_, outputs_of
from fastflux.methods.l1_norm.config import L1NormConfig
from fastflux.methods.l1_norm.slicing import SlicedBlock, largest, sliced_blocks
from fastflux.methods.l1_norm.widths import choose_widths
from fastflux.methods.registry import Pruned, register_pruning_method
from fastflux.models.architecture import architecture_of
from fastflux.plan import PruningPlan


def rebuild_(transformer: nn.Module, plan: PruningPlan) -> None:
    """Give a dense transformer the shapes of a plan; which heads and channels are kept does not matter here."""
    heads, channels = plan.config.get("heads"), plan.config.get("mlp_channels")
    if not isinstance(heads, int) or not isinstance(channels, int):
        raise FastFluxError(
            "A plan of l1_norm holds the kept heads and mlp_channels as integers, but this one does not."
        )
    for block in sliced_blocks(transformer):
        _require_within(heads, channels, block)
        device = block.inputs[0].weight.device
        block.keep_(torch.arange(heads, device=device), [torch.arange(channels, device=device)] * len(block.mlps))


@register_pruning_method(L1NormConfig, rebuild_=rebuild_)
def slice_by_l1_norm_(transformer: nn.Module, config: L1NormConfig, calibration: Calibration) -> Pruned:
    """Drop the heads and MLP channels of least L1 norm in every block, then fine-tune if that is asked for."""

    def slice_(_inputs: RecordedInputs | None, heads: int, channels: int) -> PruningCost:
        for block in sliced_blocks(transformer):
            staying = [largest(mlp.channel_norms(), channels) for mlp in block.mlps]
            block.keep_(largest(block.head_norms(), heads), staying)
        return PruningCost()

    return prune_widths_(transformer, config, calibration, slice_)


def prune_widths_(
    transformer: nn.Module,
    config: L1NormConfig,
    calibration: Calibration,
    slice_: Callable[[RecordedInputs | None, int, int], PruningCost],
) -> Pruned:
    """Slice a dense transformer to the widths of the ratio, then fine-tune it if that is asked for.

    ``slice_`` is given the recorded inputs, where the config needs any, and how many heads and MLP channels every block
    is to keep; its cost has no seconds.
    """
    heads, channels = choose_widths(transformer, config.ratio)
    # While the model is still dense.
    inputs = calibration.inputs(transformer, config.samples, config.seed) if config.needs_statistics else None
    began, memory = monotonic(), PeakMemory(next(transformer.parameters()).device)
    recorded: tuple[RecordedInputs, Tensor] | None = None
    if inputs is not None and config.steps:
        recorded = inputs, outputs_of(transformer, inputs, calibration.at_once(transformer, inputs))
    cost = slice_(inputs, heads, channels)
    if recorded is not None:
        cost += finetune_(transformer, *recorded, config.settings, seed=config.seed, folder=calibration.folder)
        cost += PruningCost(
            block_forwards=len(recorded[0]) * len(architecture_of(transformer).chain(transformer)),
            activation_bytes=recorded[0].nbytes + recorded[1].nbytes,
        )
    cost += PruningCost(seconds=monotonic() - began, peak_memory_bytes=memory.read())
    return Pruned(skeleton={"heads": heads, "mlp_channels": channels}, cost=cost)


def _require_within(heads: int, channels: int, block: SlicedBlock) -> None:
    if not (1 <= heads <= block.attention.heads and 1 <= channels <= block.mlps[0].channels):
        raise FastFluxError(
            f"The plan keeps {heads} heads and {channels} MLP channels, but the model's blocks have "
            f"{block.attention.heads} and {block.mlps[0].channels}: it belongs to another model."
        )
