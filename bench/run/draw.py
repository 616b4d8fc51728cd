"""The second stage: every variant's images, and a few without one block each, as the paper's Figure 10 shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from msgspec.structs import asdict, replace
from torch import nn

from bench.profiles.variants import Variant
from bench.progress import Ticks
from bench.records.results import JSON
from bench.run.evaluation import Evaluation
from bench.run.prune import transformer
from bench.run.units import Results, Unit
from bench.samples.generate import IMAGES, MANIFEST, generate, jobs_of
from bench.samples.prompts import Prompt, limited, prompts_hash
from bench.samples.sampling import Sampling
from fastflux.models.surgery import get_block, replace_block_
from fastflux.plan import BlockRef, Replacement

STAGE = "draw"
#: Folder below a run's; `reports.figures.gallery_files` looks for it there.
SINGLE_REMOVALS = "single_removals"
BLOCKS = 4
_PROMPTS_OF_A_KIND = 2


def draw(evaluation: Evaluation) -> None:
    """Draw the images of every variant."""
    with evaluation.timed("generate"):
        for variant in evaluation.variants:
            evaluation.runner.settle(STAGE, unit(evaluation, variant))


def unit(evaluation: Evaluation, variant: Variant) -> Unit:
    """The drawing of a variant."""
    inputs = evaluation.sampling_record(variant) | {
        "revision": evaluation.base(variant.base).revision,
        "pruning": evaluation.pruning_inputs(variant),
    }
    place = evaluation.place(variant)
    return Unit({variant.id: inputs}, partial(_draw, evaluation, variant, inputs), files_of(place))


def files_of(place: Path) -> tuple[Path, ...]:
    """What drawing leaves in a folder."""
    return place / IMAGES, place / MANIFEST


def _draw(evaluation: Evaluation, variant: Variant, inputs: Mapping[str, JSON]) -> Results:
    base, place = evaluation.base(variant.base), evaluation.place(variant)
    if evaluation.force:
        (place / MANIFEST).unlink(missing_ok=True)
    base.pipeline.transformer = transformer(evaluation, variant)
    ticks = Ticks(len(jobs_of(evaluation.prompts, evaluation.sampling)), f"generate {variant.label}")
    generate(base.pipeline, evaluation.prompts, base.profile.sampling, place, inputs, ticks.advance)
    ticks.close()
    return {}


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


def count_single_removals(evaluation: Evaluation) -> int:
    """How many images `draw_single_removals` draws."""
    return 2 * BLOCKS * len(limited(evaluation.prompts, _PROMPTS_OF_A_KIND))


def draw_single_removals(evaluation: Evaluation, order: str) -> Path:
    """Draw without each of the first and the last `BLOCKS` blocks of `order`, skipping what is drawn already.

    `order` names all blocks, least important first (`fastflux.io.ranking_files.read_ranking`). Two prompts of
    each style and task, from the seeds of their first samples in the run, so that the images stand beside the dense
    model's. Returns the folder with <block>/manifest.jsonl.
    """
    folder, base = evaluation.folder / SINGLE_REMOVALS, evaluation.main
    sampling = replace(evaluation.sampling, samples=dict.fromkeys(evaluation.sampling.samples, 1))
    prompts = limited(evaluation.prompts, _PROMPTS_OF_A_KIND)
    shared: dict[str, JSON] = {
        "revision": base.revision,
        "components": base.components_hash,
        "prompts": prompts_hash(prompts),
        "sampling": asdict(sampling),
    }
    blocks = [BlockRef.parse(name) for name in order.split(",")]
    dense: list[nn.Module] = []
    with evaluation.timed("generate"):
        for block in dict.fromkeys([*blocks[:BLOCKS], *blocks[-BLOCKS:]]):
            inputs, place = {**shared, "without": str(block)}, folder / str(block)
            make = partial(_draw_without, evaluation, dense, block, prompts, sampling, inputs)
            evaluation.runner.settle(f"{STAGE}_without", Unit({str(block): inputs}, make, files_of(place)))
    return folder


def _draw_without(
    evaluation: Evaluation,
    dense: list[nn.Module],
    block: BlockRef,
    prompts: tuple[Prompt, ...],
    sampling: Sampling,
    inputs: Mapping[str, JSON],
) -> Results:
    if not dense:  # loaded for the first block that is not drawn yet
        dense.append(evaluation.main.dense().eval())
    evaluation.main.pipeline.transformer = dense[0]
    with without(dense[0], block):
        generate(evaluation.main.pipeline, prompts, sampling, evaluation.folder / SINGLE_REMOVALS / str(block), inputs)
    return {}
