"""All that differs between transformer families: block stacks, what a block reads and writes, inputs and sizes.

A new family is one module that calls `register_architecture`, as `fastflux.models.flux` and `fastflux.models.sd3` do;
nothing else asks which family it is dealing with. Other packages name theirs as entry points of `PLUGINS`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from inspect import signature
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fastflux.errors import FastFluxError
from fastflux.plan import BlockRef


@cache
def load_plugins(group: str) -> None:
    """Import once what installed packages declare in an entry point group; their modules register what they add.

    Raises ``FastFluxError`` naming the package for one that cannot be imported.
    """
    for entry in entry_points(group=group):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist else entry.value
            raise FastFluxError(
                f"Cannot load {entry.name} of the package {package} ({group}): {error}; mend or uninstall that package."
            ) from error


PLUGINS = "fastflux.architectures"
"""The entry point group of other packages' families."""

IMAGE_STREAM = "hidden_states"
TEXT_STREAM = "encoder_hidden_states"
STREAMS = (IMAGE_STREAM, TEXT_STREAM)

Streams: TypeAlias = tuple[Tensor, ...]
"""What goes from block to block: (image, text), or one for both, ``(rows, tokens, dim)`` each."""


@dataclass(frozen=True)
class SlicedLayers:
    """Names of the layers in a block that L1-norm pruning slices; those that a block lacks are passed over.

    ``inputs`` give heads and ``outputs`` take them. The last of each of ``mlps`` takes its channels, and those before
    it give them: twice as many where they are gated. A layer may serve both attention and MLP, heads first.
    """

    attention: str = "attn"
    inputs: tuple[str, ...] = tuple(
        f"attn.{name}" for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
    )
    outputs: tuple[str, ...] = ("attn.to_out.0", "attn.to_add_out")
    mlps: tuple[tuple[str, ...], ...] = (("ff.net.0.proj", "ff.net.2"), ("ff_context.net.0.proj", "ff_context.net.2"))


@dataclass(frozen=True)
class BlockStack:
    """One ``ModuleList`` of like blocks, and their contract.

    ``block_class`` is diffusers' class of the dense blocks, whose forward names the arguments: the streams first. A
    block takes (image, text) and gives (text, image); where it is ``joined``, it takes one tensor, text before image,
    and gives one. ``joint``: it has one residual branch over all tokens (FLUX's single blocks), so one linear layer
    serves them; otherwise (double blocks) each stream has a residual branch of its own. ``kind`` is its name in tables
    of FLOPs. ``keeps_last``: the last block is never pruned; SD3's lacks the text's half and gives None for its text.
    ``halves``: attention and MLP can be replaced apart (`fastflux.models.sublayers`).
    """

    name: str
    block_class: Any
    kind: str
    joint: bool = False
    joined: bool = False
    keeps_last: bool = False
    halves: bool = False
    sliced: SlicedLayers = SlicedLayers()

    def given(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], text_tokens: int | None
    ) -> tuple[Streams, dict[str, Any]]:
        """The streams in a block's call, and what it is given besides; ``text_tokens`` of a joined tensor are text."""
        others = named_arguments(self.block_class, args, kwargs)
        streams = tuple(others.pop(name) for name in _names(self.block_class)[: 1 if self.joined else 2])
        return (_apart(streams[0], text_tokens) if self.joined else streams), others

    def returned(self, output: Any, before: Streams) -> Streams:
        """The streams in a block's result; what went in ``before`` stands for a text that it does not give."""
        if self.joined:
            return _apart(output, before[1].shape[1] if len(before) > 1 else None)
        text, image = output
        return image, before[1] if text is None else text

    def passed(self, streams: Streams) -> Any:
        """The result of a block that changes nothing."""
        return _joined(streams) if self.joined else streams[::-1]

    def run(self, block: nn.Module, streams: Streams, others: Mapping[str, Any]) -> Streams:
        """Call a block, dense or what stands in its place."""
        if self.joined:
            return self.returned(block(_joined(streams), **others), streams)
        return self.returned(block(**dict(zip(STREAMS, streams, strict=True)), **others), streams)


def _joined(streams: Streams) -> Tensor:
    return streams[0] if len(streams) == 1 else torch.cat(streams[::-1], dim=1)


def _apart(joined: Tensor, text_tokens: int | None) -> Streams:
    return (joined,) if text_tokens is None else (joined[:, text_tokens:], joined[:, :text_tokens])


@cache
def _names(module_class: Any) -> tuple[str, ...]:
    return tuple(signature(module_class.forward).parameters)[1:]


def named_arguments(module_class: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments by name, in the forward's order: gradient checkpointing, and Z-Image always, give places."""
    names = _names(module_class)
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    return {name: given[name] for name in names if name in given} | given


def map_tensors(change: Callable[[Tensor], Any], value: Any) -> Any:
    """``value``, a tensor or lists, tuples and mappings of any depth, with all of its tensors changed."""
    return tree_map_only(Tensor, change, value)


@dataclass(frozen=True)
class Architecture:
    """A transformer family.

    ``model_class`` is diffusers' class of the dense model and ``pruned_class`` the name of ours
    (`fastflux.models.pruned.pruned_class_of` makes it). ``stacks`` stand in the order of the data flow, ``streams`` are
    what goes through them; the text output of the very last block is never read. ``hidden_size`` is their width.

    ``make_inputs`` and ``noised_inputs`` give a forward's arguments (see `fastflux.models.flux`), ``listed`` those that
    are lists with an entry for each image, ``text_mask`` the one that hides a text's padding. ``pipeline_classes`` are
    the pipelines that calibrate and draw. Of them, ``tokenizer`` is the component whose length limits the text,
    ``text_tokens`` what they take of it unasked, ``clip_in_sequence`` whether CLIP's tokens stand in the sequence too,
    and ``guided`` gives the arguments of a call for a number of prompts that set the guidance. An image token covers
    ``latents_per_token`` latents a side, and an image at most ``most_tokens`` tokens a side, where there is a limit.
    """

    name: str
    model_class: Any
    pruned_class: str
    pipeline_classes: tuple[str, ...]
    stacks: tuple[BlockStack, ...]
    make_inputs: Callable[..., dict[str, Any]]
    noised_inputs: Callable[..., Iterator[dict[str, Any]]] | None = None
    streams: tuple[str, ...] = STREAMS
    listed: tuple[str, ...] = ()
    text_mask: str = ""
    tokenizer: str = "tokenizer"
    text_tokens: int = 512
    clip_in_sequence: bool = False
    guided: Callable[[int, float], dict[str, Any]] = lambda _prompts, guidance: {"guidance_scale": guidance}
    hidden_size: Callable[[Any], int] = lambda config: int(config.num_attention_heads * config.attention_head_dim)
    latents_per_token: Callable[[Any], int] = lambda _config: 2
    most_tokens: Callable[[Any], int | None] = lambda _config: None

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
        return self.streams[:1] if block == self.chain(transformer)[-1] else self.streams

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
) -> dict[str, Any]:
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
    ids = {name: value.to(device) for name, value in inputs.items() if name.endswith("_ids")}

    def placed(value: Tensor) -> Tensor:
        return value.to(device, dtype if value.is_floating_point() else value.dtype)

    return {name: ids[name] if name in ids else map_tensors(placed, value) for name, value in inputs.items()}
