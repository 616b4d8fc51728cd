"""Which blocks and halves to replace: what each replacement does to the output and saves, and the choice."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastflux.calibration.activations import KeptStreams
from fastflux.calibration.block_runs import leave, on_device
from fastflux.calibration.importance import fit_block
from fastflux.calibration.recording import BlockStates
from fastflux.calibration.sublayers import BlockStatistics
from fastflux.calibration.trajectories import Trajectories
from fastflux.errors import FastFluxError
from fastflux.methods.linear_replacement import copy_fit_
from fastflux.models.architecture import architecture_of
from fastflux.models.blocks import LinearReplacementBlock
from fastflux.models.sublayers import HALVES_OF, add_fits_
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
    the ``states`` of the dense model. One step tells little of what early blocks do for the prompt: on FLUX-Shapes the
    attention of double blocks 5 to 8 costs up to 70 times as much at the end as in a step.
    """

    def __init__(
        self, states: BlockStates, *, timed: bool, ridge: float, trajectories: Trajectories | None = None
    ) -> None:
        self.states, self.ridge, self.trajectories = states, ridge, trajectories
        self._cost = _seconds if timed else _flops
        self._costs: dict[tuple[str, str], float] = {}
        model = states.transformer
        arguments = on_device(next(states.inputs.batches(states.batch_size)), model)
        self._whole = self._cost(lambda: model(**arguments))
        self._before = states.before(states.blocks[0])
        self.trajectory_forwards = 0
        self._expected = self._outcome(states.blocks)

    def options(self, block: BlockRef, kinds: Sequence[str], statistics: BlockStatistics) -> list[Option]:
        """All ``kinds`` of the next block, filled by least squares; what follows starts behind it."""
        states, found = self.states, []
        rest = states.blocks[states.blocks.index(block) :]
        dense = self._cost_of(block, "")
        for kind in kinds:
            replacement = Replacement(block, kind)
            with _tried(states.transformer, replacement):
                fill_(states.transformer, replacement, statistics, self.ridge)
                saved = (dense - self._cost_of(block, kind)) / self._whole
                error = self._outcome(rest) - self._expected
            found.append(Option(replacement, saved, float(error.square().mean() / self._expected.var())))
        return found

    def leave(self, block: BlockRef) -> None:
        """Go on behind a block."""
        self._before = self.states.through(self._before, [block])

    def _outcome(self, rest: Sequence[BlockRef]) -> Tensor:
        """What the model as it stands makes of the samples; ``rest`` are its blocks from the one that is tried on."""
        if self.trajectories is None:
            return self._output(self.states.through(self._before, rest))
        self.trajectory_forwards += len(self.trajectories.data) * self.trajectories.steps
        return self.trajectories.ends()

    def _output(self, streams: KeptStreams) -> Tensor:
        """What the model gives for streams behind its last block."""
        batches = self.states.inputs.batches(self.states.batch_size)
        return torch.cat(
            [
                leave(self.states.transformer, arguments, behind).float().cpu()
                for arguments, behind in zip(batches, streams, strict=True)
            ]
        )

    def _cost_of(self, block: BlockRef, kind: str) -> float:
        """Of a block as it stands, whose kind this is; the blocks of a stack are alike."""
        key = (block.stack, kind)
        if key not in self._costs:
            model, arguments = self.states.transformer, self.states.arguments(0)[block]
            streams = on_device({"streams": self._before[0]}, model)["streams"]
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
def _tried(transformer: nn.Module, replacement: Replacement) -> Iterator[None]:
    """The transformer with a copy in a block's place, to be replaced; the block itself is put back at the end."""
    block = replacement.block
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
