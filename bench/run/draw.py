"""The second stage: every variant's images, and a few without one block each, as the paper's Figure 10 shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace
from torch import nn

from bench.profiles.variants import Variant
from bench.records.results import JSON
from bench.run.evaluation import Evaluation
from bench.run.graph import parts_of
from bench.run.prune import transformer
from bench.run.units import Results, Unit
from bench.samples.generate import IMAGES, MANIFEST, forget_pictures, generate, jobs_of
from bench.samples.prompts import limited, prompts_hash
from fastflux.models.surgery import get_block, replace_block_
from fastflux.plan import BlockRef, Replacement

STAGE = "draw"
#: Folder below a run's; `reports.figures.gallery` looks for it there.
SINGLE_REMOVALS = "single_removals"
BLOCKS = 4
PROMPTS_OF_A_KIND = 2


def unit(evaluation: Evaluation, variant: Variant) -> Unit:
    """The drawing of a variant."""
    make = partial(_draw, evaluation, variant)
    return Unit({variant.id: _inputs(evaluation, variant)}, make, files_of(evaluation.place(variant)))


def _inputs(evaluation: Evaluation, variant: Variant) -> dict[str, JSON]:
    return evaluation.sampling_record(variant) | {
        "revision": evaluation.base(variant.base).revision,
        "pruning": evaluation.pruning_inputs(variant),
    }


def files_of(place: Path) -> tuple[Path, ...]:
    """What drawing leaves in a folder."""
    return place / IMAGES, place / MANIFEST


def draw_part(evaluation: Evaluation, variant: Variant, part: int) -> None:
    """Draw the pictures of one of `parts_of`, numbered from 1; the unit of the variant then finds them there."""
    pictures = len(jobs_of(evaluation.prompts, evaluation.sampling))
    each = -(-pictures // parts_of(pictures))
    _draw(evaluation, variant, range((part - 1) * each, part * each))


def _draw(evaluation: Evaluation, variant: Variant, part: range | None = None) -> Results:
    base, place = evaluation.base(variant.base), evaluation.place(variant)

    def load() -> Any:
        base.pipeline.transformer = transformer(evaluation, variant)
        return base.pipeline

    inputs = _inputs(evaluation, variant)
    generate(_Late(load), evaluation.prompts, base.profile.sampling, place, inputs, part=part)
    return {}


class _Late:
    """A pipeline that is loaded for the first picture to draw, and never where all are there."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = cache(load)

    def __call__(self, **settings: Any) -> Any:
        return self._load()(**settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._load(), name)


# -- without single blocks


@contextmanager
def without(transformer: nn.Module, block: BlockRef) -> Iterator[None]:
    """The transformer without one block, which is put back at the end."""
    kept = get_block(transformer, block)
    replace_block_(transformer, Replacement(block, "removed"))
    try:
        yield
    finally:
        transformer.get_submodule(block.stack)[block.index] = kept  # type: ignore[operator]  # a ModuleList


def removed_blocks(order: str) -> tuple[str, ...]:
    """The first and the last `BLOCKS` blocks of an order of all, least important first."""
    blocks = order.split(",")
    return tuple(dict.fromkeys([*blocks[:BLOCKS], *blocks[-BLOCKS:]]))


def unit_without(evaluation: Evaluation, block: str) -> Unit:
    """The drawing without a block: two prompts of each style and task.

    From the seeds of their first samples in the run, so that the images stand beside the dense model's.
    """
    sampling = replace(evaluation.sampling, samples=dict.fromkeys(evaluation.sampling.samples, 1))
    prompts = limited(evaluation.prompts, PROMPTS_OF_A_KIND)
    inputs: dict[str, JSON] = {
        "revision": evaluation.main.revision,
        "components": evaluation.main.components_hash,
        "prompts": prompts_hash(prompts),
        "sampling": asdict(sampling),
        "without": block,
    }
    place = evaluation.folder / SINGLE_REMOVALS / block

    def make() -> Results:
        base = evaluation.main
        base.pipeline.transformer = base.dense().eval()
        with without(base.pipeline.transformer, BlockRef.parse(block)):
            generate(base.pipeline, prompts, sampling, place, inputs)
        return {}

    return Unit({block: inputs}, make, files_of(place))


def forget(evaluation: Evaluation) -> None:
    """Delete all pictures' manifests, so that they are drawn anew."""
    for place in (*map(evaluation.place, evaluation.variants), *(evaluation.folder / SINGLE_REMOVALS).glob("*")):
        forget_pictures(place)
