"""`python -m bench rank`: the paper's importance of every block, by drawing without each and scoring what comes.

Section 3.2 of arXiv 2506.10035. Beside it the rankings that one calibration pass gives, how far they agree, and what
each costs. The order it writes is what the profile's pruning methods follow (`bench.profiles.variants`).
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import structs
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file
from scipy.stats import spearmanr

from bench.metrics.base import Metric
from bench.profiles import RANKINGS
from bench.profiles.profile import Profile, load_profile, require_disk
from bench.progress import console
from bench.records.results import JSON, digest
from bench.run.base_model import BaseModel
from bench.run.cluster import execute, local_workers
from bench.run.draw import files_of, without
from bench.run.evaluation import Evaluation
from bench.run.folders import RUNS, locked
from bench.run.graph import Node, Schedule
from bench.run.units import Results, Unit
from bench.samples.generate import MANIFEST, generate
from bench.samples.image_set import ImageSet, Pixels
from bench.samples.prompts import prompts_hash
from bench.settings import changed
from fastflux.calibration.importance import MEASURED_RANKINGS, BlockFit, fit_blocks, importance_scores, unimportance
from fastflux.calibration.statistics import collect_statistics
from fastflux.errors import FastFluxError
from fastflux.files import whole_file, write_text
from fastflux.models.architecture import architecture_of
from fastflux.plan import BlockRef

#: Images of each calibration prompt that the importance is measured on unasked.
RANK_SAMPLES = 2
STAGE, DENSE = "removal", "dense"
_VALUES = {"fid": "fid", "clip_score": "mean"}
"""The metrics that the importance is made of, and their values."""
FEATURES = "features"
"""Folder of what FID sees of the images without each block."""
RESAMPLES, HALVINGS = 100, 20
TIMES, SIMULATED = (1, 4, 16, 64), 200
"""How many times the images a repeat of the order is simulated with, and how often."""
FIRST = (5, 11)
"""How many of the least important blocks the order's stability is told of: those that 10 and 20% replace."""
_Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Removal:
    """What the images lose without a block: their FID, CLIP score, and the seconds it took to know."""

    fid: float
    clip_score: float
    seconds: float


@dataclass(frozen=True)
class Parts:
    """Of each image without a block, in order: what FID sees of it (images, dim), and its CLIP score."""

    features: _Array
    scores: _Array


def rank(
    *,
    profile_name: str,
    samples: int,
    force: bool = False,
    accept: bool = False,
    workers: int | None = None,
    address: str | None = None,
    device: str | None = None,
    changes: Mapping[str, str] | None = None,
    runs: Path = RUNS,
) -> Path:
    """Rank the profile's model, print the order, and return the file with it; see `python -m bench rank --help`.

    `samples` images of each calibration prompt are drawn without each block; FID is against the dense model's images
    of the same prompts and noise, so no outside data is needed. A run that was interrupted goes on at its block, and
    `workers` share the blocks as in `bench.run.reproduce`.
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
    base = Evaluation(profile, folder.parent, (), device=profile.device_for(device)).main
    inputs = _inputs(base, profile)
    # One folder for each set of inputs, so that going back to earlier ones finds what was measured.
    folder = folder / digest(inputs)
    evaluation = Evaluation(profile, folder, (), device=base.device, models=folder.parent)
    with locked(folder):
        if force:
            evaluation.runner.store.forget(STAGE, lambda _: True)
            shutil.rmtree(folder / DENSE, ignore_errors=True)
        removals, parts, cost = _remove_each(evaluation, workers, address)
        fits, seconds = _fit(evaluation, removals)
    errors, halves = noise(parts[DENSE], {block: parts[str(block)] for block in removals}, samples)
    ranking = _ranking(removals, fits, errors) | {"halves": halves}
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


def _inputs(base: BaseModel, profile: Profile) -> dict[str, JSON]:
    return {
        "revision": base.revision,
        "components": base.components_hash,
        "prompts": prompts_hash(base.calibration_prompts),
        "sampling": structs.asdict(profile.sampling),
        "scorers": profile.scorers_hash(),
    }


class Removals:
    """Draws without one block at a time and scores what comes: the settler of a ranking's nodes, named by the block."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.inputs = _inputs(evaluation.main, evaluation.profile)

    def __call__(self, node: Node) -> str:
        """Settle the drawing by the dense model, or without a block."""
        return next(iter(self.evaluation.runner.settle(STAGE, self.unit(node.name)).failures.values()), "")

    @property
    def dense(self) -> ImageSet:
        """What the dense model drew."""
        return ImageSet.read(self.evaluation.folder / DENSE / MANIFEST)

    @cached_property
    def metrics(self) -> tuple[Any, Metric]:
        """FID against the dense model's images, and CLIP score."""
        distance, score = (self.evaluation.scorers[name] for name in _VALUES)
        return distance.against(list(self.dense)), score

    def unit(self, name: str) -> Unit:
        """The drawing and scoring without the block of that name, or by the dense model."""
        if name == DENSE:
            place = self.evaluation.folder / DENSE
            return Unit({DENSE: self.inputs}, lambda: (self._draw(place), {})[1], files_of(place))
        seen = self.evaluation.folder / FEATURES / f"{name}.safetensors"
        return Unit({name: self.inputs}, partial(self._remove, BlockRef.parse(name), seen), (seen,))

    def _draw(self, place: Path) -> ImageSet:
        main = self.evaluation.main
        sampling = self.evaluation.sampling
        return ImageSet.read(generate(main.pipeline, main.calibration_prompts, sampling, place, self.inputs))

    def _remove(self, block: BlockRef, seen: Path) -> Results:
        place = self.evaluation.folder / "without" / str(block)
        shutil.rmtree(place, ignore_errors=True)  # what an interruption left
        with without(self.evaluation.main.pipeline.transformer, block):
            images = self._draw(place)
        found = [metric(images) for metric in self.metrics]
        if failed := [measurement for measurement in found if measurement.status != "ok"]:
            raise FastFluxError(f"{failed[0].info.name} without {block}: {failed[0].reason}")
        with whole_file(seen) as partial_file:
            save_file({"features": _features(self.metrics[0], images)}, partial_file)
        shutil.rmtree(place)
        return {str(block): found}


