"""What collecting activations costs, against collecting them afresh for every block.

Algorithm 1 of arXiv 2506.10035 collects activations for every block that it replaces, first for the linear layer, then
for the sandwich; taken as it reads, the calibration samples run through the whole model twice for each block.
`fastflux.calibration.recording.BlockStates` keeps what has not changed and stops at the sandwich's end. Here both prune
the same model, in one run; the training is one step, the same in both.

`python -m experiments.recollection [PROFILE]` prints the record that reports/data/recollection/ keeps.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from bench.profiles.profile import load_profile
from bench.profiles.variants import paper_variants, require_current_rankings
from bench.records.environment import describe_environment
from bench.records.results import JSON
from bench.run.base_model import BaseModel
from bench.run.folders import RUNS
from fastflux.calibration.activations import ActivationStore, KeptStreams, Streams
from fastflux.calibration.block_runs import on_device
from fastflux.calibration.recording import BlockStates, RecordedInputs, record_inputs
from fastflux.calibration.statistics import Calibration
from fastflux.errors import FastFluxError
from fastflux.methods.registry import amount
from fastflux.methods.sandwich_training import SandwichTrainingConfig, require_spans
from fastflux.models.architecture import IMAGE_STREAM, TEXT_STREAM, architecture_of
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef
from fastflux.pruning import prune_

#: The paper's number of blocks at 20% and of images, and the places that fastflux keeps activations at.
BLOCKS, SAMPLES, KEEP = 11, 512, 4

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
    """Calibrates by one way of collecting, and remembers what that took."""

    way: type[BlockStates] = BlockStates
    made: list[BlockStates] = field(default_factory=list)

    def block_states(self, transformer: nn.Module, inputs: RecordedInputs, store: ActivationStore) -> BlockStates:
        """The way's own."""
        self.made.append(self.way(transformer, inputs, self.at_once(transformer, inputs), self.keep, store))
        return self.made[-1]


def recollection(profile: str = "shapes", *, blocks: int = BLOCKS, samples: int = SAMPLES) -> dict[str, JSON]:
    """What collecting activations costs, against collecting them afresh for every block.

    Prunes the first blocks of the profile's order twice in one run, with one training step each: as fastflux does, and
    as Algorithm 1 reads.

    Raises:
        FastFluxError: an unknown profile, or one without Sandwich Training.
    """
    settings = load_profile(profile)
    configs = (variant.config for variant in paper_variants(settings))
    config = next((config for config in configs if isinstance(config, SandwichTrainingConfig)), None)
    if config is None:
        raise FastFluxError(f"the profile {profile} has no variant with Sandwich Training to collect for")
    config = replace(config, ratio=None, blocks=blocks, samples=samples, steps=1)
    base = BaseModel(settings, RUNS / settings.name, device="cpu")
    require_current_rankings(settings, base.revision)

    def drive_of(transformer: nn.Module) -> Callable[[], None]:
        base.pipeline.transformer = transformer
        return base.drive

    return {
        "profile": settings.name,
        "base_model": settings.title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": describe_environment(),
        "inputs": dict(base.calibration_inputs),
        **compare(base.dense, drive_of, config, batch_size=settings.calibration.batch, keep=KEEP),
    }


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
    inputs = record_inputs(dense, drive_of(dense), samples=config.samples, seed=config.seed)
    figures: dict[str, dict[str, Any]] = {}
    weights: list[dict[str, Tensor]] = []
    for name, way in (("ours", BlockStates), ("naive", WholeForwards)):
        transformer = load()
        calibration = _Collection(
            batch_size=batch_size, activations=activations, keep=keep, recorded_inputs=inputs, way=way
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


if __name__ == "__main__":
    sys.stdout.write(json.dumps(recollection(*sys.argv[1:]), indent=1) + "\n")
