"""Run batches of samples through consecutive blocks of a transformer, each offloaded block once for many batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from fastflux.models.architecture import BlockStack, Streams, architecture_of, map_tensors
from fastflux.models.offload import is_offloaded, on_its_device
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef

Arguments: TypeAlias = Mapping[BlockRef, Mapping[str, Any]]
"""What each block is given besides the streams; blocks that are given the same share it."""
Entering: TypeAlias = tuple[Streams, Arguments]
"""The streams of a batch before its first block, and what blocks are given besides."""
Observe: TypeAlias = Callable[[BlockRef, Streams, Streams], None]

TOGETHER = 2 * 2**30
"""Bytes of streams that may lie on the device while an offloaded block is there: of FLUX.1-dev 227 samples at 512x512.

What a block costs on the bus is shared by all samples that are there with it, and these streams cross it only once,
not once for each block.
"""


class _Entered(Exception):  # noqa: N818  # no error: it ends a forward that has gone far enough
    """The last block was reached."""


def on_device(arguments: Mapping[str, Any], transformer: nn.Module) -> dict[str, Any]:
    """Arguments with their tensors on the transformer's device."""
    device = _device(transformer)
    moved: dict[str, Any] = map_tensors(lambda value: value.to(device), dict(arguments))
    return moved


def forward(transformer: nn.Module, arguments: Mapping[str, Any]) -> Tensor:
    """The transformer's output for arguments that may lie elsewhere; Z-Image gives a list of pictures' latents."""
    output: Tensor | list[Tensor] = transformer(**on_device(arguments, transformer), return_dict=False)[0]
    return torch.stack(output) if isinstance(output, list) else output


class _StandIn(nn.Module):
    """Notes what a block is called with, and passes the streams on."""

    leaving: Streams | None = None
    """What the last block is to give; without any the forward ends there."""

    def __init__(self, contract: BlockStack, calls: list[Entering], block: BlockRef, *, last: bool) -> None:
        super().__init__()
        self._contract, self._calls, self._block, self._last = contract, calls, block, last

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        text_tokens = self._calls[0][0][1].shape[1] if self._calls and len(self._calls[0][0]) > 1 else None
        streams, others = self._contract.given(args, kwargs, text_tokens)
        before = next(iter(self._calls[-1][1].values())) if self._calls else {}
        same = before.keys() == others.keys() and all(before[name] is value for name, value in others.items())
        self._calls.append((streams, {self._block: before if same else others}))
        if self._last and self.leaving is None:
            raise _Entered
        return self._contract.passed(self.leaving or streams)


@contextmanager
def _stand_ins(transformer: nn.Module, calls: list[Entering]) -> Iterator[None]:
    """Stand-ins in the places of all blocks: an offloaded one need not be loaded where it will not run."""
    architecture = architecture_of(transformer)
    chain = architecture.chain(transformer)
    blocks = [get_block(transformer, block) for block in chain]
    try:
        for block in chain:
            stand_in = _StandIn(architecture.stack(block), calls, block, last=block == chain[-1])
            cast("nn.ModuleList", transformer.get_submodule(block.stack))[block.index] = stand_in
        yield
    finally:
        for block, module in zip(chain, blocks, strict=True):
            cast("nn.ModuleList", transformer.get_submodule(block.stack))[block.index] = module


def enter(transformer: nn.Module, batches: Iterable[Mapping[str, Any]]) -> Iterator[Entering]:
    """Run the embedders on batches of a forward's arguments: what reaches the blocks, on the device."""
    for arguments in batches:
        calls: list[Entering] = []
        on_it = on_device(arguments, transformer)
        with _stand_ins(transformer, calls), torch.no_grad(), suppress(_Entered):
            transformer(**on_it)
        yield calls[0][0], {block: others for _, call in calls for block, others in call.items()}


@torch.no_grad()
def leave(transformer: nn.Module, arguments: Mapping[str, Any], streams: Streams) -> Tensor:
    """The transformer's output for a batch's arguments and its streams behind the last block."""
    with _stand_ins(transformer, []):
        last: Any = get_block(transformer, architecture_of(transformer).chain(transformer)[-1])
        last.leaving = on_device({"streams": streams}, transformer)["streams"]
        return forward(transformer, arguments)


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
) -> Iterator[tuple[list[Streams], list[Arguments]]]:
    """Batches on the device, as many at once as ``room`` bytes hold, at least one."""
    current: list[Streams] = []
    arguments: list[Arguments] = []
    held = 0
    for streams, others in batches:
        size = sum(stream.nbytes for stream in streams)
        current.append(tuple(stream.to(device) for stream in streams))
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
    arguments: Sequence[Arguments],
    observe: Observe,
) -> None:
    """Put what leaves the last block in the place of what entered the first."""
    for block in blocks:
        module, contract = get_block(transformer, block), architecture_of(transformer).stack(block)
        with on_its_device(module):
            for batch, others in enumerate(arguments):
                after = contract.run(module, current[batch], others[block])
                observe(block, current[batch], after)
                current[batch] = after


def _device(transformer: nn.Module) -> torch.device:
    return next(transformer.parameters()).device
