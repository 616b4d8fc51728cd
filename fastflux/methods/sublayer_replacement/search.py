"""Which blocks and halves to replace: what each replacement does to the output and saves, and the choice."""

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastflux.calibration.activations import KeptStreams, kept_sealed, save_sealed
from fastflux.calibration.block_runs import leave, on_device
from fastflux.calibration.importance import fit_block
from fastflux.calibration.recording import BlockStates
from fastflux.calibration.sublayers import BlockStatistics, run_and_fit
from fastflux.calibration.trajectories import Trajectories
from fastflux.errors import FastFluxError
from fastflux.methods.linear_replacement import copy_fit_
from fastflux.models.architecture import architecture_of
from fastflux.models.sublayers import HALVES_OF, LinearReplacementBlock, add_fits_
from fastflux.models.surgery import get_block, replace_block_
from fastflux.plan import BlockRef, Replacement

UNITS = 4096
"""In which the knapsack counts savings, rounded down, so that the budget is kept."""
TIMINGS = 9


@dataclass(frozen=True)
class Option:
    """A replacement, the share of a dense step that it saves, and the relative error that it makes alone."""

    replacement: Replacement
    saved: float
    error: float


class Scoring:
    """Scores the replacements of block after block, in the order of the data flow.

    Their error is that of the latents which the ``trajectories`` end with, or, without any, of one step's output, on
    the ``states`` of the dense model; the samples of ``fitting`` fit them. One step tells little of what early blocks
    do for the prompt: on FLUX-Shapes the attention of double blocks 5 to 8 costs up to 70 times as much at the end as
    in a step. Each block's scores are kept in the ``folder``, if there is one, and not made again where they are there.
    ``seconds`` are those that the making of the ones taken from there took.
    """

    def __init__(
        self,
        states: BlockStates,
        fitting: BlockStates,
        kinds: Sequence[str],
        *,
        ridge: float,
        trajectories: Trajectories | None = None,
        folder: Path | None = None,
    ) -> None:
        self.states, self.fitting, self.kinds, self.ridge = states, fitting, kinds, ridge
        self.trajectories, self.folder = trajectories, folder
        self.seconds = 0.0
        self._at = 0
        self._before, self._fitting = (each.before(each.blocks[0]) for each in (states, fitting))

    def errors(self, block: BlockRef) -> dict[str, float]:
        """By kind, of a block behind those that were asked for before."""
        began = monotonic()
        path = None if self.folder is None else self.folder / f"{block}.safetensors"
        if path is not None and (kept := kept_sealed(path)) is not None:
            tensors, noted = kept
            self.seconds += float(noted["seconds"])
            return {kind: float(tensors[kind]) for kind in self.kinds}
        found = self._made(block)
        if path is not None:
            tensors = {kind: torch.tensor(error, dtype=torch.float64) for kind, error in found.items()}
            noted = {"seconds": repr(monotonic() - began)}
            save_sealed(tensors, path, remedy="free some space, then run the same again", metadata=noted)
        return found

    def forwards(self, blocks: Sequence[BlockRef], kept: Collection[BlockRef]) -> int:
        """Samples times blocks that it takes to score all ``blocks`` but those that are ``kept``, in one go."""
        scored = sum(len(self.kinds) * self._forwards_from(block) for block in blocks if block not in kept)
        passed = len(blocks) * (len(self.states.inputs) + len(self.fitting.inputs))
        return self._forwards_from(self.states.blocks[0]) + scored + passed

    def _made(self, block: BlockRef) -> dict[str, float]:
        """The errors of all kinds, filled by least squares; what follows starts behind the block."""
        model, at = self.states.transformer, self.states.blocks.index(block)
        if passed := self.states.blocks[self._at : at]:
            self._before = self.states.through(self._before, passed)
            self._fitting = self.fitting.through(self._fitting, passed)
        statistics, [self._fitting] = run_and_fit(self.fitting, block, [self._fitting])
        expected, found = self._expected, {}
        for kind in self.kinds:
            with _tried(model, block):
                fill_(model, Replacement(block, kind), statistics, self.ridge)
                error = self._outcome(self._before, self.states.blocks[at:]) - expected
            found[kind] = float(error.square().mean() / expected.var())
        self._before, self._at = self.states.through(self._before, [block]), at + 1
        return found

    @cached_property
    def _expected(self) -> Tensor:
        """What the dense model makes of the samples."""
        return self._outcome(self.states.before(self.states.blocks[0]), self.states.blocks)

    def _outcome(self, before: KeptStreams, rest: Sequence[BlockRef]) -> Tensor:
        """What the model as it stands makes of the samples; ``rest`` are its blocks from the one that is tried on."""
        if self.trajectories is None:
            return self._output(self.states.through(before, rest))
        return self.trajectories.ends()

    def _forwards_from(self, block: BlockRef) -> int:
        """Samples times blocks of an outcome with this block tried."""
        blocks = self.states.blocks
        if self.trajectories is None:
            return len(self.states.inputs) * len(blocks[blocks.index(block) :])
        return len(self.trajectories.data) * self.trajectories.steps * len(blocks)

    def _output(self, streams: KeptStreams) -> Tensor:
        """What the model gives for streams behind its last block."""
        batches = self.states.inputs.batches(self.states.batch_size)
        return torch.cat(
            [
                leave(self.states.transformer, arguments, behind).float().cpu()
                for arguments, behind in zip(batches, streams, strict=True)
            ]
        )


