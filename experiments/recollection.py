"""What collecting activations costs, against collecting them afresh for every block.

Algorithm 1 of arXiv 2506.10035 collects activations for every block that it replaces, first for the linear layer, then
for the sandwich; taken as it reads, the calibration samples run through the whole model twice for each block.
`fastflux.calibration.recording.BlockStates` keeps what has not changed and stops at the sandwich's end. Here both prune
the same model, in one run; the training is one step, the same in both.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import torch
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bench.profiles.profile import ROOT, load_profile
from bench.profiles.variants import paper_variants, require_current_rankings
from bench.progress import console, track
from bench.records.environment import describe_environment
from bench.records.results import JSON
from bench.run.base_model import BaseModel
from bench.run.folders import RUNS
from fastflux.calibration.activations import ActivationStore, KeptStreams, Streams, require_bounds
from fastflux.calibration.block_runs import on_device
from fastflux.calibration.recording import BlockStates, RecordedInputs, record_inputs
from fastflux.calibration.statistics import Calibration
from fastflux.command_line import run
from fastflux.errors import FastFluxError
from fastflux.files import write_text
from fastflux.methods.registry import amount
from fastflux.methods.sandwich_training import SandwichTrainingConfig, require_spans
from fastflux.models.architecture import IMAGE_STREAM, TEXT_STREAM, architecture_of
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef
from fastflux.pruning import prune_

#: The paper's number of blocks at 20% and of images, with fastflux's own way of keeping activations.
BLOCKS, SAMPLES, KEEP = 11, 512, 4
ACTIVATIONS: Literal["ram"] = "ram"
RECOLLECTION = ROOT / "reports" / "data" / "recollection"

Observe = Callable[[BlockRef, Streams, Streams], None]


class WholeForwards(BlockStates):
    """Keeps nothing: all that is asked for is caught in a forward of the whole model, from its input to its end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._places.clear()

    def before(self, block: BlockRef) -> KeptStreams:
        """Streams before ``block``."""
        return self._collect((block,), lambda entering, _leaving: entering)

    def through(
        self,
        streams: object,  # noqa: ARG002  # the whole model runs, whatever is there already
        blocks: Sequence[BlockRef],
        observe: Observe = lambda _block, _before, _after: None,
    ) -> KeptStreams:
        """Streams behind the last of ``blocks``; ``observe`` sees each of them."""
        return self._collect(blocks, lambda _entering, leaving: leaving, observe)

    def _collect(
        self,
        blocks: Sequence[BlockRef],
        wanted: Callable[[Streams, Streams], Streams],
        observe: Observe = lambda _block, _before, _after: None,
    ) -> KeptStreams:
        began = monotonic()
        out = self.store.keep(self._forwards(blocks, wanted, observe))
        self.seconds += monotonic() - began
        return out

    def _forwards(
        self, blocks: Sequence[BlockRef], wanted: Callable[[Streams, Streams], Streams], observe: Observe
    ) -> Iterator[Streams]:
        caught: list[Streams] = []

        def hook(block: BlockRef) -> Callable[..., None]:
            def see(_module: nn.Module, _args: object, kwargs: dict[str, Tensor], output: Streams) -> None:
                entering = (kwargs[IMAGE_STREAM], kwargs[TEXT_STREAM])
                leaving = (output[1], entering[1] if output[0] is None else output[0])  # SD3's last block gives no text
                observe(block, entering, leaving)
                if block == blocks[-1]:
                    image, text = wanted(entering, leaving)
                    caught.append((image.cpu(), text.cpu()))

            return see

        for arguments in self.inputs.batches(self.batch_size):
            handles = [
                get_block(self.transformer, block).register_forward_hook(hook(block), with_kwargs=True)
                for block in blocks
            ]
            try:
                with torch.no_grad():
                    self.transformer(**on_device(arguments, self.transformer))
            finally:
                for handle in handles:
                    handle.remove()
            image, text = caught.pop()
            self.block_forwards += len(self.blocks) * len(image)
            yield image, text


@dataclass
class _Collection(Calibration):
    """Calibrates on inputs recorded before, by one way of collecting, and remembers what that took."""

    recorded: RecordedInputs | None = None
    way: type[BlockStates] = BlockStates
    made: list[BlockStates] = field(default_factory=list)

    def inputs(self, transformer: nn.Module, samples: int, seed: int) -> RecordedInputs:
        """What was recorded."""
        return super().inputs(transformer, samples, seed) if self.recorded is None else self.recorded

    def block_states(self, transformer: nn.Module, inputs: RecordedInputs, store: ActivationStore) -> BlockStates:
        """The way's own."""
        self.made.append(self.way(transformer, inputs, self.at_once(transformer, inputs), self.keep, store))
        return self.made[-1]


