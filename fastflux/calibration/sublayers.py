"""Least-squares layers for a block and for its halves: attention and MLP, between the block's norms and its gates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock
from diffusers.models.transformers.transformer_flux2 import Flux2SingleTransformerBlock
from torch import Tensor, nn

from fastflux.calibration.activations import KeptStreams
from fastflux.calibration.block_runs import run_blocks
from fastflux.calibration.least_squares import LinearStatistics
from fastflux.calibration.recording import BlockStates, on_host
from fastflux.calibration.statistics import observe_residual
from fastflux.models.architecture import STREAMS, Streams
from fastflux.models.sublayers import HALVES, mlps_of
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef

_BOTH = "both"
_Seen = Mapping[str, tuple[Tensor, Tensor]]


@dataclass
class BlockStatistics:
    """Of one block: inputs and residuals by stream, and of its halves what goes in, normed, and comes out, not gated.

    A single block's halves share their input, and so one entry for both.
    """

    whole: dict[str, LinearStatistics] = field(default_factory=dict)
    halves: dict[str, LinearStatistics] = field(default_factory=dict)
    _layers: dict[float, dict[str, tuple[Tensor, Tensor]]] = field(default_factory=dict, init=False, repr=False)

    def add(self, inputs: _Seen, outputs: _Seen) -> None:
        """Add samples of the halves: what went into them in one run, and what came out in the same or another."""
        self._layers.clear()
        for name, (x, _) in inputs.items():
            y = outputs[name][1]
            if name not in self.halves:
                self.halves[name] = LinearStatistics.empty(x.shape[-1], y.shape[-1], device=x.device)
            self.halves[name].update(x, y)

    def layers(self, ridge: float) -> dict[str, tuple[Tensor, Tensor]]:
        """Weight and bias by half and stream, as `fastflux.models.sublayers.add_fits_` takes them; solved once."""
        if ridge not in self._layers:
            self._layers[ridge] = self._solved(ridge)
        return self._layers[ridge]

    def _solved(self, ridge: float) -> dict[str, tuple[Tensor, Tensor]]:
        fits = {name: moments.solve(ridge) for name, moments in self.halves.items()}
        if _BOTH not in fits:
            return {name: (fit.weight, fit.bias) for name, fit in fits.items()}
        parts = zip(HALVES, fits[_BOTH].weight.chunk(2), fits[_BOTH].bias.chunk(2), strict=True)
        return {f"{half}.{STREAMS[0]}": (weight, bias) for half, weight, bias in parts}


def run_and_fit(
    states: BlockStates, block: BlockRef, runs: Sequence[KeptStreams], *, outputs_of: int = 0
) -> tuple[BlockStatistics, list[KeptStreams]]:
    """Run a block on the streams of one or more models, and relate the last one's inputs to another's outputs.

    Args:
        states: Of the model that has the block.
        block: A dense one.
        runs: Streams before it, batched alike: of the dense model, of a pruned one.
        outputs_of: Whose outputs the layers are to give, a place in ``runs``.

    Returns:
        The statistics, and every run's streams behind the block.
    """
    found, observer = BlockStatistics(), SublayerObserver(get_block(states.transformer, block))
    behind = [states.store.keep(()) for _ in runs]
    seen: list[tuple[Streams, _Seen]] = []

    def observe(_block: BlockRef, before: Streams, after: Streams) -> None:
        seen.append((after, observer.take()))
        if len(seen) == len(runs):
            after, outputs = seen[outputs_of]
            observe_residual(block, found.whole, before, after)
            found.add(seen[-1][1], outputs)
            seen.clear()

    batches = ((run[batch], states.arguments(batch)) for batch in range(len(runs[0])) for run in runs)
    try:
        for place, streams in enumerate(run_blocks(states.transformer, [block], batches, observe)):
            behind[place % len(runs)].append(on_host(streams))
    finally:
        observer.close()
    states.block_forwards += sum(run.samples for run in runs)
    return found, behind


class SublayerObserver:
    """Takes from a dense block's forward what goes into its halves, and what comes out."""

    def __init__(self, block: Any) -> None:
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}
        if isinstance(block, FluxSingleTransformerBlock | Flux2SingleTransformerBlock):
            flux1 = isinstance(block, FluxSingleTransformerBlock)
            layer, mlp = (block.proj_out, block) if flux1 else (block.attn.to_out, block.attn)
            self._handles = [
                block.attn.register_forward_pre_hook(self._enter, with_kwargs=True),
                layer.register_forward_hook(self._single(mlp.mlp_hidden_dim)),
            ]
        else:
            self._handles = [
                block.attn.register_forward_hook(self._attention, with_kwargs=True),
                *(
                    getattr(block, name).register_forward_hook(self._mlp(f"mlp.{stream}"))
                    for name, stream in zip(mlps_of(block), STREAMS, strict=True)
                ),
            ]

    def take(self) -> _Seen:
        """Inputs and outputs of the latest forward, by half and stream."""
        seen, self._seen = self._seen, {}
        return seen

    def close(self) -> None:
        """Observe no more."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Tensor]) -> None:
        self._seen[_BOTH] = (kwargs["hidden_states"], kwargs["hidden_states"])

    def _single(self, channels: int) -> Callable[..., None]:
        def hook(module: nn.Linear, args: tuple[Tensor], _output: Tensor) -> None:
            at = -channels
            [packed], weight = args, module.weight
            parts = packed[..., :at] @ weight[:, :at].T, packed[..., at:] @ weight[:, at:].T
            self._seen[_BOTH] = (self._seen[_BOTH][0], torch.cat(parts, dim=-1))

        return hook

    def _attention(
        self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Tensor], output: tuple[Tensor, ...]
    ) -> None:
        for stream, given in zip(STREAMS, output, strict=False):
            self._seen[f"attention.{stream}"] = (kwargs[stream], given)

    def _mlp(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            self._seen[name] = (args[0], output)

        return hook
