"""A fixed step of plain torch, timed beside the models: how fast the machine is at the moment.

No code of fastflux or diffusers runs in it, so that a change of the two cannot change it. What it slows down by, the
machine slowed down by.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

VERSION = "1"
_HEADS = 4


@dataclass
class Yardstick:
    """`layers` of attention and MLP over (batch, tokens, dim), the work of a transformer step of that size."""

    batch: int
    tokens: int
    dim: int
    layers: int
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    _states: Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def weight(rows: int, columns: int) -> Tensor:
            values: Tensor = torch.randn(rows, columns, generator=generator) / columns**0.5
            return values.to(self.device, self.dtype)

        self._states = weight(self.batch * self.tokens, self.dim).view(self.batch, self.tokens, self.dim)
        self._mixing = weight(3 * self.dim, self.dim), weight(self.dim, self.dim)
        self._mlp = weight(4 * self.dim, self.dim), weight(self.dim, 4 * self.dim)

    def __call__(self) -> Tensor:
        """Run it; (batch, tokens, dim)."""
        states = self._states
        with torch.inference_mode():
            for _ in range(self.layers):
                normed = F.layer_norm(states, (self.dim,))
                shape = (self.batch, self.tokens, 3, _HEADS, self.dim // _HEADS)
                query, key, value = F.linear(normed, self._mixing[0]).view(shape).permute(2, 0, 3, 1, 4)
                mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
                states = states + F.linear(mixed, self._mixing[1])
                hidden = F.gelu(F.linear(F.layer_norm(states, (self.dim,)), self._mlp[0]))
                states = states + F.linear(hidden, self._mlp[1])
        return states