class Savings:
    """Shares of a dense step's FLOPs, or of its measured time, that replacements save; a stack's blocks are alike."""

    def __init__(self, states: BlockStates, *, timed: bool) -> None:
        self._states, self._cost = states, _seconds if timed else _flops
        self._costs: dict[tuple[str, str], float] = {}
        model = states.transformer
        arguments = on_device(next(states.inputs.batches(states.batch_size)), model)
        self._whole = self._cost(lambda: model(**arguments))

    def of(self, replacement: Replacement) -> float:
        """The share that this one saves."""
        return (self._cost_of(replacement.block, "") - self._cost_of(replacement.block, replacement.kind)) / self._whole

    def _cost_of(self, block: BlockRef, kind: str) -> float:
        """Of a block with this kind in its place, "" for itself, on the streams that enter the model's first."""
        key = (block.stack, kind)
        if key not in self._costs:
            model, arguments = self._states.transformer, self._states.arguments(0)[block]
            streams = on_device({"streams": self._states.before(self._states.blocks[0])[0]}, model)["streams"]
            with _tried(model, block):
                if kind:
                    replace_block_(model, Replacement(block, kind))
                contract, module = architecture_of(model).stack(block), get_block(model, block)
                self._costs[key] = self._cost(lambda: contract.run(module, streams, arguments))
        return self._costs[key]


def fill_(transformer: nn.Module, replacement: Replacement, statistics: BlockStatistics, ridge: float) -> None:
    """Put the replacement in the block's place, its layers fitted by least squares."""
    new = replace_block_(transformer, replacement)
    if isinstance(new, LinearReplacementBlock):
        copy_fit_(new, fit_block(transformer, replacement.block, statistics.whole, ridge=ridge))
    elif replacement.kind in HALVES_OF:
        add_fits_(new, replacement.kind, statistics.layers(ridge))


def choose(options: Sequence[Option], saving: float) -> list[Replacement]:
    """At most one option for each block: the least sum of errors that saves at least ``saving`` of a dense step.

    Raises ``FastFluxError`` where all together save less.
    """
    by_block: dict[BlockRef, list[Option]] = {}
    for option in options:
        by_block.setdefault(option.replacement.block, []).append(option)
    if not saving:
        return []
    most = sum(max(option.saved for option in ways) for ways in by_block.values())
    if most < saving:
        raise FastFluxError(
            f"{saving:.1%} of the dense step is to be saved, but all replacements together save {most:.1%}: "
            "ask for less, or allow more kinds."
        )
    best: dict[int, tuple[float, tuple[Replacement, ...]]] = {0: (0.0, ())}  # by units saved
    for ways in by_block.values():
        for units, (error, taken) in list(best.items()):
            for way in ways:
                reached = min(UNITS, units + int(way.saved / saving * UNITS))
                if reached not in best or error + way.error < best[reached][0]:
                    best[reached] = (error + way.error, (*taken, way.replacement))
        least = float("inf")
        for units in sorted(best, reverse=True):  # who saves no more than another must err less
            if best[units][0] >= least:
                del best[units]
            else:
                least = best[units][0]
    return list(best[max(best)][1])


@contextmanager
def _tried(transformer: nn.Module, block: BlockRef) -> Iterator[None]:
    """The transformer with a copy in a block's place, to be replaced; the block itself is put back at the end."""
    stack = cast("nn.ModuleList", transformer.get_submodule(block.stack))
    dense = stack[block.index]
    stack[block.index] = copy.deepcopy(dense)
    try:
        yield
    finally:
        stack[block.index] = dense


@torch.no_grad()
def _flops(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


@torch.no_grad()
def _seconds(run: Callable[[], object]) -> float:
    """The median of some runs, after one that does not count."""
    times = []
    for _ in range(TIMINGS + 1):
        began = perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(perf_counter() - began)
    return median(times[1:])
