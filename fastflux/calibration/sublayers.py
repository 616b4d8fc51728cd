"""Least-squares layers for the halves of a block: attention and MLP, between the block's norms and its gates."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock
from torch import Tensor, nn

from fastflux.calibration.least_squares import LinearStatistics
from fastflux.models.architecture import STREAMS
from fastflux.models.sublayers import HALVES

_BOTH = "both"


class SublayerObserver:
    """Streams statistics of what goes into a dense block's halves, normed, and of what they give before the gate."""

    def __init__(self, block: Any) -> None:
        self.statistics: dict[str, LinearStatistics] = {}
        self._normed: list[Tensor] = []
        if isinstance(block, FluxSingleTransformerBlock):
            self._handles = [
                block.attn.register_forward_pre_hook(self._enter, with_kwargs=True),
                block.proj_out.register_forward_hook(self._single(block)),
            ]
        else:
            self._handles = [
                block.attn.register_forward_hook(self._attention, with_kwargs=True),
                *(
                    part.register_forward_hook(self._mlp(f"mlp.{stream}"))
                    for part, stream in zip((block.ff, block.ff_context), STREAMS, strict=True)
                ),
            ]

    def close(self) -> None:
        """Observe no more."""
        for handle in self._handles:
            handle.remove()

    def fits(self, ridge: float) -> dict[str, tuple[Tensor, Tensor]]:
        """Least-squares layers: (weight, bias) of each half and stream; a single block's two halves have one stream."""
        found = {}
        for name, moments in self.statistics.items():
            fit = moments.solve(ridge)
            if name != _BOTH:
                found[name] = (fit.weight, fit.bias)
                continue
            for half, weight, bias in zip(HALVES, fit.weight.chunk(2), fit.bias.chunk(2), strict=True):
                found[f"{half}.{STREAMS[0]}"] = (weight, bias)
        return found

    def _add(self, name: str, x: Tensor, y: Tensor) -> None:
        if name not in self.statistics:
            self.statistics[name] = LinearStatistics.empty(x.shape[-1], y.shape[-1], device=x.device)
        self.statistics[name].update(x.detach(), y.detach())

    def _enter(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Tensor]) -> None:
        self._normed = [kwargs["hidden_states"]]

    def _single(self, block: Any) -> Callable[..., None]:
        def hook(module: nn.Linear, args: tuple[Tensor], _output: Tensor) -> None:
            at = -block.mlp_hidden_dim
            [packed], weight = args, module.weight
            parts = packed[..., :at] @ weight[:, :at].T, packed[..., at:] @ weight[:, at:].T
            self._add(_BOTH, self._normed.pop(), torch.cat(parts, dim=-1))

        return hook

    def _attention(
        self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Tensor], output: tuple[Tensor, ...]
    ) -> None:
        for stream, given in zip(STREAMS, output, strict=False):
            self._add(f"attention.{stream}", kwargs[stream], given)

    def _mlp(self, name: str) -> Callable[..., None]:
        return lambda _module, args, output: self._add(name, args[0], output)
