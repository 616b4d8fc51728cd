"""Run batches of samples through consecutive blocks of a transformer, each offloaded block once for many batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fastflux.calibration.activations import Streams
from fastflux.models.architecture import IMAGE_STREAM, STREAMS, TEXT_STREAM, architecture_of
from fastflux.models.offload import is_offloaded, on_its_device
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef

Entering: TypeAlias = tuple[Streams, Mapping[str, Any]]
"""The streams of a batch, and what every block is given besides."""
Observe: TypeAlias = Callable[[BlockRef, Streams, Streams], None]

TOGETHER = 2 * 2**30
"""Bytes of streams that may lie on the device while an offloaded block is there: of FLUX.1-dev 227 samples at 512x512.

What a block costs on the bus is shared by all samples that are there with it, and these streams cross it only once,
not once for each block.
"""


class _Entered(Exception):  # noqa: N818  # no error: it ends a forward that has gone far enough
    """The first block was reached."""


def on_device(arguments: Mapping[str, Any], transformer: nn.Module) -> dict[str, Any]:
    """Arguments with their tensors on the transformer's device."""
    device = _device(transformer)
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in arguments.items()}


def run_block(module: nn.Module, streams: Streams, arguments: Mapping[str, Any]) -> Streams:
    """One block under diffusers' contract: text first in its result, image first here.

    SD3's last block gives no text, and nothing reads it there: the text that went in stands for it.
    """
    encoder_hidden_states, hidden_states = module(
        hidden_states=streams[0], encoder_hidden_states=streams[1], **arguments
    )
    return hidden_states, streams[1] if encoder_hidden_states is None else encoder_hidden_states


def enter(transformer: nn.Module, batches: Iterable[Mapping[str, Any]]) -> Iterator[Entering]:
    """Run the embedders on batches of a forward's arguments: what reaches the first block, on the device."""
    reached: list[Entering] = []

    def stop(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        others = {key: value for key, value in kwargs.items() if key not in STREAMS}
        reached.append(((kwargs[IMAGE_STREAM], kwargs[TEXT_STREAM]), others))
        raise _Entered

    first = get_block(transformer, architecture_of(transformer).chain(transformer)[0])
    for arguments in batches:
        # Before all other hooks: an offloaded block need not be loaded where it will not run.
        handle = first.register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
        try:
            with torch.no_grad(), suppress(_Entered):
                transformer(**on_device(arguments, transformer))
        finally:
            handle.remove()
        yield reached.pop()


def run_blocks(
    transformer: nn.Module,
    blocks: Sequence[BlockRef],
    batches: Iterable[Entering],
    observe: Observe = lambda _block, _before, _after: None,
) -> Iterator[Streams]:
    """Run batches through consecutive blocks, and give each one's streams behind the last, on the device.

    ``observe`` is shown every block's streams before and after it, batch after batch. Where a block is offloaded, so
    many batches stay on the device as `TOGETHER` allows, at least one, and each block comes once for all of them: the
    numbers are the same, only their order differs, a block with all these batches before the next block.
    """
    offloaded = any(is_offloaded(get_block(transformer, block)) for block in blocks)
    for current, arguments in _together(batches, TOGETHER if offloaded else 0, _device(transformer)):
        _run_together(transformer, blocks, current, arguments, observe)
        while current:
            yield current.pop(0)  # so that what was taken is not held here


def _together(
    batches: Iterable[Entering], room: int, device: torch.device
) -> Iterator[tuple[list[Streams], list[Mapping[str, Any]]]]:
    """Batches on the device, as many at once as ``room`` bytes hold, at least one."""
    current: list[Streams] = []
    arguments: list[Mapping[str, Any]] = []
    held = 0
    for streams, others in batches:
        size = sum(stream.nbytes for stream in streams)
        current.append((streams[0].to(device), streams[1].to(device)))
        arguments.append(others)
        del streams  # what it entered with is not held while it runs
        held += size
        if held + size > room:  # the next batch is as large: it is not read before this one is done
            yield current, arguments
            current, arguments, held = [], [], 0
    if current:
        yield current, arguments


@torch.no_grad()
def _run_together(
    transformer: nn.Module,
    blocks: Sequence[BlockRef],
    current: list[Streams],
    arguments: Sequence[Mapping[str, Any]],
    observe: Observe,
) -> None:
    """Put what leaves the last block in the place of what entered the first."""
    for block in blocks:
        module = get_block(transformer, block)
        with on_its_device(module):
            for batch, others in enumerate(arguments):
                after = run_block(module, current[batch], others)
                observe(block, current[batch], after)
                current[batch] = after


def _device(transformer: nn.Module) -> torch.device:
    return next(transformer.parameters()).device
