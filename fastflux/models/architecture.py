"""All that differs between transformer families: block stacks, what a block reads and writes, inputs and sizes.

A new family is one module that calls `register_architecture`, as `fastflux.models.flux` and `fastflux.models.sd3` do;
nothing else asks which family it is dealing with. Other packages name theirs as entry points of `PLUGINS`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastflux.errors import FastFluxError
from fastflux.plan import BlockRef
from fastflux.plugins import load_plugins

PLUGINS = "fastflux.architectures"
"""The entry point group of other packages' families."""

IMAGE_STREAM = "hidden_states"
TEXT_STREAM = "encoder_hidden_states"
STREAMS = (IMAGE_STREAM, TEXT_STREAM)


@dataclass(frozen=True)
class BlockStack:
    """One ``ModuleList`` of like blocks.

    ``joint``: the block has one residual branch over text and image tokens together (FLUX's single blocks), so one
    linear layer serves both streams; otherwise (double blocks) each stream has a residual branch of its own.
    ``keeps_last``: the last block is never pruned; SD3's lacks the text's half and gives None for its text.
    """

    name: str
    joint: bool
    keeps_last: bool = False


@dataclass(frozen=True)
class Architecture:
    """A transformer family.

    ``model_class`` is diffusers' class of the dense model and ``pruned_class`` the name of ours
    (`fastflux.models.pruned.pruned_class_of` makes it). Every block maps ``(hidden_states, encoder_hidden_states, temb,
    ...)`` to ``(encoder_hidden_states, hidden_states)``: diffusers returns text first. ``stacks`` stand in the order of
    the data flow. The text output of the very last block is never read.

    ``make_inputs`` and ``noised_inputs`` give a forward's arguments (see `fastflux.models.flux`). Of the pipeline:
    ``t5_tokenizer`` is the component whose length limits the text, ``text_tokens`` what the pipeline takes of it
    unasked, ``clip_in_sequence`` whether CLIP's tokens stand in the sequence too. An image token covers
    ``latents_per_token`` latents a side, and an image at most ``most_tokens`` tokens a side, where there is a limit.
    """

    name: str
    model_class: Any
    pruned_class: str
    pipeline_class: str
    stacks: tuple[BlockStack, ...]
    make_inputs: Callable[..., dict[str, Tensor]]
    noised_inputs: Callable[..., Iterator[dict[str, Any]]]
    t5_tokenizer: str
    text_tokens: int
    clip_in_sequence: bool
    latents_per_token: Callable[[Any], int]
    most_tokens: Callable[[Any], int | None]

    def chain(self, transformer: nn.Module) -> tuple[BlockRef, ...]:
        """All blocks that a forward runs, in the order of the data flow."""
        return tuple(BlockRef(stack.name, i) for stack in self.stacks for i in range(_length(transformer, stack)))

    def blocks(self, transformer: nn.Module) -> tuple[BlockRef, ...]:
        """All blocks that may be pruned, in the order of the data flow: the chain without those that are kept."""
        kept = {BlockRef(stack.name, _length(transformer, stack) - 1) for stack in self.stacks if stack.keeps_last}
        return tuple(block for block in self.chain(transformer) if block not in kept)

    def stack(self, block: BlockRef) -> BlockStack:
        """The stack that ``block`` names; raises ``FastFluxError`` when this family has no such stack."""
        for stack in self.stacks:
            if stack.name == block.stack:
                return stack
        names = ", ".join(stack.name for stack in self.stacks)
        raise FastFluxError(f"{self.name} has no block {block}: its stacks are {names}.")

    def streams_read(self, block: BlockRef, transformer: nn.Module) -> tuple[str, ...]:
        """The streams of the block's output that anything downstream reads."""
        return (IMAGE_STREAM,) if block == self.chain(transformer)[-1] else STREAMS

    def require_side(self, transformer: nn.Module, name: str, pixels: int, vae_scale_factor: int) -> None:
        """Raise ``FastFluxError`` unless ``pixels`` is a height or width (its ``name``) that the family can draw."""
        config = config_of(transformer)
        token = self.latents_per_token(config) * vae_scale_factor
        if pixels < token or pixels % token:
            raise FastFluxError(f"The {name} is {pixels} pixels, but it must be a multiple of {token}.")
        most = self.most_tokens(config)
        if most is not None and pixels > most * token:
            raise FastFluxError(
                f"The {name} is {pixels} pixels, but the transformer's position embedding ends at {most * token}."
            )


def _length(transformer: nn.Module, stack: BlockStack) -> int:
    return len(transformer.get_submodule(stack.name))  # type: ignore[arg-type]  # a ModuleList


_ARCHITECTURES: dict[str, Architecture] = {}


def register_architecture(architecture: Architecture) -> Architecture:
    """Make a family known, and return it: its transformers can be pruned, saved and loaded from now on.

    Raises:
        ValueError: Another family of the same name or pruned class is registered already.
    """
    for other in _ARCHITECTURES.values():
        if architecture.name == other.name or architecture.pruned_class == other.pruned_class:
            raise ValueError(f"an architecture {other.name} with the class {other.pruned_class} is registered already")
    _ARCHITECTURES[architecture.name] = architecture
    return architecture


def architectures() -> tuple[Architecture, ...]:
    """All registered families, those of installed packages among them."""
    load_plugins(PLUGINS)
    return tuple(_ARCHITECTURES.values())


def architecture_of(transformer: nn.Module) -> Architecture:
    """The family of a transformer, dense or pruned; raises ``FastFluxError`` for a class that is not supported."""
    known = {architecture.model_class: architecture for architecture in architectures()}
    for cls in type(transformer).__mro__:
        if cls in known:
            return known[cls]
    supported = ", ".join(cls.__name__ for cls in known)
    raise FastFluxError(f"Cannot prune a {type(transformer).__name__}: supported transformers are {supported}.")


def is_supported(transformer: object) -> bool:
    """Whether `architecture_of` knows the family."""
    return isinstance(transformer, tuple(architecture.model_class for architecture in architectures()))


def config_of(transformer: nn.Module) -> Any:
    """The diffusers config of a transformer, whose attributes are the arguments of its class."""
    return transformer.config


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

    ``text_tokens`` is the length of the text sequence (`fastflux.models.sizes.sequence_length` tells a pipeline's).
    Random values are drawn on the generator's device (the CPU without one) and then moved, so that every device gets
    the same; on ``device="meta"`` nothing is drawn. Raises ``FastFluxError`` for pixels that the family cannot draw.
    """
    architecture = architecture_of(transformer)
    for name, pixels in (("height", height), ("width", width)):
        architecture.require_side(transformer, name, pixels, vae_scale_factor)
    source = "meta" if torch.device(device).type == "meta" else (generator.device if generator is not None else "cpu")

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=None if source == "meta" else generator, device=source)

    rows, columns = height // vae_scale_factor, width // vae_scale_factor
    inputs = architecture.make_inputs(transformer, batch, rows, columns, text_tokens, draw)
    return {
        name: value.to(device) if name.endswith("_ids") else value.to(device, dtype) for name, value in inputs.items()
    }
