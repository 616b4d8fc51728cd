"""FastFLUX whole: linear replacement with Sandwich Training after each block (Algorithm 1).

Pruning is progressive: the blocks are replaced one after another, least important first, so a run to the highest ratio
has every lower one on its way. What each block changed is kept in a file; an interrupted run goes on from there, a
lower ratio reads the first files only, and a higher one adds to them.
"""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from torch import nn

from fastflux.calibration.importance import MEASURED_RANKINGS, fit_blocks, rank_blocks
from fastflux.calibration.recording import RecordedInputs
from fastflux.calibration.statistics import Calibration, collect_recorded
from fastflux.methods.registry import Pruned, amount, register_pruning_method
from fastflux.methods.sandwich_training.config import SandwichTrainingConfig
from fastflux.methods.sandwich_training.progress import Progress, progress_key
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef, Replacement


@register_pruning_method(SandwichTrainingConfig)
def replace_and_train_(transformer: nn.Module, config: SandwichTrainingConfig, calibration: Calibration) -> Pruned:
    """Replace and repair block after block; files of earlier runs in the calibration's folder are read, not redone."""
    config.require_fits(transformer)
    count = amount(transformer, config.ratio, config.blocks)
    further = count if config.reuse_from is None else amount(transformer, config.reuse_from, None)
    inputs = calibration.inputs(transformer, config.samples, config.seed)
    ranked = _ranked(transformer, config, calibration, inputs)
    order = ranked[:further]
    with TemporaryDirectory() as temporary, calibration.store() as store:
        folder = (calibration.folder or Path(temporary)) / progress_key(
            transformer, config, calibration, ranked, inputs
        )
        folder.mkdir(parents=True, exist_ok=True)
        progress = Progress(transformer, config, calibration, inputs, folder, store)
        progress.run(order, range(count))
        # Blocks that only the higher ratio replaces, as they are at this one.
        spared = {block: copy.deepcopy(get_block(transformer, block)) for block in order[count:]}
        progress.run(order, range(count, further))
    for block, module in spared.items():
        stack = cast("nn.ModuleList", transformer.get_submodule(block.stack))
        stack[block.index] = module
    return Pruned(tuple(Replacement(block, config.replacement) for block in order[:count]), cost=progress.cost)


def _ranked(
    transformer: nn.Module, config: SandwichTrainingConfig, calibration: Calibration, inputs: RecordedInputs
) -> tuple[BlockRef, ...]:
    """All blocks, least important first; statistics and fits, 14 GB of FLUX.1-dev's, are let go of."""
    fits = None
    if config.ranking in MEASURED_RANKINGS:
        statistics = calibration.collected or collect_recorded(
            transformer, inputs, calibration.at_once(transformer, inputs)
        )
        fits = fit_blocks(transformer, statistics, ridge=config.ridge)
    return rank_blocks(config.ranking, transformer, fits, seed=config.seed)
