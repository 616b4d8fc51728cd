"""Sublayer replacement: score every kind in every block, choose by budget, fit to the dense model, distil."""

from dataclasses import dataclass, replace
from time import monotonic
from typing import ClassVar

import torch
from torch import nn

from fastflux.calibration.activations import ActivationStore
from fastflux.calibration.fingerprints import VERSIONS, fingerprint, key_of_run
from fastflux.calibration.least_squares import DEFAULT_RIDGE
from fastflux.calibration.recording import BlockStates, RecordedInputs
from fastflux.calibration.statistics import Calibration
from fastflux.calibration.sublayers import run_and_fit
from fastflux.cost import PeakMemory, PruningCost
from fastflux.errors import FastFluxError, unknown_name
from fastflux.methods.finetuning import FinetuningSettings, finetune_, outputs_of, require_rank
from fastflux.methods.registry import Pruned, register_pruning_method, require_targets, version_of
from fastflux.methods.sublayer_replacement.search import Option, Savings, Scoring, choose, fill_
from fastflux.models.architecture import architecture_of
from fastflux.models.sublayers import replaced_layers
from fastflux.models.surgery import get_block, require_halves
from fastflux.plan import REPLACEMENT_KINDS, BlockRef, Replacement, require_fraction, require_ridge


@dataclass(frozen=True)
class SublayerReplacementConfig:
    """Replace attentions, MLPs and whole blocks by linear layers, those whose replacement changes the picture least.

    Either ``flops`` or ``latency`` is what may be left of a dense step's FLOPs or measured time, at the calibration's
    size. ``kinds`` lists what may stand in a block's place (`fastflux.plan.Replacement`), ``keep`` blocks that stay
    whatever they cost, as "transformer_blocks.4-18,single_transformer_blocks.0". At most ``fitted`` of the
    ``samples`` (0: all) fit its layers. What each kind in each block does alone is the error of the latents that
    sampling ``trajectories`` of the prompts ends with, or for 0 that of one step's output for ``scored`` samples; a
    knapsack takes the least sum. The layers are then fitted one behind the other to what the ``targets`` give: the
    "dense" model's blocks, or the "current" model's own. ``steps`` of distillation from the dense model on all samples
    follow, 0 for none: in full for the linear layers at ``linear_lr``, by LoRA of ``rank`` at ``lr`` for the rest. It
    learns few prompts by heart: give it many. ``ridge`` as in `LinearReplacementConfig`.

    Raises:
        FastFluxError: A value that cannot be meant.
    """

    method: ClassVar[str] = "sublayer_replacement"

    flops: float | None = None
    latency: float | None = None
    kinds: str = "linear,linear_attention,linear_mlp,linear_halves"
    keep: str = ""
    targets: str = "dense"
    trajectories: int = 8
    scored: int = 64
    fitted: int = 0
    samples: int = 512
    ridge: float = DEFAULT_RIDGE
    seed: int = 0
    rank: int = 16
    steps: int = 200
    batch: int = 8
    lr: float = 1e-3
    linear_lr: float = 1e-4

    def __post_init__(self) -> None:
        if (self.flops is None) == (self.latency is None):
            raise FastFluxError(f"{self.method} takes either flops or latency: give exactly one of the two.")
        require_fraction("The share of the dense step's cost to leave", self.left)
        for kind in self.allowed:
            if kind not in REPLACEMENT_KINDS:
                raise unknown_name("replacement kind", kind, REPLACEMENT_KINDS)
        for name, value in (("fitted", self.fitted), ("trajectories", self.trajectories)):
            if value < 0:
                raise FastFluxError(f"{name} is {value}, but it must be at least 0.")
        if not 1 <= self.scored <= self.fit_samples:
            raise FastFluxError(
                f"{self.scored} samples are to be scored, but it must be between 1 and {self.fit_samples}."
            )
        _ = self.kept
        require_targets(self.targets)
        require_ridge(self.ridge)
        _ = self.settings, FinetuningSettings(lr=self.lr)  # which check themselves

    @property
    def left(self) -> float:
        """The share of the dense step's cost that may be left."""
        return self.latency if self.flops is None else self.flops  # type: ignore[return-value]  # one of them is given

    @property
    def fit_samples(self) -> int:
        """How many of the samples fit the layers."""
        return min(self.fitted or self.samples, self.samples)

    @property
    def allowed(self) -> tuple[str, ...]:
        """What may stand in a block's place."""
        return tuple(kind.strip() for kind in self.kinds.split(","))

    @property
    def kept(self) -> frozenset[BlockRef]:
        """The blocks that stay."""
        found: set[BlockRef] = set()
        for text in filter(None, map(str.strip, self.keep.split(","))):
            first, _, last = text.partition("-")
            block = BlockRef.parse(first)
            if last and not last.isdecimal():
                raise FastFluxError(f"{text} in keep is no block: expected <stack>.<index> or <stack>.<first>-<last>.")
            found |= {replace(block, index=index) for index in range(block.index, int(last or block.index) + 1)}
        return frozenset(found)

    @property
    def settings(self) -> FinetuningSettings:
        """How the pruned model is distilled; ``lr`` is that of the linear layers."""
        return FinetuningSettings(self.steps, self.batch, self.linear_lr)

    @property
    def needs_statistics(self) -> bool:
        """It always runs the model."""
        return True

    def require_fits(self, transformer: nn.Module) -> None:
        """Raise ``FastFluxError`` for a family without such halves, or a LoRA rank that there is no room for."""
        require_halves(transformer)
        require_rank(self.rank, transformer)
        for block in sorted(self.kept):
            get_block(transformer, block)


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
