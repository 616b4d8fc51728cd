"""Sublayer replacement: score every kind in every block, choose by budget, fit to the dense model, distil."""

from time import monotonic

import torch
from torch import nn

from fastflux.calibration.activations import ActivationStore
from fastflux.calibration.fingerprints import VERSIONS, fingerprint, key_of_run
from fastflux.calibration.recording import BlockStates, RecordedInputs
from fastflux.calibration.statistics import Calibration
from fastflux.calibration.sublayers import run_and_fit
from fastflux.cost import PeakMemory, PruningCost
from fastflux.methods.finetuning import finetune_, outputs_of
from fastflux.methods.registry import Pruned, register_pruning_method, version_of
from fastflux.methods.sublayer_replacement.config import SublayerReplacementConfig
from fastflux.methods.sublayer_replacement.search import Option, Savings, Scoring, choose, fill_
from fastflux.models.architecture import architecture_of
from fastflux.models.sublayers import replaced_layers
from fastflux.models.surgery import get_block
from fastflux.plan import Replacement


@register_pruning_method(SublayerReplacementConfig)
def replace_chosen_(transformer: nn.Module, config: SublayerReplacementConfig, calibration: Calibration) -> Pruned:
    """Replace the attentions, MLPs and blocks whose replacement changes what is drawn least, and distil the rest."""
    config.require_fits(transformer)
    inputs = calibration.inputs(transformer, config.samples, config.seed)
    began, memory = monotonic(), PeakMemory(next(transformer.parameters()).device)
    at_once = calibration.at_once(transformer, inputs)
    chain = architecture_of(transformer).chain(transformer)
    targets = outputs_of(transformer, inputs, at_once)
    with calibration.store() as store:
        states = BlockStates(transformer, _spread(inputs, config.fit_samples), at_once, keep=0, store=store)
        options, cost = _scored(transformer, config, calibration, states, store)
        chosen = choose(options, 1 - config.left)
        states.block_forwards = 0
        _fit_(transformer, config, states, chosen)
        cost += PruningCost(
            block_forwards=states.block_forwards + len(inputs) * len(chain),
            activation_bytes=inputs.nbytes + targets.nbytes + store.peak_bytes,
        )
    layers = [layer for item in chosen for layer in replaced_layers(get_block(transformer, item.block))]
    cost += finetune_(
        transformer,
        inputs,
        targets,
        config.settings,
        seed=config.seed,
        rank=config.rank,
        replaced=layers,
        lora_lr=config.lr,
        folder=calibration.folder,
    )
    cost += PruningCost(seconds=monotonic() - began, peak_memory_bytes=memory.read())
    return Pruned(tuple(chosen), cost=cost)


def _scored(
    transformer: nn.Module,
    config: SublayerReplacementConfig,
    calibration: Calibration,
    states: BlockStates,
    store: ActivationStore,
) -> tuple[list[Option], PruningCost]:
    """All options of all blocks, fitted and scored; the block forwards of that, and the seconds of earlier runs'."""
    some = BlockStates(transformer, _spread(states.inputs, config.scored), states.batch_size, keep=0, store=store)
    run = calibration.trajectories(config.trajectories) if config.trajectories else None
    folder = None
    if calibration.folder is not None:
        key = fingerprint(
            *(config.allowed, config.ridge, version_of(config), states.batch_size, VERSIONS),
            *(transformer, next(transformer.parameters()).device.type, dict(states.inputs.rows)),
            *(dict(states.inputs.shared), dict(some.inputs.rows) if run is None else key_of_run(transformer, run)),
        )
        folder = calibration.folder / key
    scoring = Scoring(some, states, config.allowed, ridge=config.ridge, trajectories=run, folder=folder)
    savings = Savings(some, timed=config.latency is not None)
    options: list[Option] = []
    kept, blocks = config.kept, architecture_of(transformer).blocks(transformer)
    for number, block in enumerate(blocks):
        for kind, error in (scoring.errors(block) if block not in kept else {}).items():
            replacement = Replacement(block, kind)
            options.append(Option(replacement, savings.of(replacement), error))
        calibration.advance(number + 1, len(blocks))
    return options, PruningCost(block_forwards=scoring.forwards(blocks, kept), seconds=scoring.seconds)


def _spread(inputs: RecordedInputs, count: int) -> RecordedInputs:
    """So many of the samples, from all over the calibration: all time steps are among them."""
    some = torch.arange(count) * len(inputs) // count
    return inputs.of(some)


def _fit_(
    transformer: nn.Module, config: SublayerReplacementConfig, states: BlockStates, chosen: list[Replacement]
) -> None:
    """Replace what is chosen in the order of the data flow, each fitted to what the pruned model gives it."""
    kinds = {item.block: item for item in chosen}
    dense = current = states.before(states.blocks[0])
    for block in states.blocks[: 1 + max(map(states.blocks.index, kinds), default=-1)]:
        statistics, [dense, behind] = run_and_fit(
            states, block, [dense, current], outputs_of=0 if config.targets == "dense" else 1
        )
        if block in kinds:
            fill_(transformer, kinds[block], statistics, config.ridge)
            behind = states.through(current, [block])
        current = behind