def _remove_each(
    evaluation: Evaluation, workers: int | None, address: str | None
) -> tuple[dict[BlockRef, Removal], dict[str, Parts], dict[str, JSON]]:
    """Score the images without each block in turn; one model in a worker's memory, which lacks one block at a time."""
    transformer = evaluation.main.outline.transformer
    blocks, made = architecture_of(transformer).blocks(transformer), Removals(evaluation)
    first = Node("removal", DENSE)
    nodes = [first, *(Node("removal", str(block), needs=(first.key,)) for block in blocks)]
    schedule = Schedule([node for node in nodes if evaluation.runner.find(STAGE, made.unit(node.name)) is None])
    if not schedule.ended:
        count = workers if address is not None else local_workers(evaluation, workers)
        execute(evaluation, lambda: schedule, lambda _node, _seconds: None, count, address, Removals)
    for reason in schedule.failures.values():
        raise FastFluxError(reason)
    removals: dict[BlockRef, Removal] = {}
    dense = made.dense
    parts = {DENSE: Parts(_features(evaluation.scorers["fid"], dense), np.zeros(len(dense)))}
    for block in blocks:
        unit = made.unit(str(block))
        done = evaluation.runner.settle(STAGE, unit)
        fid, clip_score = (found.values[_VALUES[found.info.name]] for found in done.results[str(block)])
        removals[block] = Removal(fid, clip_score, done.seconds)
        scores = [score for prompt in done.results[str(block)][1].samples.values() for score in prompt]
        parts[str(block)] = Parts(load_file(*unit.files)["features"], np.array(scores))
    forwards = len(dense) * evaluation.sampling.steps * (len(blocks) + 1)
    drawn = evaluation.runner.settle(STAGE, made.unit(DENSE))
    seconds = drawn.seconds + sum(removal.seconds for removal in removals.values())
    return removals, parts, {"forwards": forwards, "seconds": round(seconds, 1)}


def _features(distance: Any, images: Iterable[Pixels]) -> _Array:
    """What FID sees of images: (images, dim)."""
    return distance.model.raw_image_features(images).double().numpy()  # type: ignore[no-any-return]


def _fit(evaluation: Evaluation, blocks: Mapping[BlockRef, Removal]) -> tuple[Mapping[BlockRef, BlockFit], float]:
    """Linear fits of all blocks from a calibration pass, and its seconds."""
    transformer = evaluation.main.dense()
    evaluation.main.pipeline.transformer = transformer
    began = monotonic()
    fits = fit_blocks(transformer, collect_statistics(transformer, evaluation.main.drive, blocks=blocks))
    return fits, monotonic() - began


def _ranking(
    removals: Mapping[BlockRef, Removal], fits: Mapping[BlockRef, BlockFit], errors: Mapping[BlockRef, float]
) -> dict[str, JSON]:
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
            "importance_error": errors[block],
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


def frechet_distance(one: _Array, other: _Array) -> float:
    """FID's formula on two sets of features (images, dim); arXiv 1706.08500."""
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    roots = np.sqrt(np.clip(np.linalg.eigvals(first @ second).real, 0, None)).sum()
    gap = one.mean(axis=0) - other.mean(axis=0)
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * roots)


