"""FastFLUX whole: linear replacement with Sandwich Training after each block (Algorithm 1).

Pruning is progressive: the blocks are replaced one after another, least important first, so a run to the highest ratio
has every lower one on its way. What each block changed is kept in a file; an interrupted run goes on from there, a
lower ratio reads the first files only, and a higher one adds to them.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TypeAlias, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fastflux.calibration.activations import ActivationStore, KeptStreams, kept_sealed, load_sealed, save_sealed
from fastflux.calibration.fingerprints import VERSIONS, fingerprint
from fastflux.calibration.importance import MEASURED_RANKINGS, fit_block, fit_blocks, rank_blocks
from fastflux.calibration.least_squares import LinearStatistics
from fastflux.calibration.recording import BlockStates, RecordedInputs, has_rows, in_float32
from fastflux.calibration.statistics import Calibration, collect_recorded, observe_residual
from fastflux.cost import PeakMemory, PruningCost
from fastflux.errors import FastFluxError
from fastflux.methods.finetuning import adapt, adapter_parameters, descend
from fastflux.methods.linear_replacement import copy_fit_
from fastflux.methods.registry import Pruned, amount, register_pruning_method, settings_of
from fastflux.methods.sandwich_training.config import Sandwich, SandwichTrainingConfig, sandwich_around
from fastflux.models.architecture import Streams, architecture_of
from fastflux.models.offload import resident
from fastflux.models.sublayers import LinearReplacementBlock
from fastflux.models.surgery import get_block, replace_block_
from fastflux.plan import BlockRef, Replacement


def train_sandwich_(
    transformer: nn.Module,
    sandwich: Sandwich,
    states: BlockStates,
    inputs: KeptStreams,
    targets: KeptStreams,
    settings: SandwichTrainingConfig,
    *,
    seed: int,
) -> tuple[float, float, PruningCost]:
    """Train in place; the loss over all samples before and after, and what it took. LoRA ends merged into the weights.

    ``inputs`` enter the sandwich's first block and ``targets`` left its last one before the center was replaced, both
    batched as ``states`` are. The loss is the mean squared error over both streams, text left out behind the model's
    last block, where nothing reads it. Training runs in float32, whatever the weights' dtype, and in the samples' order
    that ``seed`` decides; the blocks lie where they run. Raises ``FastFluxError`` for activations or losses that are
    not finite.
    """
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
    return before, after, cost


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


Change: TypeAlias = dict[BlockRef, dict[str, Tensor]]
"""Weights of blocks by their names."""


@dataclass
class Progress:
    """Replaces blocks one by one, reading what ``folder`` holds and writing what it lacks."""

    transformer: nn.Module
    config: SandwichTrainingConfig
    calibration: Calibration
    inputs: RecordedInputs
    folder: Path
    store: ActivationStore
    states: BlockStates | None = None
    cost: PruningCost = field(default_factory=PruningCost)
    """Of all turns taken, wherever their files come from."""
    dense: BlockStates | None = None
    """Of a copy of the dense model, made when its outputs are the targets."""

    def __post_init__(self) -> None:
        self._dense = copy.deepcopy(self.transformer) if self.config.targets == "dense" else None

    def run(self, order: Sequence[BlockRef], turns: Iterable[int]) -> None:
        """Take the given turns of Algorithm 1's second loop."""
        for turn in turns:
            center = order[turn]
            path = self.folder / f"{turn:03d}-{center}.safetensors"
            if (kept := kept_sealed(path)) is not None:
                replace_block_(self.transformer, Replacement(center, self.config.replacement))
                load_change_(self.transformer, _by_block(kept[0]), path)
                self.states = None  # the model has changed under them
            else:
                if self.states is None:
                    self.states = self.calibration.block_states(self.transformer, self.inputs, self.store)
                    chain, layers = self.states.blocks, self.config.layers
                    spans = (sandwich_around(order[at], order[:at], chain, layers=layers) for at in range(turn))
                    self.states.restore(span.blocks[0] for span in spans)
                self._replace(center, order[:turn], self.states, path)
            self.cost += read_cost(path)
            self.calibration.advance(turn + 1, len(order))

    def _replace(self, center: BlockRef, replaced: Sequence[BlockRef], states: BlockStates, path: Path) -> None:
        """Fit, replace and train one block on what the model as it stands computes."""
        began, ran = monotonic(), states.block_forwards
        memory = PeakMemory(next(self.transformer.parameters()).device)
        self.store.restart()
        config, transformer = self.config, self.transformer
        sandwich = sandwich_around(center, replaced, states.blocks, layers=config.layers)
        statistics: dict[str, LinearStatistics] = {}

        def observe(block: BlockRef, before: Streams, after: Streams) -> None:
            if block == center:
                observe_residual(block, statistics, before, after)

        before = states.before(sandwich.blocks[0])
        targets = states.through(before, sandwich.blocks, observe)
        if self._dense is not None:
            if self.dense is None:
                self.dense = self.calibration.block_states(self._dense, self.inputs, self.store)
            targets = self.dense.through(self.dense.before(sandwich.blocks[-1]), sandwich.blocks[-1:])
        new = replace_block_(transformer, Replacement(center, config.replacement))
        if isinstance(new, LinearReplacementBlock):
            copy_fit_(new, fit_block(transformer, center, statistics, ridge=config.ridge))
        seed = config.seed * 1000 + len(replaced)
        with resident([get_block(transformer, block) for block in sandwich.blocks]):
            loss, later, cost = train_sandwich_(transformer, sandwich, states, before, targets, config, seed=seed)
        states.invalidate(sandwich.blocks[0])
        spent = PruningCost(
            block_forwards=states.block_forwards - ran,
            seconds=monotonic() - began,
            activation_bytes=self.inputs.nbytes + self.store.peak_bytes,
            peak_memory_bytes=memory.read(),
        )
        figures = {"loss_before": loss, "loss_after": later, **asdict(cost + spent)}
        save_change(transformer, sandwich.blocks, path, figures)


