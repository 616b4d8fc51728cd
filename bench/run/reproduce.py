"""Measure every variant of a profile: prune, draw, score, time; what comes is records, and run.json says where."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from time import monotonic

import torch
from msgspec.structs import replace
from rich.table import Table

from bench.metrics.catalogue import metric_named
from bench.profiles.profile import Profile, load_profile, require_disk
from bench.profiles.variants import Variant, chosen_variants, ranking_file, require_current_rankings
from bench.progress import console
from bench.records.results import RunRecord, read_records
from bench.records.variant_id import EXTERNAL, VariantId
from bench.run.cluster import execute, local_workers
from bench.run.dry_run import plan_run, show_plan
from bench.run.evaluate import add_seconds, forget, nodes_of, todo, write_records
from bench.run.evaluation import Evaluation
from bench.run.folders import RUNS, locked
from bench.run.graph import FIRST_MEASURED, FIRST_TABLES, Node, Schedule, groups_of
from bench.run.prune import meet_latencies
from bench.samples.prompts import require_limit
from bench.settings import changed
from bench.tables import MAIN, needed_by
from fastflux.errors import FastFluxError
from fastflux.files import write_text

NOTE = "run.json"
#: The records of just this run's variants.
SELECTED = "selected"


@dataclass(frozen=True)
class Finished:
    """What a run left, as run.json in its folder says it; paths are absolute.

    Args:
        device: the kind, "cpu" or "cuda".
        folder: of the whole run: the images of each variant lie in <folder>/<variant>.
        records: folder with the records of just this run's variants.
        ranking: the order of blocks that the profile prunes in, None where it names no file.
        limit, seeds: the options that made the run shorter, None for a whole one.
        worked: whether anything had to be made or measured.
        seconds: by stage.
        left: units that were not done when this was written; then `tables` are those whose rows are all there.
        failures: reasons by unit, of what could not be made; a metric that failed is in its record alone.
    """

    profile: str
    device: str
    folder: Path
    records: Path
    ranking: Path | None
    tables: tuple[str, ...]
    limit: int | None
    seeds: int | None
    worked: bool
    seconds: Mapping[str, float]
    failures: Mapping[str, str]
    left: int

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(asdict(self), indent=1, default=str) + "\n"


def reproduce(
    *,
    profile_name: str,
    tables: Sequence[str] = MAIN,
    variant_names: Sequence[str] | None = None,
    limit: int | None = None,
    seeds: int | None = None,
    force: bool = False,
    ranking: Path | None = None,
    dry_run: bool = False,
    workers: int | None = None,
    address: str | None = None,
    device: str | None = None,
    changes: Mapping[str, str] | None = None,
    runs: Path = RUNS,
    told: Callable[[Finished], object] = lambda _: None,
) -> Finished | None:
    """Run all stages; see `python -m bench reproduce --help`.

    Args:
        ranking: an order of blocks to prune in instead of the one that the profile names.
        workers: processes that share the work, 1 for this one alone; by default one a GPU, or one a core of the CPU.
        address: of a running Ray cluster whose machines do the work.
        told: is given what there is as soon as the first tables' rows are there, before the others are.

    Returns:
        What came; None for a dry run.

    Raises:
        FastFluxError: unknown names, faulty input or too little disk, all before the long work starts.
    """
    began = monotonic()
    require_limit(limit)
    profile = load_profile(profile_name, changes)
    # A machine that only starts the work of others need not have their device.
    device = profile.device_for(device) if address is None else device or profile.device
    if not tables:
        raise FastFluxError("--only names no table: name some, or leave it away for the paper's")
    chosen_variants(profile, needed_by(tables), variant_names)
    profile = _shortened(profile, seeds)
    if ranking is not None:
        profile = with_ranking(profile, ranking)
    # Pruned models, images and times of one kind of device never stand for those of another.
    kind = torch.device(device).type
    # Fewer images need no other models: pruning is the longest part of a quick run.
    models = runs / (profile.name if kind == "cpu" else f"{profile.name}-{kind}")
    whole = limit is None and seeds is None
    folder = models if whole else models.with_name(f"{models.name}-limit{limit}-seeds{seeds}")
    require_disk(folder, profile.disk_mib)
    variants = chosen_variants(profile, needed_by(tables), variant_names)
    evaluation = Evaluation(profile, folder, variants, limit=limit, device=device, models=models)
    if dry_run:
        show_plan(plan_run(evaluation, timed=True), evaluation, workers)
        return None
    require_current_rankings(profile, evaluation.main.revision)
    with locked(models, folder):
        (folder / NOTE).unlink(missing_ok=True)  # it speaks of the run before
        count = workers if address is not None else local_workers(evaluation, workers)
        evaluation.require_inputs(here=count == 1 and address is None)
        early, late = groups_of(variants)

        @cache
        def planned() -> tuple[list[Node], Schedule, bool]:
            """All units, those that are left, and whether any were."""
            nodes = nodes_of(evaluation)
            if force:
                forget(evaluation, nodes)
            left = todo(evaluation, nodes)
            return nodes, Schedule(left), bool(left)

        def finish(shown: Sequence[str], chosen: Sequence[Variant]) -> Finished:
            nodes, schedule, worked = planned()
            meet_latencies(evaluation)
            write_records(evaluation, nodes, schedule.failures, [variant.id for variant in chosen])
            finished = Finished(
                profile=profile.name,
                device=kind,
                folder=folder.resolve(),
                records=_selected(evaluation, chosen).resolve(),
                ranking=ranking_file(profile, "sandwich_training"),
                tables=tuple(shown),
                limit=limit,
                seeds=seeds,
                worked=worked,
                seconds={stage: round(seconds, 1) for stage, seconds in evaluation.seconds.items()},
                left=len(schedule.left),
                failures={key: why for key, why in schedule.failures.items() if not key.startswith("score:")},
            )
            write_text(folder / NOTE, finished.to_json())
            return finished

        def settled(node: Node, seconds: float) -> None:
            add_seconds(evaluation, node, seconds)
            if (
                node.key == FIRST_MEASURED
                and early
                and late
                and (shown := [table for table in FIRST_TABLES if table in tables])
            ):
                told(finish(shown, early))

        # Where a record is missing, something is left: what, is found out while workers start.
        if not evaluation.is_recorded or not planned()[1].ended:
            execute(evaluation, lambda: planned()[1], settled, count, address)
        finished = finish(tables, variants)
    _show_stages(evaluation, monotonic() - began, worked=finished.worked)
    require_scores(read_records(finished.records))
    return finished


def require_scores(records: Sequence[RunRecord]) -> None:
    """Raise FastFluxError where no picture could be scored by any metric."""
    scores = [
        measurement
        for record in records
        if VariantId.parse(record.variant).family != EXTERNAL
        for measurement in record.measurements
        if metric_named(measurement.info.name).measures != "transformer"
    ]
    if scores and all(measurement.status != "ok" for measurement in scores):
        raise FastFluxError(f"No picture could be scored, by {scores[0].info.name} because {scores[0].reason}.")


def _shortened(profile: Profile, seeds: int | None) -> Profile:
    """The profile with `seeds` images of each prompt."""
    if seeds is None:
        return profile
    samples = dict.fromkeys(profile.sampling.samples, seeds)
    return replace(profile, sampling=changed(profile.sampling, "--seeds, sampling", samples=samples))


def with_ranking(profile: Profile, order: Path) -> Profile:
    """The profile with this order of blocks instead of the one that its file names."""
    methods = {
        name: {**settings, "ranking": str(order.resolve())} if "ranking" in settings else settings
        for name, settings in profile.methods.items()
    }
    return replace(profile, methods=methods)


def _selected(evaluation: Evaluation, variants: Sequence[Variant]) -> Path:
    """A folder with just the records of this run's variants and of other models' images (`bench.run.external`)."""
    source = evaluation.folder / "results"
    selected = evaluation.folder / SELECTED
    shutil.rmtree(selected, ignore_errors=True)
    selected.mkdir(parents=True)
    for variant in variants:
        shutil.copy2(source / f"{variant.id}.json", selected)
    for path in (evaluation.folder / EXTERNAL).glob("*.json"):
        shutil.copy2(path, selected)
    return selected


def _show_stages(evaluation: Evaluation, total: float, *, worked: bool) -> None:
    table = Table("stage", "seconds", title=f"{evaluation.profile.title}: {total:.0f} s")
    for stage, seconds in evaluation.seconds.items():
        table.add_row(stage, f"{seconds:.1f}")
    console.print(table)
    if not worked:
        console.print("Everything was measured before with the same inputs; --force measures it again.")
    console.print(f"Records are in {os.path.relpath(evaluation.folder)}/results.", markup=False, soft_wrap=True)
