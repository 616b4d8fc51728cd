"""What stands in a pruned block's place, under the contracts of `fastflux.models.architecture.BlockStack`.

Arguments behind the streams have each family's own names; nothing here reads them.
"""

import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from torch import Tensor, nn

FLOAT16_MAX = 65504.0


class NoProcessor:
    """What a block without attention has for an attention processor."""


class WithoutAttention(nn.Module):
    """Keeps the block's place among the attention processors.

    Diffusers numbers IP-Adapter's weights and scales by that place: without it those of the later blocks would shift.
    """

    context_pre_only = False
    """SD3 adds ControlNet residuals behind blocks that say so: all that may be pruned give text."""

    def __init__(self) -> None:
        super().__init__()
        self._processor = NoProcessor()

    def get_processor(self) -> NoProcessor:
        """The stand-in; diffusers sets a scale on it, which nothing reads."""
        return self._processor

    def set_processor(self, processor: object) -> None:
        """Let the processor go, weights and all: there is no attention that it could serve."""


class LinearReplacementBlock(WithoutAttention):
    """A block whose residual branch is one linear layer: ``y = x + W x + b`` (paper section 3.1).

    With ``joint`` (FLUX's single blocks) the one layer serves text and image tokens, otherwise (double blocks) each
    stream has its own: ``linear`` for the image, ``linear_context`` for the text. Starts as the identity.
    """

    def __init__(
        self, dim: int, *, joint: bool, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.linear_context = None if joint else nn.Linear(dim, dim, device=device, dtype=dtype)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add the linear residual to both streams, each ``(batch, tokens, dim)``; text stands first in the result."""
        # Two products with one weight cost less than joining the streams and splitting them again.
        context = self.linear if self.linear_context is None else self.linear_context
        encoder_hidden_states = encoder_hidden_states + context(encoder_hidden_states)  # (batch, text tokens, dim)
        hidden_states = hidden_states + self.linear(hidden_states)  # (batch, image tokens, dim)
        if hidden_states.dtype == torch.float16:  # as diffusers' own blocks do
            encoder_hidden_states = encoder_hidden_states.clip(-FLOAT16_MAX, FLOAT16_MAX)
            hidden_states = hidden_states.clip(-FLOAT16_MAX, FLOAT16_MAX)
        return encoder_hidden_states, hidden_states


class RemovedBlock(WithoutAttention):
    """A block of which only the shortcut is left."""

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Return both streams as they came, text first."""
        return encoder_hidden_states, hidden_states


class JoinedLinearReplacementBlock(LinearReplacementBlock):
    """`LinearReplacementBlock` where text and image come as one tensor and leave as one."""

    def forward(self, hidden_states: Tensor, *_args: object, **_kwargs: object) -> Tensor:  # type: ignore[override]
        """Add the linear residual to all tokens, ``(batch, tokens, dim)``."""
        hidden_states = hidden_states + self.linear(hidden_states)
        return hidden_states.clip(-FLOAT16_MAX, FLOAT16_MAX) if hidden_states.dtype == torch.float16 else hidden_states


class JoinedRemovedBlock(RemovedBlock):
    """`RemovedBlock` where text and image come as one tensor and leave as one."""

    def forward(self, hidden_states: Tensor, *_args: object, **_kwargs: object) -> Tensor:  # type: ignore[override]
        """Return the tokens as they came."""
        return hidden_states


LINEAR_BLOCKS = {False: LinearReplacementBlock, True: JoinedLinearReplacementBlock}
REMOVED_BLOCKS = {False: RemovedBlock, True: JoinedRemovedBlock}
"""By whether the stack is joined."""

# Diffusers' caches (FirstBlockCache among them) look blocks up by their exact class.
for _classes in (LINEAR_BLOCKS, REMOVED_BLOCKS):
    for _joined, _block_class in _classes.items():
        _places = (0, None) if _joined else (1, 0)
        TransformerBlockRegistry.register(_block_class, TransformerBlockMetadata(*_places))
