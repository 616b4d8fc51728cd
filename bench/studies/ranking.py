"""`python -m bench rank`: the paper's importance of every block, by drawing without each and scoring what comes.

Section 3.2 of arXiv 2506.10035. Beside it the rankings that one calibration pass gives, how far they agree, and what
each costs. The order it writes is what the profile's pruning methods follow (`bench.profiles.variants`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from msgspec import structs
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch import nn

from bench.metrics.base import Metric
from bench.profiles import RANKINGS
from bench.profiles.profile import Profile, load_profile, require_disk
from bench.progress import console, track
from bench.records.results import JSON, digest
from bench.run.draw import files_of, without
from bench.run.evaluation import Evaluation
from bench.run.folders import RUNS, locked
from bench.run.units import Results, Unit
from bench.samples.generate import MANIFEST, generate
from bench.samples.image_set import ImageSet
from bench.samples.prompts import prompts_hash
from bench.settings import changed
from fastflux.calibration.importance import MEASURED_RANKINGS, BlockFit, fit_blocks, importance_scores, unimportance
from fastflux.calibration.statistics import collect_statistics
from fastflux.errors import FastFluxError
from fastflux.files import write_text
from fastflux.models.architecture import architecture_of
from fastflux.plan import BlockRef

#: Images of each calibration prompt that the importance is measured on unasked.
RANK_SAMPLES = 2
STAGE, DENSE = "removal", "dense"
_VALUES = {"fid": "fid", "clip_score": "mean"}
"""The metrics that the importance is made of, and their values."""


@dataclass(frozen=True)
class Removal:
    """What the images lose without a block: their FID, CLIP score, and the seconds it took to know."""

    fid: float
    clip_score: float
    seconds: float


def rank(
    *,
    profile_name: str,
    samples: int,
    force: bool = False,
    accept: bool = False,
    device: str | None = None,
    changes: Mapping[str, str] | None = None,
    runs: Path = RUNS,
) -> Path:
    """Rank the profile's model, print the order, and return the file with it; see `python -m bench rank --help`.

    `samples` images of each calibration prompt are drawn without each block; FID is against the dense model's images
    of the same prompts and noise, so no outside data is needed. A run that was interrupted goes on at its block.
    Raises FastFluxError for an unknown profile, faulty input or too little disk, before the long work.
    """
    if samples < 1:
        raise FastFluxError(f"--samples is {samples}: it is the number of images of each prompt, at least 1")
    profile = load_profile(profile_name, changes)
    metrics = {name: profile.ranking.get(name, profile.metrics.get(name)) for name in _VALUES}
    if lacking := [name for name, settings in metrics.items() if settings is None]:
        raise FastFluxError(
            f"The profile {profile.name} has no {lacking[0]}, which the importance is made of: give it a table "
            f"[ranking.{lacking[0]}]."
        )
    drawn = {"samples": {"calibration": samples}, "seed": profile.calibration.seed}
    profile = replace(profile, metrics=metrics, sampling=changed(profile.sampling, "--samples, sampling", **drawn))
    folder = runs / profile.name / "ranking"
    require_disk(folder, profile.disk_mib)
    base = Evaluation(profile, folder.parent, (), device=device or profile.device).main
    inputs: dict[str, JSON] = {
        "revision": base.revision,
        "components": base.components_hash,
        "prompts": prompts_hash(base.calibration_prompts),
        "sampling": structs.asdict(profile.sampling),
        "scorers": profile.scorers_hash(),
    }
    # One folder for each set of inputs, so that going back to earlier ones finds what was measured.
    folder = folder / digest(inputs)
    evaluation = Evaluation(profile, folder, (), device=base.device, models=folder.parent)
    with locked(folder):
        if force:
            evaluation.runner.store.forget(STAGE, lambda _: True)
            shutil.rmtree(folder / DENSE, ignore_errors=True)
        removals, cost = _remove_each(evaluation, inputs)
        fits, seconds = _fit(evaluation, removals)
    ranking = _ranking(removals, fits)
    one_pass: dict[str, JSON] = {
        "forwards": len(base.calibration_prompts) * profile.calibration.steps,
        "seconds": round(seconds, 1),
    }
    costs: dict[str, JSON] = {"importance": cost, "one calibration pass": one_pass}
    path = folder / "ranking.json"
    data = {
        "ranking": "importance",
        "profile": profile.name,
        "base_model": profile.title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": evaluation.environment,
        "inputs": inputs,
        "scorers": {name: metric.info.reference for name, metric in evaluation.scorers.items()},
        "cost": costs,
        **ranking,
    }
    write_text(path, json.dumps(data, indent=1) + "\n")
    _show(ranking, costs)
    if accept:
        target = committed_ranking(profile)
        write_text(target, path.read_text(encoding="utf-8"))
        console.print(f"accepted: {target.name}; the profile's methods follow it from now on")
    return path


def committed_ranking(profile: Profile) -> Path:
    """Where the repository keeps the profile's ranking."""
    return RANKINGS / f"{profile.name}.json"


