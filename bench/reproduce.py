"""`python -m bench reproduce` with its documents: `bench.run.reproduce` measures, reports show what came of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.profiles.profile import ROOT, load_profile
from bench.profiles.variants import TABLES
from bench.progress import console
from bench.run.folders import RUNS
from bench.run.reporting import GALLERIES, RESULTS, run_reports
from bench.run.reproduce import Finished
from bench.run.reproduce import reproduce as measure
from bench.studies.ranking import RANK_SAMPLES, rank
from fastflux.errors import FastFluxError

#: Settings that may differ from the profile's file in a run that is accepted.
WHERE_WEIGHTS_LIE = ("pipeline", "scorer_", "device", "others")


def reproduce(
    *,
    profile_name: str,
    tables: Sequence[str] = tuple(TABLES),
    variant_names: Sequence[str] | None = None,
    limit: int | None = None,
    seeds: int | None = None,
    accept: bool = False,
    ranked_afresh: bool = False,
    dry_run: bool = False,
    device: str | None = None,
    changes: Mapping[str, str] | None = None,
    runs: Path = RUNS,
    **options: Any,
) -> None:
    """Run all stages and print the tables."""
    if load_profile(profile_name, changes).random:
        _full_size(profile_name, dry_run=dry_run, accept=accept, device=device, changes=changes, runs=runs)
        return
    if accept and (limit is not None or seeds is not None or variant_names is not None or set(tables) != set(TABLES)):
        raise FastFluxError("--accept keeps whole runs only: leave --limit, --seeds, --variants and --only away")
    if accept and (other := sorted(key for key in changes or {} if not key.startswith(WHERE_WEIGHTS_LIE))):
        raise FastFluxError(f"--accept keeps runs of the profile as it is: leave --set {other[0]} away")
    order = None
    if ranked_afresh and not dry_run:
        order = rank(
            profile_name=profile_name, samples=RANK_SAMPLES, accept=accept, device=device, changes=changes, runs=runs
        )
    finished = measure(
        profile_name=profile_name, tables=tables, variant_names=variant_names, limit=limit, seeds=seeds,
        ranking=order, dry_run=dry_run, device=device, changes=changes, runs=runs, **options,
    )  # fmt: skip
    if finished is not None:
        _show(finished)
        if accept:
            _accept(finished)


def _full_size(profile_name: str, *, dry_run: bool, **options: Any) -> None:
    """A profile of random weights has no pictures to score: its tables are those of `bench.studies.full_size`."""
    from bench.studies.full_size.run import Ending, full_size

    if not dry_run:
        console.print(f"{profile_name} has random weights: `nox -s full_size` measures it, and so does this")
    if full_size(profile_name=profile_name, dry_run=dry_run, **options) != Ending.MEASURED:
        raise FastFluxError(
            f"some of {profile_name} failed as told above: `nox -s full_size -- --retry` takes it again"
        )


def _show(run: Finished) -> None:
    """Build the documents beside the records and print the tables, and what differs from the committed records."""
    out, gallery = run.folder / "reports", run.folder / "gallery"
    ranking = [] if run.ranking is None else ["--ranking", str(run.ranking)]
    run_reports("gallery", "--results", str(run.records), "--images", str(run.folder), "-o", str(gallery))
    run_reports("build", "--results", str(run.records), "--tables", ",".join(run.tables), "--format",
                "md,tex,png,svg,html", "--gallery", str(gallery), *ranking, "-o", str(out))  # fmt: skip
    for table in run.tables:
        print((out / f"{table}.md").read_text(encoding="utf-8"))
    committed = RESULTS / run.device / run.profile
    if committed.is_dir() and any(committed.glob("*.json")):
        print("\n## This run against the committed records\n", flush=True)
        run_reports("diff", str(committed), str(run.records))


def _accept(run: Finished) -> None:
    """Copy this run's records and documents to where the repository keeps them."""
    target, shown = RESULTS / run.device / run.profile, GALLERIES / run.device / run.profile
    for source, place in ((run.records, target), (run.folder / "gallery", shown)):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, place)
    run_reports("rebuild")
    console.print(f"accepted: records in {target.relative_to(ROOT)}, documents in reports/generated")
