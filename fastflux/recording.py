"""Record what enters the transformer while a pipeline samples, and carry it from block to block, a part at a time.

Sandwich Training needs the inputs and outputs of one span of blocks after another. Running whole pipelines for each
would repeat everything before the span; here the recorded inputs enter the transformer once, and the states that reach
the spans are kept as long as no block before them changes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from fastflux.activations import KEEP, ActivationStore, KeptStreams, Streams
from fastflux.architectures import IMAGE_STREAM, STREAMS, TEXT_STREAM, architecture_of
from fastflux.errors import FastFluxError
from fastflux.plan import BlockRef
from fastflux.surgery import get_block


@dataclass(frozen=True)
class RecordedInputs:
    """Keyword arguments of a transformer's forward: ``rows`` hold one entry per sample, ``shared`` serves all."""

    rows: Mapping[str, Tensor]
    shared: Mapping[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    @property
    def nbytes(self) -> int:
        """Bytes of the samples."""
        return sum(value.nbytes for value in self.rows.values())

    def batches(self, size: int) -> Iterator[dict[str, Any]]:
        """Arguments for batches of at most ``size`` samples."""
        for start in range(0, len(self), size):
            yield {**{name: value[start : start + size] for name, value in self.rows.items()}, **self.shared}

    @torch.no_grad()
    def replay(self, transformer: nn.Module, size: int) -> None:
        """Run the transformer on all samples, ``size`` at once, on its own device."""
        for arguments in self.batches(size):
            transformer(**on_device(arguments, transformer))


def record_inputs(transformer: nn.Module, drive: Callable[[], None], *, samples: int, seed: int = 0) -> RecordedInputs:
    """Run ``drive`` and keep ``samples`` of the single-image forwards it makes, chosen evenly by reservoir sampling.

    Each kept sample is one image at one time step. Kept on the CPU, so that memory is bounded by ``samples`` whatever
    ``drive`` runs. Raises ``FastFluxError`` when ``drive`` makes fewer forwards than that, of differing sizes, or on
    values that are not finite.
    """
    if samples < 1:
        raise FastFluxError(f"{samples} samples are to be recorded, but it must be at least 1.")
    generator = torch.Generator().manual_seed(seed)
    kept: list[dict[str, Tensor]] = []
    shared: dict[str, Any] = {}
    seen = 0

    def observe(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal seen
        batch = len(kwargs[IMAGE_STREAM])
        own = {key: value for key, value in kwargs.items() if has_rows(key, value, batch)}
        if faulty := [key for key, value in own.items() if not torch.isfinite(value).all()]:
            raise FastFluxError(
                f"The calibration ran the model on {faulty[0]} that are not finite: check the weights and the dtype."
            )
        shared.update({key: value for key, value in kwargs.items() if key not in own})
        for row in range(batch):
            seen += 1
            place = len(kept) if len(kept) < samples else int(torch.randint(seen, (), generator=generator))
            if place >= samples:
                continue
            sample = {key: value[row].detach().cpu().clone() for key, value in own.items()}
            if kept and {key: value.shape for key, value in sample.items()} != {
                key: value.shape for key, value in kept[0].items()
            }:
                raise FastFluxError("The calibration ran images or prompts of differing sizes: use one size for all.")
            if place == len(kept):
                kept.append(sample)
            else:
                kept[place] = sample

    handle = transformer.register_forward_pre_hook(observe, with_kwargs=True)
    try:
        with torch.no_grad():
            drive()
    finally:
        handle.remove()
    if len(kept) < samples:
        raise FastFluxError(
            f"The calibration ran {seen} images and steps, but {samples} samples were asked for: "
            "give more prompts or steps, or ask for fewer samples."
        )
    rows = {key: torch.stack([sample[key] for sample in kept]) for key in kept[0]}
    return RecordedInputs(rows, {key: value for key, value in shared.items() if key != "return_dict"})


def on_device(arguments: Mapping[str, Any], transformer: nn.Module) -> dict[str, Any]:
    """Arguments with their tensors on the transformer's device."""
    device = next(transformer.parameters()).device
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in arguments.items()}


def has_rows(name: str, value: object, batch: int) -> bool:
    """Whether an argument has an entry per image; position ids have none, whatever their length."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch and not name.endswith("_ids")


class _Entered(Exception):  # noqa: N818  # no error: it ends a forward that has gone far enough
    """The first block was reached."""


@dataclass
class BlockStates:
    """The streams of all recorded samples before any block of a transformer, computed when asked for.

    ``before(block)`` starts from the nearest place that is still valid: the model's own input, or one of at most
    ``keep`` places whose streams were kept. ``invalidate(block)`` must be told of every block that changes.
    ``store`` says where they lie: at most the input, ``keep`` places and what is being computed are held at once.
    ``block_forwards`` counts samples times blocks that were run, ``seconds`` what that took: the cost of it all.
    """

    transformer: nn.Module
    inputs: RecordedInputs
    batch_size: int
    keep: int = KEEP
    store: ActivationStore = field(default_factory=ActivationStore)
    block_forwards: int = 0
    seconds: float = 0.0
    _places: dict[int, KeptStreams] = field(default_factory=dict)
    _arguments: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.blocks = architecture_of(self.transformer).chain(self.transformer)
        self._places[0] = self.store.keep(self._enter())

    def _enter(self) -> Iterator[Streams]:
        """Run the embedders: streams before the first block, and what every block is given besides."""
        reached: list[Streams] = []

        def stop(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            reached.append((kwargs[IMAGE_STREAM].cpu(), kwargs[TEXT_STREAM].cpu()))
            self._arguments.append({key: value for key, value in kwargs.items() if key not in STREAMS})
            raise _Entered

        for arguments in self.inputs.batches(self.batch_size):
            handle = get_block(self.transformer, self.blocks[0]).register_forward_pre_hook(stop, with_kwargs=True)
            try:
                with torch.no_grad(), suppress(_Entered):
                    self.transformer(**on_device(arguments, self.transformer))
            finally:
                handle.remove()
            yield reached.pop()

    def arguments(self, batch: int) -> dict[str, Any]:
        """What every block is given besides the streams, for one batch of samples."""
        return self._arguments[batch]

    def invalidate(self, block: BlockRef) -> None:
        """Forget the streams behind ``block``, which has changed."""
        at = self.blocks.index(block)
        self._places = {place: streams for place, streams in self._places.items() if place <= at}

    def before(self, block: BlockRef) -> KeptStreams:
        """Streams before ``block``, a pair for each batch, on the CPU."""
        at = self.blocks.index(block)
        start = max(place for place in self._places if place <= at)
        if start == at:
            return self._places[at]
        streams = self.through(self._places[start], self.blocks[start:at])
        self._places[at] = streams
        self._thin()
        return streams

    def through(
        self,
        streams: Iterable[Streams],
        blocks: Sequence[BlockRef],
        observe: Callable[[BlockRef, Streams, Streams], None] = lambda _block, _before, _after: None,
    ) -> KeptStreams:
        """Run ``streams`` through consecutive blocks; ``observe`` sees every block's streams before and after."""
        began = monotonic()
        out = self.store.keep(self._run(batch, pair, blocks, observe) for batch, pair in enumerate(streams))
        self.seconds += monotonic() - began
        return out

    @torch.no_grad()
    def _run(
        self,
        batch: int,
        streams: Streams,
        blocks: Sequence[BlockRef],
        observe: Callable[[BlockRef, Streams, Streams], None],
    ) -> Streams:
        """One batch through consecutive blocks."""
        device = next(self.transformer.parameters()).device
        current = (streams[0].to(device), streams[1].to(device))
        for block in blocks:
            after = run_block(get_block(self.transformer, block), current, self._arguments[batch])
            observe(block, current, after)
            current = after
        self.block_forwards += len(blocks) * len(current[0])
        return current[0].cpu(), current[1].cpu()

    def _thin(self) -> None:
        """Keep the model's input and the ``keep`` places reached last."""
        places = [place for place in self._places if place]
        for place in places[: max(0, len(places) - self.keep)]:
            del self._places[place]


def run_block(module: nn.Module, streams: Streams, arguments: Mapping[str, Any]) -> Streams:
    """One block under diffusers' contract: text first in its result, image first here.

    SD3's last block gives no text, and nothing reads it there: the text that went in stands for it.
    """
    encoder_hidden_states, hidden_states = module(
        hidden_states=streams[0], encoder_hidden_states=streams[1], **arguments
    )
    return hidden_states, streams[1] if encoder_hidden_states is None else encoder_hidden_states
