"""A few images without one block each, of those that matter most and least: what the paper's Figure 10 shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from bench.records.results import JSON
from bench.run.evaluation import Evaluation
from bench.samples.generate import generate, is_done
from bench.samples.prompts import limited, prompts_hash
from fastflux.models.surgery import get_block, replace_block_
from fastflux.plan import BlockRef, Replacement

#: Folder below a run's; `reports.figures.gallery_files` looks for it there.
SINGLE_REMOVALS = "single_removals"
BLOCKS = 4
_PROMPTS_OF_A_KIND = 2


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
    folder = evaluation.folder / SINGLE_REMOVALS
    sampling = replace(evaluation.sampling, samples=dict.fromkeys(evaluation.sampling.samples, 1))
    prompts = limited(evaluation.prompts, _PROMPTS_OF_A_KIND)
    base = evaluation.main

    def inputs(block: BlockRef) -> Mapping[str, JSON]:
        return {
            "revision": base.revision,
            "components": base.components_hash,
            "prompts": prompts_hash(prompts),
            "sampling": {**asdict(sampling), "samples": dict(sampling.samples)},
            "without": str(block),
        }

    blocks = [BlockRef.parse(name) for name in order.split(",")]
    chosen = dict.fromkeys([*blocks[:BLOCKS], *blocks[-BLOCKS:]])
    left = [block for block in chosen if not is_done(prompts, sampling, folder / str(block), inputs(block))]
    if left:
        with evaluation.timed("generate"):
            transformer = base.dense().eval()
            base.pipeline.transformer = transformer
            for block in left:
                with without(transformer, block):
                    generate(base.pipeline, prompts, sampling, folder / str(block), inputs(block))
    return folder
