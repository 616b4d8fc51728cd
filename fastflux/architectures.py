"""All that differs between transformer families: block stacks, what a block reads and writes, and example inputs.

A new family is one more `Architecture` in `ARCHITECTURES`; nothing else asks which family it is dealing with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastflux.errors import FastFluxError
from fastflux.plan import BlockRef

IMAGE_STREAM = "hidden_states"
TEXT_STREAM = "encoder_hidden_states"
STREAMS = (IMAGE_STREAM, TEXT_STREAM)

PAPER_BLOCKS = 57
PAPER_COUNTED_BLOCKS = 54
"""The paper's Table 6 drops 3, 5, 8, 11, 14 and 16 blocks at 5 to 30 %: that is round(ratio * 54), not * 57."""


@dataclass(frozen=True)
class BlockStack:
    """One ``ModuleList`` of like blocks.

    ``joint``: the block has one residual branch over text and image tokens together (FLUX's single blocks), so one
    linear layer serves both streams; otherwise (double blocks) each stream has a residual branch of its own.
    """

    name: str
    joint: bool


@dataclass(frozen=True)
class Architecture:
    """A transformer family.

    Every block maps ``(hidden_states, encoder_hidden_states, temb, ...)`` to ``(encoder_hidden_states,
    hidden_states)``: diffusers returns text first. ``stacks`` stand in the order of the data flow. The text output of
    the very last block is never read.
    """

    name: str
    transformer_class: str
    stacks: tuple[BlockStack, ...]
    make_inputs: Callable[..., dict[str, Tensor]]

    def blocks(self, transformer: nn.Module) -> tuple[BlockRef, ...]:
        """All blocks that may be pruned, in the order of the data flow."""
        return tuple(
            BlockRef(stack.name, index)
            for stack in self.stacks
            for index in range(len(transformer.get_submodule(stack.name)))  # type: ignore[arg-type]  # a ModuleList
        )

    def stack(self, block: BlockRef) -> BlockStack:
        """The stack that ``block`` names; raises ``FastFluxError`` when this family has no such stack."""
        for stack in self.stacks:
            if stack.name == block.stack:
                return stack
        names = ", ".join(stack.name for stack in self.stacks)
        raise FastFluxError(f"{self.name} has no block {block}: its stacks are {names}.")

    def streams_read(self, block: BlockRef, transformer: nn.Module) -> tuple[str, ...]:
        """The streams of the block's output that anything downstream reads."""
        return (IMAGE_STREAM,) if block == self.blocks(transformer)[-1] else STREAMS


def architecture_of(transformer: nn.Module) -> Architecture:
    """The family of a transformer, dense or pruned; raises ``FastFluxError`` for a class that is not supported."""
    names = {cls.__name__ for cls in type(transformer).__mro__}
    for architecture in ARCHITECTURES:
        if architecture.transformer_class in names:
            return architecture
    supported = ", ".join(architecture.transformer_class for architecture in ARCHITECTURES)
    raise FastFluxError(f"Cannot prune a {type(transformer).__name__}: supported transformers are {supported}.")


def config_of(transformer: nn.Module) -> Any:
    """The diffusers config of a transformer, whose attributes are the arguments of its class."""
    return transformer.config


def require_fraction(name: str, value: float) -> None:
    """Raise ``FastFluxError`` unless ``value`` lies in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise FastFluxError(f"{name} is {value}, but it must lie between 0 and 1: 0.2 stands for 20 %.")


def block_count(ratio: float, blocks: int) -> int:
    """How many of ``blocks`` blocks to replace at a pruning ratio in [0, 1].

    FLUX.1-dev's 57 blocks follow the paper's counts (see `PAPER_COUNTED_BLOCKS`), other depths ``round(ratio *
    blocks)``. Raises ``FastFluxError`` for a ratio outside [0, 1].
    """
    require_fraction("The pruning ratio", ratio)
    return round(ratio * (PAPER_COUNTED_BLOCKS if blocks == PAPER_BLOCKS else blocks))


def paper_block_count(ratio: float) -> int:
    """The paper's number of replaced blocks of FLUX.1-dev's 57 at a ratio in [0, 1] (Table 6)."""
    return block_count(ratio, PAPER_BLOCKS)


def example_inputs(
    transformer: nn.Module,
    batch: int,
    height: int,
    width: int,
    text_tokens: int,
    generator: torch.Generator | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    vae_scale_factor: int = 8,
) -> dict[str, Tensor]:
    """Keyword arguments of one ``transformer.forward`` for images of ``height`` x ``width`` pixels.

    Random values are drawn on the generator's device (the CPU without one) and then moved, so that every device gets
    the same; on ``device="meta"`` nothing is drawn. Raises ``FastFluxError`` when the pixels do not fill whole tokens.
    """
    make = architecture_of(transformer).make_inputs
    inputs = make(transformer, batch, height, width, text_tokens, generator, torch.device(device), vae_scale_factor)
    return {
        name: value.to(device) if name.endswith("_ids") else value.to(device, dtype) for name, value in inputs.items()
    }


def _flux_inputs(
    transformer: nn.Module,
    batch: int,
    height: int,
    width: int,
    text_tokens: int,
    generator: torch.Generator | None,
    device: torch.device,
    vae_scale_factor: int,
) -> dict[str, Tensor]:
    pixels = 2 * vae_scale_factor  # FluxPipeline packs 2 x 2 latents into a token
    if height % pixels or width % pixels or min(height, width) < pixels:
        raise FastFluxError(f"Images of {height}x{width} pixels do not fill whole tokens: use multiples of {pixels}.")
    rows, columns = height // pixels, width // pixels
    config = config_of(transformer)
    source = "meta" if device.type == "meta" else (generator.device if generator is not None else "cpu")

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=None if source == "meta" else generator, device=source)

    image_ids = torch.zeros(rows, columns, 3)
    image_ids[..., 1] = torch.arange(rows)[:, None]
    image_ids[..., 2] = torch.arange(columns)[None, :]
    inputs = {
        "hidden_states": draw(batch, rows * columns, config.in_channels),
        "encoder_hidden_states": draw(batch, text_tokens, config.joint_attention_dim),
        "pooled_projections": draw(batch, config.pooled_projection_dim),
        "timestep": torch.full((batch,), 0.5),
        "img_ids": image_ids.reshape(rows * columns, 3),
        "txt_ids": torch.zeros(text_tokens, 3),
    }
    if config.guidance_embeds:
        inputs["guidance"] = torch.full((batch,), 3.5)
    return inputs


FLUX = Architecture(
    name="FLUX",
    transformer_class="FluxTransformer2DModel",
    stacks=(BlockStack("transformer_blocks", joint=False), BlockStack("single_transformer_blocks", joint=True)),
    make_inputs=_flux_inputs,
)
ARCHITECTURES = (FLUX,)
