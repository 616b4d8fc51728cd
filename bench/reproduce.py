"""`python -m bench reproduce`: measure every variant of a profile into runs/, build the tables, say what differs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from rich.table import Table

from bench.profiles.profile import ROOT, Profile, load_profile, require_disk
from bench.profiles.variants import chosen_variants, ranking_file, require_current_rankings
from bench.progress import console
from bench.records.variant_id import EXTERNAL
from bench.run.dry_run import plan_run, show_plan
from bench.run.evaluation import Evaluation
from bench.run.reporting import GALLERIES, RESULTS, run_reports
from bench.run.single_removals import draw_single_removals
from bench.studies.ranking import RANK_SAMPLES, rank
from bench.tables import TABLES, needed_by
from fastflux.errors import FastFluxError
from fastflux.files import replace_files
from fastflux.io.ranking_files import read_ranking

#: Settings that may differ from the profile's file in a run that is accepted.
WHERE_WEIGHTS_LIE = ("pipeline", "scorer_", "device", "others")
#: The records of just this run's variants.
SELECTED = "selected"


def reproduce(
    *,
    profile_name: str,
    tables: Sequence[str] = tuple(TABLES),
    variant_names: Sequence[str] | None = None,
    limit: int | None = None,
    seeds: int | None = None,
    force: bool = False,
    accept: bool = False,
    ranked_afresh: bool = False,
    dry_run: bool = False,
    device: str | None = None,
    changes: Mapping[str, str] | None = None,
    runs: Path = ROOT / "runs",
) -> None:
    """Run all stages and print the tables; see `python -m bench reproduce --help`.

    Raises FastFluxError for unknown names, faulty input or too little disk, all before the long work starts.
    """
    began = monotonic()
    profile = load_profile(profile_name, changes)
    if profile.random:
        _full_size(profile_name, dry_run=dry_run, accept=accept, device=device, changes=changes, runs=runs)
        return
    device = device or profile.device
    variants = chosen_variants(profile, needed_by(tables), variant_names)
    if limit is not None and limit < 1:
        raise FastFluxError(f"--limit is {limit}: it is the number of prompts of each style and task, at least 1")
    if seeds is not None:
        if seeds < 1:
            raise FastFluxError(f"--seeds is {seeds}: it is the number of images of each prompt, at least 1")
        samples = dict.fromkeys(profile.sampling.samples, seeds)
        profile = replace(profile, sampling=replace(profile.sampling, samples=samples))
    if accept and (limit is not None or seeds is not None or variant_names is not None or set(tables) != set(TABLES)):
        raise FastFluxError("--accept keeps whole runs only: leave --limit, --seeds, --variants and --only away")
    if accept and (other := sorted(key for key in changes or {} if not key.startswith(WHERE_WEIGHTS_LIE))):
        raise FastFluxError(f"--accept keeps runs of the profile as it is: leave --set {other[0]} away")
    # Pruned models, images and times of one kind of device never stand for those of another.
    kind = torch.device(device).type
    place = profile.name if kind == "cpu" else f"{profile.name}-{kind}"
    folder = runs / (place if limit is None and seeds is None else f"{place}-limit{limit}-seeds{seeds}")
    require_disk(folder, profile.disk_mib)
    # Fewer images need no other models: pruning is the longest part of a quick run.
    models = runs / place
    if ranked_afresh and not dry_run:
        made = rank(
            profile_name=profile_name, samples=RANK_SAMPLES, accept=accept, device=device, changes=changes, runs=runs
        )
        profile = with_ranking(profile, made)
        variants = chosen_variants(profile, needed_by(tables), variant_names)
    evaluation = Evaluation(profile, folder, variants, limit=limit, force=force, device=device, models=models)
    if dry_run:
        show_plan(plan_run(evaluation, timed=True), evaluation)
        return
    require_current_rankings(profile, evaluation.main.revision)
    evaluation.prune()
    evaluation.generate()
    if (order := ranking_file(profile, "sandwich_training")) is not None:  # else nobody knows which blocks matter
        draw_single_removals(evaluation, read_ranking(order))
    evaluation.score()
    evaluation.measure()
    with evaluation.timed("report"):
        texts = _report(evaluation, tables)
    for text in texts:
        print(text)
    _show_differences(folder / SELECTED, profile.name, device)
    if accept:
        _accept(evaluation)
    _show_stages(evaluation, monotonic() - began)


def _full_size(profile_name: str, *, dry_run: bool, **options: Any) -> None:
    """A profile of random weights has no pictures to score: its tables are those of `bench.studies.full_size`."""
    from bench.studies.full_size.run import Ending, full_size

    if not dry_run:
        console.print(f"{profile_name} has random weights: `nox -s full_size` measures it, and so does this")
    if full_size(profile_name=profile_name, dry_run=dry_run, **options) != Ending.MEASURED:
        raise FastFluxError(
            f"some of {profile_name} failed as told above: `nox -s full_size -- --retry` takes it again"
        )


def with_ranking(profile: Profile, order: Path) -> Profile:
    """The profile with this order of blocks instead of the one that its file names."""
    methods = {
        name: {**settings, "ranking": str(order)} if "ranking" in settings else settings
        for name, settings in profile.methods.items()
    }
    return replace(profile, methods=methods)


def _report(evaluation: Evaluation, tables: Sequence[str]) -> list[str]:
    """Build the documents beside the records, in a process of their own: reports read files, and know no model."""
    selected = _selected(evaluation)
    out, gallery = evaluation.folder / "reports", evaluation.folder / "gallery"
    order = ranking_file(evaluation.profile, "sandwich_training")
    ranking = [] if order is None else ["--ranking", str(order)]
    run_reports("gallery", "--results", str(selected), "--images", str(evaluation.folder), "-o", str(gallery))
    run_reports("build", "--results", str(selected), "--tables", ",".join(tables), "--format", "md,tex,png,svg,html",
             "--gallery", str(gallery), *ranking, "-o", str(out))  # fmt: skip
    return [(out / f"{table}.md").read_text(encoding="utf-8") for table in tables]


def _selected(evaluation: Evaluation) -> Path:
    """A folder with just the records of this run's variants and of other models' images (`bench.run.external`)."""
    source = evaluation.folder / "results"
    selected = evaluation.folder / SELECTED
    shutil.rmtree(selected, ignore_errors=True)
    selected.mkdir(parents=True)
    for variant in evaluation.variants:
        shutil.copy2(source / f"{variant.id}.json", selected)
    for path in (evaluation.folder / EXTERNAL).glob("*.json"):
        shutil.copy2(path, selected)
    return selected


def committed_records(profile_name: str, device: str) -> Path:
    """Folder of the committed records of a profile on a kind of device."""
    return RESULTS / torch.device(device).type / profile_name


def _show_differences(fresh: Path, profile_name: str, device: str) -> None:
    """Fresh against committed records, where there are any."""
    committed = committed_records(profile_name, device)
    if committed.is_dir() and any(committed.glob("*.json")):
        print("\n## This run against the committed records\n", flush=True)
        run_reports("diff", str(committed), str(fresh))


def _accept(evaluation: Evaluation) -> None:
    """Copy this run's records and documents to where the repository keeps them."""
    target = committed_records(evaluation.profile.name, evaluation.device)
    replace_files(target, evaluation.folder / SELECTED, "*.json")
    replace_files(GALLERIES / target.relative_to(RESULTS), evaluation.folder / "gallery")
    run_reports("rebuild")
    console.print(f"accepted: records in {target.relative_to(ROOT)}, documents in reports/generated")


def _show_stages(evaluation: Evaluation, total: float) -> None:
    table = Table("stage", "seconds", title=f"{evaluation.profile.title}: {total:.0f} s")
    for stage, seconds in evaluation.seconds.items():
        table.add_row(stage, f"{seconds:.1f}")
    console.print(table)
    if not evaluation.worked:
        console.print("Everything was measured before with the same inputs; --force measures it again.")
    where = os.path.relpath(evaluation.folder)
    console.print(f"Records are in {where}/results, tables and figures in {where}/reports.")