def recollection(
    *,
    profile: str = "shapes",
    blocks: int = BLOCKS,
    samples: int = SAMPLES,
    keep: int = KEEP,
    activations: Literal["ram", "disk"] = ACTIVATIONS,
    accept: bool = False,
    device: str = "cpu",
    out: Path = RUNS,
) -> None:
    """Tell what collecting activations costs, against collecting them afresh for every block.

    Prune the first blocks of the profile's order twice in one run, with one training step each: as fastflux does, which
    keeps what has not changed, and as Algorithm 1 reads, which runs the whole model twice for every block. Both must
    give the same weights. The figures go to runs/<profile>/recollection.json.

    Args:
        profile: name of a profile
        blocks: blocks to replace
        samples: samples to calibrate on
        keep: places that fastflux keeps
        activations: where it keeps them
        accept: copy the figures to reports/data/recollection/
        device: torch device
        out: folder of all runs

    Raises:
        FastFluxError: an unknown profile or settings that cannot be meant, before the long work.
    """
    for name, value in (("blocks", blocks), ("samples", samples)):
        if value < 1:
            raise FastFluxError(f"--{name} is {value}, but it must be at least 1")
    require_bounds(activations, keep)
    if accept and (blocks, samples, keep, activations) != (BLOCKS, SAMPLES, KEEP, ACTIVATIONS):
        raise FastFluxError("--accept keeps the whole comparison only: leave the other settings at their defaults")
    settings = load_profile(profile)
    configs = (variant.config for variant in paper_variants(settings))
    config = next((config for config in configs if isinstance(config, SandwichTrainingConfig)), None)
    if config is None:
        raise FastFluxError(f"the profile {profile} has no variant with Sandwich Training to collect for")
    config = replace(config, ratio=None, blocks=blocks, samples=samples, steps=1)
    folder = out / settings.name
    base = BaseModel(settings, folder, device=device)
    require_current_rankings(settings, base.revision)

    def drive_of(transformer: nn.Module) -> Callable[[], None]:
        base.pipeline.transformer = transformer
        return base.drive

    found = compare(
        base.dense, drive_of, config, batch_size=settings.calibration.batch, keep=keep, activations=activations
    )
    path = folder / "recollection.json"
    record: dict[str, JSON] = {
        "profile": settings.name,
        "base_model": settings.title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": describe_environment(device),
        "inputs": dict(base.calibration_inputs),
        **found,
    }
    write_text(path, json.dumps(record, indent=1) + "\n")
    _show(found)
    if accept:
        RECOLLECTION.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, RECOLLECTION / f"{settings.name}.json")
        console.print(f"accepted: {(RECOLLECTION / f'{settings.name}.json').relative_to(ROOT)}")


def compare(
    load: Callable[[], nn.Module],
    drive_of: Callable[[nn.Module], Callable[[], None]],
    config: SandwichTrainingConfig,
    *,
    batch_size: int,
    keep: int,
    activations: str = "ram",
) -> dict[str, JSON]:
    """Prune `load()` twice, by both ways of collecting, and tell what each took.

    "block_forwards" counts samples times blocks run to collect, "full_forwards" the same in forwards of the whole
    model, "activation_bytes" what was held at once; "seconds" is the collecting alone, "pruning_seconds" all of it.
    "ratio" is the naive way's figure over ours, "largest_difference" that between any two weights.
    """
    dense = load()
    chain, blocks = architecture_of(dense).chain(dense), architecture_of(dense).blocks(dense)
    count = amount(dense, config.ratio, config.blocks)
    require_spans(config, count=count, blocks=blocks)
    console.print(f"record {config.samples} samples")
    inputs = record_inputs(dense, drive_of(dense), samples=config.samples, seed=config.seed)
    figures: dict[str, dict[str, Any]] = {}
    weights: list[dict[str, Tensor]] = []
    for name, way in (("ours", BlockStates), ("naive", WholeForwards)):
        transformer = load()
        ticks = track(range(count), name, total=count)
        next(ticks, None)
        calibration = _Collection(
            batch_size=batch_size,
            advance=lambda _done, _total, ticks=ticks: next(ticks, None),  # type: ignore[misc]  # mypy and defaults
            activations=activations,
            keep=keep,
            recorded=inputs,
            way=way,
        )
        plan = prune_(transformer, config, calibration)
        forwards = sum(states.block_forwards for states in calibration.made)
        figures[name] = {
            "block_forwards": forwards,
            "full_forwards": forwards / len(chain),
            "activation_bytes": calibration.cost.activation_bytes,
            "seconds": sum(states.seconds for states in calibration.made),
            "pruning_seconds": calibration.cost.seconds,
        }
        weights.append(transformer.state_dict())
    ours, naive = figures["ours"], figures["naive"]
    settings: dict[str, JSON] = {
        "samples": config.samples,
        "layers": config.layers,
        "batch_size": batch_size,
        "keep": keep,
        "activations": activations,
        "blocks": [str(replacement.block) for replacement in plan.replacements],
    }
    return {
        "settings": settings,
        **figures,
        "ratio": {name: naive[name] / ours[name] for name in ours},
        "largest_difference": _largest_difference(*weights),
    }


def _largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """0 only where every bit is the same."""
    if first.keys() != second.keys():
        raise FastFluxError("the two ways of collecting gave models of different parts")
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def _show(found: dict[str, Any]) -> None:
    table = Table("", "ours", "naive", "naive / ours", box=None)
    for name, label, spec in (
        ("block_forwards", "blocks run x samples", ",.0f"),
        ("full_forwards", "the same in whole forwards", ",.0f"),
        ("activation_bytes", "bytes held at once", ",.0f"),
        ("seconds", "seconds of collecting", ",.1f"),
        ("pruning_seconds", "seconds in all", ",.1f"),
    ):
        figures = (format(found[way][name], spec) for way in ("ours", "naive"))
        table.add_row(label, *figures, f"{found['ratio'][name]:.2f}")
    Console(soft_wrap=True).print(table)
    difference = found["largest_difference"]
    console.print(
        "both ways gave the same weights, bit for bit"
        if difference == 0
        else f"the two ways' weights differ by at most {difference:.3g}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    app = App(name="python -m experiments.recollection", help_format="plaintext", version_flags=[],
              default_parameter=Parameter(negative=()))  # fmt: skip
    app.default(recollection)
    return run(app, arguments)


if __name__ == "__main__":
    sys.exit(main())
