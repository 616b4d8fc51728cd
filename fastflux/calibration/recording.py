"""Record what enters the transformer while a pipeline samples, and carry it from block to block, a part at a time.

Sandwich Training needs the inputs and outputs of one span of blocks after another. Running whole pipelines for each
would repeat everything before the span; here the recorded inputs enter the transformer once, and the states that reach
the spans are kept as long as no block before them changes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastflux.calibration.activations import KEEP, ActivationStore, KeptStreams
from fastflux.calibration.block_runs import Arguments, Observe, enter, run_blocks
from fastflux.errors import FastFluxError
from fastflux.models.architecture import TEXT_STREAM, Streams, architecture_of, map_tensors, named_arguments
from fastflux.plan import BlockRef

_DIFFERING = "The calibration ran images or prompts of differing sizes: use one size for all."

TOKENS_AT_ONCE = 16384
"""Of the samples that run at once unless told otherwise: in FLUX.1-dev's blocks 0.1 GB a tensor in bfloat16."""
MOST_AT_ONCE = 64


@dataclass(frozen=True)
class RecordedInputs:
    """A forward's arguments: ``rows`` hold one entry per sample, in tensors or lists, ``shared`` serves all."""

    rows: Mapping[str, Any]
    shared: Mapping[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    @property
    def nbytes(self) -> int:
        """Bytes of the samples."""
        values = (one for value in self.rows.values() for one in (value if isinstance(value, list) else [value]))
        return sum(one.nbytes for one in values if isinstance(one, Tensor))

    def batches(self, size: int) -> Iterator[dict[str, Any]]:
        """Arguments for batches of at most ``size`` samples."""
        for start in range(0, len(self), size):
            yield {**{name: value[start : start + size] for name, value in self.rows.items()}, **self.shared}

    def of(self, rows: Tensor) -> "RecordedInputs":
        """The samples of the given numbers."""
        chosen = {
            n: [v[row] for row in rows.tolist()] if isinstance(v, list) else v[rows] for n, v in self.rows.items()
        }
        return RecordedInputs(chosen, self.shared)


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

    listed, mask = architecture_of(transformer).listed, architecture_of(transformer).text_mask
    loose = {*listed, *((TEXT_STREAM, mask) if mask else ())}  # what may differ in size

    def sizes(sample: dict[str, Any]) -> Any:
        return map_tensors(_shape, {key: value for key, value in sample.items() if key not in loose})

    def observe(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal seen
        kwargs = named_arguments(type(module), args, kwargs)
        batch = len(next(iter(kwargs.values())))
        own = {key: value for key, value in kwargs.items() if key in listed or has_rows(key, value, batch)}
        if faulty := [key for key, value in own.items() if not all(map(_finite, value))]:
            raise FastFluxError(
                f"The calibration ran the model on {faulty[0]} that are not finite: check the weights and the dtype."
            )
        shared.update({key: value for key, value in kwargs.items() if key not in own})
        for row in range(batch):
            seen += 1
            place = len(kept) if len(kept) < samples else int(torch.randint(seen, (), generator=generator))
            if place >= samples:
                continue
            sample = {key: map_tensors(_copied, value[row]) for key, value in own.items()}
            if kept and sizes(sample) != sizes(kept[0]):
                raise FastFluxError(_DIFFERING)
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
    if mask and (any(mask in sample for sample in kept) or len({len(sample[TEXT_STREAM]) for sample in kept}) > 1):
        _pad_(kept, mask)
        shared.pop(mask, None)
    columns: dict[str, list[Any]] = {key: [sample[key] for sample in kept] for key in kept[0]}
    rows = {key: values if key in listed else torch.stack(values) for key, values in columns.items()}
    return RecordedInputs(rows, {key: value for key, value in shared.items() if key != "return_dict"})


def _pad_(samples: list[dict[str, Tensor]], mask: str) -> None:
    """Put zeros behind texts until all are of one length, and hide them."""
    longest = max(len(sample[TEXT_STREAM]) for sample in samples)
    for sample in samples:
        text = sample[TEXT_STREAM]
        seen = sample.get(mask, text.new_ones(len(text), dtype=torch.long))
        sample[TEXT_STREAM] = functional.pad(text, (0, 0, 0, longest - len(text)))
        sample[mask] = functional.pad(seen, (0, longest - len(text)))


def samples_at_once(transformer: nn.Module, inputs: RecordedInputs) -> int:
    """How many of the samples hold `TOKENS_AT_ONCE` image and text tokens together: from 1 to `MOST_AT_ONCE`."""
    streams, _ = next(enter(transformer, inputs.batches(1)))
    return max(1, min(MOST_AT_ONCE, TOKENS_AT_ONCE // sum(stream.shape[1] for stream in streams)))


def has_rows(name: str, value: object, batch: int) -> bool:
    """Whether an argument has an entry per image; position ids have none, whatever their length."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch and not name.endswith("_ids")


@dataclass
class BlockStates:
    """The streams of all recorded samples before any block of a transformer, computed when asked for.

    ``before(block)`` starts from the nearest place that is still valid: the model's own input, or one of at most
    ``keep`` places whose streams were kept. ``invalidate(block)`` must be told of every block that changes.
    ``store`` says where they lie: at most the input, ``keep`` places and what is being computed are held at once.
    ``batch_size`` samples run at once; offloaded blocks come once for many batches (`fastflux.calibration.block_runs`).
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
    _arguments: list[Arguments] = field(default_factory=list)
    _sizes: Any = None

    def __post_init__(self) -> None:
        self.blocks = architecture_of(self.transformer).chain(self.transformer)
        self._places[0] = self.store.keep(self._enter())

    def _enter(self) -> Iterator[Streams]:
        """Streams before the first block; notes what the blocks are given besides."""
        for streams, arguments in enter(self.transformer, self.inputs.batches(self.batch_size)):
            # Rotary embeddings are the same for every batch: one copy on the device instead of one for each.
            firsts = self._arguments[0] if self._arguments else {}
            once: dict[int, Mapping[str, Any]] = {}
            for block, given in arguments.items():
                if id(given) not in once:
                    first = firsts.get(block, {})
                    once[id(given)] = {
                        n: first[n] if _same(value, first.get(n)) else value for n, value in given.items()
                    }
            self._arguments.append({block: once[id(given)] for block, given in arguments.items()})
            absent = [value is None for own in once.values() for value in own.values()]
            sizes = [stream.shape[1:] for stream in streams], absent  # a mask that only some batches need among these
            self._sizes = self._sizes or sizes
            if sizes != self._sizes:
                raise FastFluxError(_DIFFERING)
            yield on_host(streams)

    def arguments(self, batch: int) -> Arguments:
        """What each block is given besides the streams, for one batch of samples."""
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

    def restore(self, changed: Iterable[BlockRef]) -> None:
        """Keep what a run would have kept that asked for these blocks in turn, each of which changed then.

        The model is as they left it. So a run that goes on where another was stopped takes the same steps from there as
        one that was not; what is computed here counts for neither.
        """
        places: list[int] = []
        for at in map(self.blocks.index, changed):
            places = [*places, *({at} - {0, *places})]
            places = [place for place in places[max(0, len(places) - self.keep) :] if place <= at]
        counted = self.block_forwards, self.seconds
        for place in sorted(places):
            start = max(before for before in self._places if before <= place)
            self._places[place] = self.through(self._places[start], self.blocks[start:place])
        self.block_forwards, self.seconds = counted
        self._places = {place: self._places[place] for place in (0, *places)} if places else self._places

    def through(
        self,
        streams: Iterable[Streams],
        blocks: Sequence[BlockRef],
        observe: Observe = lambda _block, _before, _after: None,
    ) -> KeptStreams:
        """Run ``streams`` of all samples through consecutive blocks; ``observe`` as in `run_blocks`."""
        began = monotonic()
        batches = zip(streams, self._arguments, strict=True)
        out = self.store.keep(map(on_host, run_blocks(self.transformer, blocks, batches, observe)))
        self.seconds += monotonic() - began
        self.block_forwards += len(blocks) * out.samples
        return out

    def _thin(self) -> None:
        """Keep the model's input and the ``keep`` places reached last."""
        places = [place for place in self._places if place]
        for place in places[: max(0, len(places) - self.keep)]:
            del self._places[place]


def _same(value: object, other: object) -> bool:
    """Whether two tensors, or tuples of tensors, are equal."""
    if isinstance(value, tuple) and isinstance(other, tuple):
        return len(value) == len(other) and all(map(_same, value, other))
    return isinstance(value, Tensor) and isinstance(other, Tensor) and torch.equal(value, other)


def on_host(streams: Streams) -> Streams:
    """The streams in the machine's memory."""
    return tuple(stream.cpu() for stream in streams)


def in_float32(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with all that is not whole or complex in float32."""
    single: dict[str, Any] = map_tensors(
        lambda value: value.float() if value.is_floating_point() else value, dict(arguments)
    )
    return single


def _finite(value: Tensor) -> bool:
    return not isinstance(value, Tensor) or bool(torch.isfinite(value).all())


def _copied(value: Tensor) -> Tensor:
    return value.detach().cpu().clone()


def _shape(value: Tensor) -> torch.Size:
    return value.shape