def progress_key(
    transformer: nn.Module,
    config: SandwichTrainingConfig,
    calibration: Calibration,
    ranked: Sequence[BlockRef],
    inputs: RecordedInputs,
) -> str:
    """16 hex digits of all that decides the changes but the amount; what the pipeline computed is in the inputs."""
    amounts = ("ratio", "blocks", "reuse_from", "ranking")
    settings = {name: value for name, value in settings_of(config).items() if name not in amounts}
    order = [str(block) for block in ranked]
    at_once = calibration.at_once(transformer, inputs)
    device = next(transformer.parameters()).device.type
    recorded = (dict(inputs.rows), dict(inputs.shared))
    return fingerprint(settings, config.version, order, *recorded, transformer, at_once, device, VERSIONS)


def save_change(transformer: nn.Module, blocks: Iterable[BlockRef], path: Path, figures: dict[str, float]) -> None:
    """Write the weights of some blocks to a safetensors file, which appears complete or not at all."""
    tensors = {
        f"{block}/{name}": value.detach().cpu().contiguous()
        for block in blocks
        for name, value in get_block(transformer, block).state_dict().items()
    }
    metadata = {name: repr(value) for name, value in figures.items()}
    save_sealed(tensors, path, remedy="free some space, then run the same again", metadata=metadata)


def read_cost(path: Path) -> PruningCost:
    """What the change in a file took; raises ``FastFluxError`` naming a file that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            noted = file.metadata()
        return PruningCost.parse(noted)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FastFluxError(f"Cannot read {path} ({error}): delete it and run the same again.") from error


def read_change(path: Path) -> Change:
    """What `save_change` wrote, by block; raises ``FastFluxError`` naming a file that cannot be read."""
    return _by_block(load_sealed(path, remedy="delete it and run the same again")[0])


def _by_block(tensors: dict[str, Tensor]) -> Change:
    states: Change = {}
    for key, value in tensors.items():
        block, _, name = key.partition("/")
        states.setdefault(BlockRef.parse(block), {})[name] = value
    return states


def load_change_(transformer: nn.Module, change: Change, path: Path) -> None:
    """Fill blocks with what `read_change` gave; raises ``FastFluxError`` naming its file when that does not fit."""
    with torch.no_grad():
        for block, state in change.items():
            try:
                get_block(transformer, block).load_state_dict(state)
            except RuntimeError as error:
                raise FastFluxError(f"{path} holds another model's block {block}: delete it and run again.") from error


@register_pruning_method(SandwichTrainingConfig)
def replace_and_train_(transformer: nn.Module, config: SandwichTrainingConfig, calibration: Calibration) -> Pruned:
    """Replace and repair block after block; files of earlier runs in the calibration's folder are read, not redone."""
    config.require_fits(transformer)
    count = amount(transformer, config.ratio, config.blocks)
    further = count if config.reuse_from is None else amount(transformer, config.reuse_from, None)
    inputs = calibration.inputs(transformer, config.samples, config.seed)
    ranked = _ranked(transformer, config, calibration, inputs)
    order = ranked[:further]
    with TemporaryDirectory() as temporary, calibration.store() as store:
        folder = (calibration.folder or Path(temporary)) / progress_key(
            transformer, config, calibration, ranked, inputs
        )
        folder.mkdir(parents=True, exist_ok=True)
        progress = Progress(transformer, config, calibration, inputs, folder, store)
        progress.run(order, range(count))
        # Blocks that only the higher ratio replaces, as they are at this one.
        spared = {block: copy.deepcopy(get_block(transformer, block)) for block in order[count:]}
        progress.run(order, range(count, further))
    for block, module in spared.items():
        stack = cast("nn.ModuleList", transformer.get_submodule(block.stack))
        stack[block.index] = module
    return Pruned(tuple(Replacement(block, config.replacement) for block in order[:count]), cost=progress.cost)


def _ranked(
    transformer: nn.Module, config: SandwichTrainingConfig, calibration: Calibration, inputs: RecordedInputs
) -> tuple[BlockRef, ...]:
    """All blocks, least important first; statistics and fits, 14 GB of FLUX.1-dev's, are let go of."""
    fits = None
    if config.ranking in MEASURED_RANKINGS:
        statistics = calibration.collected or collect_recorded(
            transformer, inputs, calibration.at_once(transformer, inputs)
        )
        fits = fit_blocks(transformer, statistics, ridge=config.ridge)
    return rank_blocks(config.ranking, transformer, fits, seed=config.seed)