def _remove_each(evaluation: Evaluation, inputs: Mapping[str, JSON]) -> tuple[dict[BlockRef, Removal], dict[str, JSON]]:
    """Score the images without each block in turn; one model in memory, of which one block at a time is missing."""
    transformer = evaluation.main.dense().eval()
    pipeline, sampling = evaluation.main.pipeline, evaluation.sampling
    pipeline.transformer = transformer
    runner = evaluation.runner

    def draw(place: Path) -> ImageSet:
        return ImageSet.read(generate(pipeline, evaluation.main.calibration_prompts, sampling, place, inputs))

    place = evaluation.folder / DENSE
    drawn = runner.settle(STAGE, Unit({DENSE: dict(inputs)}, lambda: (draw(place), {})[1], files_of(place)))
    dense = list(ImageSet.read(place / MANIFEST))
    distance, score = (evaluation.scorers[name] for name in _VALUES)
    metrics = (distance.against(dense), score)
    blocks = architecture_of(transformer).blocks(transformer)
    removals: dict[BlockRef, Removal] = {}
    for block in track(blocks, "rank", total=len(blocks)):
        make = partial(_remove, transformer, block, evaluation.folder / "without", draw, metrics)
        done = runner.settle(STAGE, Unit({str(block): dict(inputs)}, make))
        fid, clip_score = (found.values[_VALUES[found.info.name]] for found in done.results[str(block)])
        removals[block] = Removal(fid, clip_score, done.seconds)
    forwards = len(dense) * sampling.steps * (len(blocks) + 1)
    seconds = drawn.seconds + sum(removal.seconds for removal in removals.values())
    return removals, {"forwards": forwards, "seconds": round(seconds, 1)}


def _remove(
    transformer: nn.Module,
    block: BlockRef,
    place: Path,
    draw: Callable[[Path], ImageSet],
    metrics: Sequence[Metric],
) -> Results:
    """Draw and score without one block, and put it back."""
    shutil.rmtree(place, ignore_errors=True)  # an earlier block's images, or what an interruption left of this one's
    with without(transformer, block):
        images = draw(place)
    found = [metric(images) for metric in metrics]
    if failed := [measurement for measurement in found if measurement.status != "ok"]:
        raise FastFluxError(f"{failed[0].info.name} without {block}: {failed[0].reason}")
    shutil.rmtree(place)
    return {str(block): found}


def _fit(evaluation: Evaluation, blocks: Mapping[BlockRef, Removal]) -> tuple[Mapping[BlockRef, BlockFit], float]:
    """Linear fits of all blocks from a calibration pass, and its seconds."""
    transformer = evaluation.main.dense()
    evaluation.main.pipeline.transformer = transformer
    began = monotonic()
    fits = fit_blocks(transformer, collect_statistics(transformer, evaluation.main.drive, blocks=blocks))
    return fits, monotonic() - began


def _ranking(removals: Mapping[BlockRef, Removal], fits: Mapping[BlockRef, BlockFit]) -> dict[str, JSON]:
    """All blocks, least important first, with every score; and Spearman's correlation of each order with that one."""
    scores = importance_scores(
        {block: removal.fid for block, removal in removals.items()},
        {block: removal.clip_score for block, removal in removals.items()},
    )
    order = sorted(scores, key=lambda block: scores[block])
    entries: list[JSON] = [
        {
            "block": str(block),
            "importance": scores[block],
            **asdict(removals[block]),
            **{name: getattr(fits[block], name) for name in MEASURED_RANKINGS},
        }
        for block in order
    ]
    agreement: dict[str, JSON] = {
        name: _spearman(order, lambda block, name=name: -unimportance(name, fits[block]), scores)  # type: ignore[misc]
        for name in MEASURED_RANKINGS
    }
    agreement["start2end"] = _spearman(order, list(removals).index, scores)
    return {"blocks": entries, "spearman": agreement}


def _spearman(
    blocks: Sequence[BlockRef], other: Callable[[BlockRef], float], scores: Mapping[BlockRef, float]
) -> float:
    return float(spearmanr([other(block) for block in blocks], [scores[block] for block in blocks]).statistic)


def _show(ranking: Mapping[str, Any], cost: Mapping[str, Any]) -> None:
    measured = (name.replace("_", " ") for name in MEASURED_RANKINGS)
    table = Table("#", "block", "importance", "FID", "CLIP score", *measured, box=None)
    for place, entry in enumerate(ranking["blocks"], 1):
        figures = (entry[key] for key in ("importance", "fid", "clip_score", *MEASURED_RANKINGS))
        table.add_row(str(place), entry["block"], *(f"{figure:.4g}" for figure in figures))
    out = Console(width=max(Console().width, 140), soft_wrap=True)  # whole rows, wherever they are written
    out.print(table)
    agreement = Table("order", "Spearman's correlation with the importance", box=None)
    for name, value in ranking["spearman"].items():
        agreement.add_row(name, f"{value:.3f}")
    out.print(agreement)
    for name, spent in cost.items():
        console.print(f"{name}: {spent['forwards']:,} forwards of one image, {spent['seconds']:.0f} s")
