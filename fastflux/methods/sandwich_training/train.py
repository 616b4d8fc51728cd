"""Train one sandwich: LoRA in its adapted blocks, its replaced blocks in full, against what it computed before."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastflux.calibration.activations import KeptStreams
from fastflux.calibration.recording import BlockStates, has_rows, in_float32
from fastflux.cost import PruningCost
from fastflux.errors import FastFluxError
from fastflux.methods.finetuning import adapt, adapter_parameters, descend
from fastflux.methods.sandwich_training.config import Sandwich, SandwichSettings
from fastflux.models.architecture import Streams, architecture_of
from fastflux.models.offload import resident
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef


@dataclass(frozen=True)
class SandwichResult:
    """The loss over all samples before and after training, and what it took."""

    loss_before: float
    loss_after: float
    cost: PruningCost


def train_sandwich_(
    transformer: nn.Module,
    sandwich: Sandwich,
    states: BlockStates,
    inputs: KeptStreams,
    targets: KeptStreams,
    settings: SandwichSettings,
    *,
    seed: int,
) -> SandwichResult:
    """Train in place and tell the loss over all samples before and after; LoRA ends merged into the weights.

    ``inputs`` enter the sandwich's first block and ``targets`` left its last one before the center was replaced, both
    batched as ``states`` are. The loss is the mean squared error over both streams, text left out behind the model's
    last block, where nothing reads it. Training runs in float32, whatever the weights' dtype, and in the samples' order
    that ``seed`` decides. Raises ``FastFluxError`` when the activations or the loss are not finite.
    """
    settings.require_sensible(transformer)
    with resident([get_block(transformer, block) for block in sandwich.blocks]):
        return _train_(transformer, sandwich, states, inputs, targets, settings, seed=seed)


def _train_(
    transformer: nn.Module,
    sandwich: Sandwich,
    states: BlockStates,
    inputs: KeptStreams,
    targets: KeptStreams,
    settings: SandwichSettings,
    *,
    seed: int,
) -> SandwichResult:
    """Train a sandwich whose blocks are where they run."""
    read = len(architecture_of(transformer).streams_read(sandwich.blocks[-1], transformer))
    modules = [get_block(transformer, block) for block in sandwich.blocks]
    frozen = {name: parameter.requires_grad for name, parameter in transformer.named_parameters()}
    transformer.requires_grad_(requires_grad=False)
    dtype = next(modules[0].parameters(), next(transformer.parameters())).dtype
    tuners = adapt([get_block(transformer, block).float() for block in sandwich.adapted], settings.rank, seed=seed)
    linear = [p for block in sandwich.replaced for p in get_block(transformer, block).float().parameters()]
    for parameter in linear:
        parameter.requires_grad_()
    lora = [parameter for module in modules for parameter in adapter_parameters(module)]
    trainable = sum(parameter.numel() for parameter in (*lora, *linear))
    batches = _Batches(transformer, sandwich.blocks, states, inputs, targets, read)
    try:
        before = batches.loss()
        if not math.isfinite(before):
            raise FastFluxError(
                f"The activations around {sandwich.center} are not finite: check the model's weights and dtype."
            )
        if lora or linear:
            descend(
                [(lora, settings.lr), (linear, settings.linear_lr)],
                batches.error,
                len(batches),
                steps=settings.steps,
                batch=settings.batch,
                seed=seed,
                diverged="The sandwich's loss is not finite at step {step}: "
                "lower its learning rate, or check the activations.",
            )
        after = batches.loss()
    finally:
        for tuner in tuners:
            tuner.merge_and_unload()
        for module in modules:
            module.to(dtype)
        for name, parameter in transformer.named_parameters():
            parameter.requires_grad_(frozen.get(name, True))
    steps = settings.steps if lora or linear else 0
    cost = PruningCost(
        block_forwards=2 * len(batches) * len(modules),
        block_trainings=steps * settings.batch * len(modules),
        training_steps=steps,
        trainable_parameters=trainable,
    )
    return SandwichResult(before, after, cost)


class _Batches:
    """The samples of a sandwich to draw rows from, wherever they lie: only the rows drawn are read."""

    def __init__(
        self,
        transformer: nn.Module,
        blocks: Sequence[BlockRef],
        states: BlockStates,
        inputs: KeptStreams,
        targets: KeptStreams,
        read: int,
    ) -> None:
        self.inputs, self.targets, self.size, self.read = inputs, targets, states.batch_size, read
        self.device = next(transformer.parameters()).device
        self.blocks = [(architecture_of(transformer).stack(block), get_block(transformer, block)) for block in blocks]
        arguments = [states.arguments(batch) for batch in range(len(inputs))]
        first = min(states.batch_size, inputs.samples)
        self.own, self.shared = [], []
        for block in blocks:
            given = arguments[0][block]
            own = [name for name, value in given.items() if has_rows(name, value, first)]
            self.own.append({name: torch.cat([entry[block][name] for entry in arguments]) for name in own})
            self.shared.append({name: value for name, value in given.items() if name not in own})

    def __len__(self) -> int:
        return self.inputs.samples

    def error(self, rows: Tensor) -> Tensor:
        """Mean squared error of the chosen samples."""
        streams = self._rows(self.inputs, rows)
        for (contract, module), own, shared in zip(self.blocks, self.own, self.shared, strict=True):
            chosen = {name: value[rows.to(value.device)] for name, value in own.items()}
            streams = contract.run(module, streams, {**in_float32(chosen), **shared})
        differences = [a - b for a, b in zip(streams, self._rows(self.targets, rows), strict=True)][: self.read]
        squares = torch.stack([difference.square().sum() for difference in differences]).sum()
        return squares / sum(difference.numel() for difference in differences)

    @torch.no_grad()
    def loss(self) -> float:
        """Mean squared error of all samples."""
        parts = torch.arange(len(self)).split(self.size)
        total = sum(float(self.error(rows)) * len(rows) for rows in parts)
        return total / len(self)

    def _rows(self, streams: KeptStreams, rows: Tensor) -> Streams:
        return tuple(stream.to(self.device).float() for stream in streams.rows(rows))
