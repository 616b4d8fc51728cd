"""Collect what every block's replacement needs in one pass: statistics of inputs and residuals, no activations."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import gettempdir
from typing import Any, TypeAlias

import torch
from torch import nn

from fastflux.calibration.activations import KEEP, ActivationStore, load_sealed, require_bounds, save_sealed
from fastflux.calibration.block_runs import enter, run_blocks
from fastflux.calibration.least_squares import LinearStatistics
from fastflux.calibration.recording import BlockStates, RecordedInputs, record_inputs, samples_at_once
from fastflux.calibration.trajectories import CalibrationRun, Trajectories
from fastflux.cost import PruningCost
from fastflux.errors import FastFluxError
from fastflux.models.architecture import STREAMS, TEXT_STREAM, BlockStack, Streams, architecture_of, named_arguments
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef

Statistics: TypeAlias = dict[BlockRef, dict[str, LinearStatistics]]
_Ran: TypeAlias = dict[tuple[BlockRef, str], LinearStatistics]
"""What samples were added to since the last look at it, in this order."""


@dataclass
class Calibration:
    """What pruning methods may learn of the dense model; each part is computed when a method first asks for it.

    ``drive`` runs the transformer's forwards, for example a pipeline on calibration prompts; ``run`` is that pipeline's
    run where ``drive`` only calls it. ``collected`` may hold the statistics of an earlier pass, ``recorded_inputs`` the
    samples. Methods that train keep their progress below ``folder``, if there is one, and those that prune block after
    block tell ``advance`` (blocks done, blocks in all). Recorded samples run ``batch_size`` at once, by default as many
    as hold 16,384 tokens, at most 64 (`samples_at_once`): that changes results by rounding alone. What enters the
    blocks, for all samples, is kept for ``keep`` places of the model, so that not every block starts at the model's
    input: with ``activations`` "ram" in memory, with "disk" in files below ``folder``, or the system's temporary folder
    without one, of which a batch is in memory at a time. Neither changes a bit of the result.

    Raises:
        FastFluxError: A value that cannot be meant.

    Example:
        >>> transformer = fastflux.load_transformer(f"{folder}/transformer")
        >>> inputs = example_inputs(transformer, batch=8, height=32, width=32, text_tokens=3)
        >>> calibration = fastflux.Calibration(lambda: transformer(**inputs))
        >>> plan = fastflux.prune_(transformer, fastflux.LinearReplacementConfig(blocks=1), calibration)
        >>> calibration.cost.seconds > 0
        True
    """

    drive: Callable[[], None] | None = None
    collected: Statistics | None = None
    folder: Path | None = None
    batch_size: int | None = None
    advance: Callable[[int, int], object] = lambda _done, _total: None
    cost: PruningCost = field(default_factory=PruningCost)
    """Of the latest pruning with this calibration, set by `fastflux.pruning.prune_`."""
    activations: str = "ram"
    keep: int = KEEP
    run: CalibrationRun[Any] | None = None
    recorded_inputs: RecordedInputs | None = None

    def __post_init__(self) -> None:
        require_bounds(self.activations, self.keep)
        if self.batch_size is not None and self.batch_size < 1:
            raise FastFluxError(f"{self.batch_size} samples are to run at once, but it must be at least 1.")

    def statistics(self, transformer: nn.Module) -> Statistics:
        """Statistics of all blocks of the dense transformer; raises ``FastFluxError`` when nothing can drive it."""
        if self.collected is None:
            self.collected = collect_statistics(transformer, self._drive())
        return self.collected

    def inputs(self, transformer: nn.Module, samples: int, seed: int) -> RecordedInputs:
        """Recorded inputs of the dense transformer; raises ``FastFluxError`` when nothing can drive it."""
        return self.recorded_inputs or record_inputs(transformer, self._drive(), samples=samples, seed=seed)

    def trajectories(self, count: int) -> Trajectories:
        """Of ``count`` of the prompts; raises ``FastFluxError`` for a calibration that samples none."""
        run = self.run or self._drive()
        if not isinstance(run, Trajectories):
            raise no_trajectories(count)
        return run.some(count)

    def store(self) -> ActivationStore:
        """Where activations are to be kept; a context that deletes all that is left in the end."""
        return ActivationStore(None if self.activations == "ram" else self.folder or Path(gettempdir()))

    def block_states(self, transformer: nn.Module, inputs: RecordedInputs, store: ActivationStore) -> BlockStates:
        """The streams between the transformer's blocks, kept in ``store``."""
        return BlockStates(transformer, inputs, self.at_once(transformer, inputs), self.keep, store)

    def at_once(self, transformer: nn.Module, inputs: RecordedInputs) -> int:
        """How many of the recorded samples run at once."""
        return samples_at_once(transformer, inputs) if self.batch_size is None else self.batch_size

    def _drive(self) -> Callable[[], None]:
        if self.drive is None:
            raise FastFluxError("This method runs the model to calibrate: pass a function that does (drive).")
        return self.drive