def noise(
    dense: Parts, without: Mapping[BlockRef, Parts], samples: int
) -> tuple[dict[BlockRef, float], dict[str, JSON]]:
    """The importance's standard errors, and how alike the orders of random halves of the prompts are.

    Prompts are resampled with all their images, the same ones for all blocks and the dense model. A half has fewer
    images than the whole, so its order repeats less well than the whole's would: `repeats` says how well that would
    with more images, by drawing pairs of orders with the resampled scores' covariance around the scores found. These
    lie apart by their noise too, so more blocks are said to repeat than would. `orders` are those of the first halves.
    """
    rng = np.random.default_rng(0)
    images = np.arange(len(dense.features)).reshape(-1, samples)  # (prompts, samples)

    def scores(prompts: npt.NDArray[np.int64]) -> _Array:
        rows = images[prompts].ravel()
        fid = {block: frechet_distance(dense.features[rows], part.features[rows]) for block, part in without.items()}
        clip = {block: float(part.scores[rows].mean()) for block, part in without.items()}
        return np.array([*importance_scores(fid, clip).values()])

    resampled = [scores(rng.integers(len(images), size=len(images))) for _ in range(RESAMPLES)]
    errors = np.std(resampled, axis=0, ddof=1)
    found, noisy = scores(np.arange(len(images))), np.cov(np.transpose(resampled))
    shuffled = [rng.permutation(len(images)) for _ in range(HALVINGS)]
    pairs = [tuple(scores(half) for half in np.array_split(prompts, 2)) for prompts in shuffled]
    names = [str(block) for block in without]

    def repeat(times: int) -> dict[str, JSON]:
        return {"images": images.size * times} | _shared(rng.multivariate_normal(found, noisy / times, (SIMULATED, 2)))

    halves: dict[str, JSON] = {
        "images": images.size / 2,
        **_shared(pairs),
        "orders": [[names[place] for place in half.argsort()] for half in pairs[0]],
        "repeats": [repeat(times) for times in TIMES],
    }
    return dict(zip(without, errors.tolist(), strict=True)), halves


def _shared(pairs: Sequence[Sequence[_Array]] | _Array) -> dict[str, JSON]:
    """How alike two orders are, as a mean over pairs of scores: Spearman, and the blocks among the first of both."""
    shared: dict[str, JSON] = {"spearman": float(np.mean([spearmanr(*pair).statistic for pair in pairs]))}
    for count in FIRST:
        common = [len(set.intersection(*({*half.argsort()[:count].tolist()} for half in pair))) for pair in pairs]
        shared[f"first_{count}"] = float(np.mean(common))
    return shared


def _spearman(
    blocks: Sequence[BlockRef], other: Callable[[BlockRef], float], scores: Mapping[BlockRef, float]
) -> float:
    return float(spearmanr([other(block) for block in blocks], [scores[block] for block in blocks]).statistic)


def _show(ranking: Mapping[str, Any], cost: Mapping[str, Any]) -> None:
    measured = (name.replace("_", " ") for name in MEASURED_RANKINGS)
    table = Table("#", "block", "importance", "±", "FID", "CLIP score", *measured, box=None)
    for place, entry in enumerate(ranking["blocks"], 1):
        figures = (entry[key] for key in ("importance", "importance_error", "fid", "clip_score", *MEASURED_RANKINGS))
        table.add_row(str(place), entry["block"], *(f"{figure:.4g}" for figure in figures))
    out = Console(width=max(Console().width, 140), soft_wrap=True)  # whole rows, wherever they are written
    out.print(table)
    agreement = Table("order", "Spearman's correlation with the importance", box=None)
    for name, value in ranking["spearman"].items():
        agreement.add_row(name, f"{value:.3f}")
    out.print(agreement)
    halves, firsts = ranking["halves"], " and ".join(f"the first {count}" for count in FIRST)
    stability = Table("images", "two orders share of " + firsts, "Spearman", box=None)
    for told, of in ((" (halves of the prompts)", halves), *(("", of) for of in halves["repeats"])):
        shared = " and ".join(f"{of[f'first_{count}']:.1f}" for count in FIRST)
        stability.add_row(f"{of['images']:g}{told}", shared, f"{of['spearman']:.3f}")
    out.print("±: standard error. How well the order repeats; but for the halves simulated, and rather too well:")
    out.print(stability)
    for name, spent in cost.items():
        console.print(f"{name}: {spent['forwards']:,} forwards of one image, {spent['seconds']:.0f} s")