def no_trajectories(count: int) -> FastFluxError:
    """What is told of a calibration that samples no prompts."""
    return FastFluxError(
        f"{count} trajectories are asked for, but only a calibration on prompts has any: with pictures or a "
        "function of your own take 0 (--trajectories 0), the error of one step."
    )


def collect_statistics(
    transformer: nn.Module,
    drive: Callable[[], None],
    *,
    blocks: Iterable[BlockRef] | None = None,
    dtype: torch.dtype = torch.float64,
    into: Statistics | None = None,
    exact: bool | None = None,
) -> Statistics:
    """Run ``drive`` once with hooks on the blocks and return statistics per block and stream.

    For each stream (``hidden_states``: image tokens, ``encoder_hidden_states``: text tokens) x is the block's input and
    y its residual, output minus input; tokens are the samples. ``drive`` runs the transformer's forwards, for example a
    pipeline on calibration prompts. ``blocks`` defaults to all; ``into`` are statistics of an earlier part of the same
    calibration, to which this one's are added. ``exact`` as in `observe_residual`. Raises ``FastFluxError`` when
    ``drive`` never ran a block, and at the first forward that meets values that are not finite.
    """
    architecture = architecture_of(transformer)
    chosen = architecture.blocks(transformer) if blocks is None else tuple(blocks)
    statistics: Statistics = {block: {} for block in chosen} if into is None else into
    ran: _Ran = {}
    text: list[int] = []

    def note_text(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        text[:] = [named_arguments(type(module), args, kwargs)[TEXT_STREAM].shape[1]]

    handles = [
        get_block(transformer, block).register_forward_hook(
            _observe(architecture.stack(block), block, statistics.setdefault(block, {}), dtype, exact, ran, text),
            with_kwargs=True,
        )
        for block in chosen
    ]
    if TEXT_STREAM in architecture.streams and any(stack.joined for stack in architecture.stacks):
        handles.append(transformer.register_forward_pre_hook(note_text, with_kwargs=True))
    # Looking at a device's values waits for it: once behind a forward, not in every block.
    handles.append(transformer.register_forward_hook(lambda *_: _require_finite(ran)))
    try:
        with torch.no_grad():
            drive()
    finally:
        for handle in handles:
            handle.remove()
    _require_finite(ran)  # of a drive that runs blocks alone
    if idle := [str(block) for block, streams in statistics.items() if not streams]:
        raise FastFluxError(f"The calibration never ran {idle[0]}: drive has to run this transformer's forward.")
    return statistics


def collect_recorded(transformer: nn.Module, inputs: RecordedInputs, batch_size: int) -> Statistics:
    """`collect_statistics` of forwards of all recorded samples, ``batch_size`` at once, with the same result.

    Offloaded blocks come once for many batches, as in `run_blocks`, where whole forwards would bring all of them for
    every batch. Raises ``FastFluxError`` for values that are not finite.
    """
    architecture = architecture_of(transformer)
    statistics: Statistics = {block: {} for block in architecture.blocks(transformer)}
    ran: _Ran = {}

    def observe(block: BlockRef, before: Streams, after: Streams) -> None:
        if block in statistics:
            _add_residual(statistics[block], before, after, dtype=torch.float64, exact=None)
            ran.update({(block, name): moments for name, moments in statistics[block].items()})

    batches = enter(transformer, inputs.batches(batch_size))
    for _ in run_blocks(transformer, architecture.chain(transformer), batches, observe):
        _require_finite(ran)  # behind all blocks, as in `collect_statistics`
    return statistics


def _observe(
    contract: BlockStack,
    block: BlockRef,
    streams: dict[str, LinearStatistics],
    dtype: torch.dtype,
    exact: bool | None,
    ran: _Ran,
    text: Sequence[int],
) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before, _ = contract.given(args, kwargs, text[0] if text else None)
        _add_residual(streams, before, contract.returned(output, before), dtype=dtype, exact=exact)
        ran.update({(block, name): moments for name, moments in streams.items()})

    return hook


def observe_residual(
    block: BlockRef,
    streams: dict[str, LinearStatistics],
    before: Streams,
    after: Streams,
    *,
    dtype: torch.dtype = torch.float64,
    exact: bool | None = None,
) -> None:
    """Add a block's inputs and residuals, image first, to the statistics of its streams, which are kept in ``dtype``.

    ``exact`` is whether the products are computed in ``dtype`` too, or in bfloat16 and kept in float32
    (`update_in_bfloat16`): half the room, 8.6 GB less for FLUX.1-dev's 57 blocks. By default they are exact, but for
    bfloat16 activations on a CUDA device. Raises ``FastFluxError`` for values that are not finite.
    """
    _add_residual(streams, before, after, dtype=dtype, exact=exact)
    _require_finite({(block, name): moments for name, moments in streams.items()})


def _add_residual(
    streams: dict[str, LinearStatistics], before: Streams, after: Streams, *, dtype: torch.dtype, exact: bool | None
) -> None:
    for name, first, last in zip(STREAMS[: len(before)], before, after, strict=True):
        width = first.shape[-1]
        precise = exact_by_default(first.device, first.dtype) if exact is None else exact
        if name not in streams:
            products = None if precise else torch.float32
            streams[name] = LinearStatistics.empty(width, width, dtype=dtype, products=products, device=first.device)
        if precise:
            x, y = first.detach().to(dtype), last.detach().to(dtype)
            streams[name].update(x, y - x)  # subtracted after the cast: bfloat16 would round the difference
        else:
            streams[name].update_in_bfloat16(first.detach(), last.detach())


def _require_finite(ran: _Ran) -> None:
    """Raise ``FastFluxError`` for the first block and stream that met values which are not finite; empties ``ran``."""
    if not ran:
        return
    # Which a NaN or an infinity anywhere in x or y cannot leave finite, as y is a difference from x.
    sizes = [moments.yy for moments in ran.values()]
    finite = torch.stack([size.to(sizes[0].device) for size in sizes]).isfinite().tolist()
    faulty = [key for key, fine in zip(ran, finite, strict=True) if not fine]
    ran.clear()
    if faulty:
        block, name = faulty[0]
        raise FastFluxError(
            f"The calibration met values that are not finite in the {name} of {block}: "
            "check the model's weights and dtype."
        )


def exact_by_default(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of such activations are exact where nobody says otherwise."""
    return not (device.type == "cuda" and dtype == torch.bfloat16)


def save_statistics(statistics: Statistics, path: Path | str) -> None:
    """Write statistics to a safetensors file, which appears complete or not at all: one pass serves every ratio."""
    path = Path(path)
    tensors = {
        f"{block}/{stream}/{field.name}": torch.as_tensor(getattr(moments, field.name)).contiguous().cpu()
        for block, streams in statistics.items()
        for stream, moments in streams.items()
        for field in fields(LinearStatistics)
    }
    save_sealed(tensors, path, remedy="free some space or choose another place")


def load_statistics(path: Path | str, *, device: torch.device | str = "cpu") -> Statistics:
    """Read what `save_statistics` wrote; raises ``FastFluxError`` when the file is missing, damaged or another's."""
    read, _ = load_sealed(Path(path), remedy="collect and save them again")
    tensors = {name: tensor.to(device) for name, tensor in read.items()}
    try:
        statistics: Statistics = {}
        for name in tensors:
            prefix, _, field = name.rpartition("/")
            if field != "count":
                continue
            block, stream = prefix.split("/")
            moments = {field.name: tensors[f"{prefix}/{field.name}"] for field in fields(LinearStatistics)}
            count = int(moments.pop("count"))
            statistics.setdefault(BlockRef.parse(block), {})[stream] = LinearStatistics(count=count, **moments)
    except (KeyError, ValueError) as error:
        raise FastFluxError(f"Cannot read the statistics in {path} ({error}): collect and save them again.") from error
    return statistics
