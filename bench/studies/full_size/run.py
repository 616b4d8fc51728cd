"""`python -m bench full_size`: all that FLUX.1-dev's size costs on one GPU, in pieces, with random weights."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from pathlib import Path

import torch
from msgspec.structs import asdict

from bench.metrics.cost.timing import other_work
from bench.profiles.profile import Profile, load_profile
from bench.progress import console
from bench.records.environment import describe_environment, device_name
from bench.records.results import JSON, Measurement, RunRecord, digest, read_records
from bench.run.folders import RUNS, locked
from bench.run.units import Budget, BudgetSpentError, Runner, Store, Unit, reason_of
from bench.settings import changed
from bench.studies.full_size import calibrating, counting, equal, latency, pruning, replacement, scorers
from bench.studies.full_size.random_weights import Sizes, sizes_of
from bench.studies.full_size.replacement import VARIANT as REPLACEMENT
from bench.studies.full_size.scorers import VARIANT as SCORERS
from bench.studies.full_size.variants import BASE, plan_for
from bench.studies.full_size.workbench import (
    EQUAL_STAGE,
    Stage,
    Workbench,
    nothing,
    release,
    require_resources,
    show_plan,
    usable_dtype,
)
from fastflux.errors import FastFluxError, unknown_name
from fastflux.files import replace_files
from fastflux.settings import require_device

COUNTED = "flops"
"""The stage that needs no device."""


def stages_of(sizes: Sizes) -> dict[str, Stage]:
    """All stages in the order in which they run."""
    weights = latency.latency_need
    eager = [
        Stage(
            f"latency-{pixels}",
            f"eager steps at {pixels}x{pixels}, and their memory",
            latency.variant_units,
            latency.eager_pieces(lambda _bench, pixels=pixels: pixels),  # type: ignore[misc]
            weights,
        )
        for pixels in sizes.resolutions
    ]
    every = [
        Stage(COUNTED, "FLOPs and parameters, exact, on no device", counting.units, counting.pieces, nothing),
        Stage(
            "replacement", "a replaced block in several ways", replacement.units, replacement.pieces, replacement.need
        ),
        # Before the stages that time what it finds.
        Stage(EQUAL_STAGE, "L1-norm ratios of equal latency", equal.units, equal.pieces, equal.need),
        *eager,
        Stage(
            "compiled",
            "steps with every block compiled",
            latency.sized_units,
            latency.way_pieces(latency.COMPILED),
            weights,
        ),
        Stage(
            "cuda-graphs",
            "steps as one CUDA graph, eager and compiled",
            latency.graph_units,
            latency.way_pieces(latency.GRAPHS, latency.COMPILED_GRAPHS),
            weights,
        ),
        Stage(
            "step-profile", "where the time of a step goes, by block and operation", latency.profiled_units,
            latency.profiled_pieces,
            weights,
        ),
        Stage(
            "end-to-end", "whole pipeline calls and their memory", latency.call_units, latency.call_pieces,
            latency.call_need,
        ),
        Stage(
            calibrating.STAGE,
            "statistics of all blocks in one pass, beside plain forwards",
            calibrating.units,
            calibrating.pieces,
            calibrating.need,
        ),
        Stage(
            pruning.STAGE, "20 % with Sandwich Training", pruning.units, pruning.pieces, pruning.need,
        ),
        Stage("scorers", "images a second of every scorer", scorers.units, scorers.pieces, scorers.need),
    ]  # fmt: skip
    return {stage.name: stage for stage in every}


PROFILE = "flux-dev-random"


class Ending(IntEnum):
    """How a call ended, which is the command's exit status."""

    MEASURED = 0
    FAILED = 1
    """All was taken, and some of it failed."""
    LEFT = 3
    """The budget was spent before all was taken."""


def full_size(
    *,
    profile_name: str = PROFILE,
    stages: Sequence[str] | None = None,
    budget: float | None = None,
    dry_run: bool = False,
    accept: Path | None = None,
    retry: bool = False,
    offload: bool = False,
    allow_busy: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    changes: Mapping[str, str] | None = None,
    runs: Path = RUNS,
) -> Ending:
    """Run what is left of the stages, and tell how that ended; see `python -m bench full_size --help`.

    With `accept`, a folder, the records are copied there, to one of the device's name, when all is measured.
    Raises FastFluxError, before any work, for unknown names, a device that cannot be used or is busy, and too little
    memory or disk; and for a run to be accepted in which something failed.
    """
    clock = Budget(budget)
    profile = load_profile(profile_name, changes)
    sizes = sizes_of(profile)
    known = stages_of(sizes)
    chosen = _chosen(known, stages)
    profile = changed(profile, "", device=device, dtype=dtype)
    alone = [stage.name for stage in chosen] == [COUNTED]
    kind = "meta" if alone else profile.device
    if alone and device is not None and not dry_run:
        require_device(device)  # which it names, though it is not needed
    if accept:
        require_acceptable(chosen, kind, changes or {})
    number_format = usable_dtype(profile.dtype, kind, strict=not (dry_run or alone))
    folder = runs / profile.name / place_of(profile, sizes, kind, offload=offload)
    bench = Workbench(profile, sizes, profile.device, number_format, Store(folder), clock, offload)
    if dry_run:
        show_plan(bench, chosen)
        return Ending.MEASURED
    with locked(folder):
        return _measure(bench, known, chosen, kind, retry=retry, accept=accept, allow_busy=allow_busy)


def _measure(
    bench: Workbench,
    known: Mapping[str, Stage],
    chosen: Sequence[Stage],
    kind: str,
    *,
    retry: bool,
    accept: Path | None,
    allow_busy: bool,
) -> Ending:
    """Run what is left, in a folder that no other process works in."""
    _forget(bench, chosen, failures=retry)
    if accept:
        require_no_failures(bench, list(known.values()))
    working = [stage for stage in chosen if stage.left(bench)]
    require_resources(bench, working)
    if any(stage.name != COUNTED for stage in working) and torch.device(kind).type == "cuda" and not allow_busy:
        other_work(bench.device).require_idle()
    ending = _run(bench, chosen, kind)
    records = write_records(bench, list(known), kind)
    if records is None:
        return ending
    print(records)
    if accept and ending != Ending.LEFT:
        require_no_failures(bench, list(known.values()))
    if accept and ending == Ending.MEASURED:
        name = bench.store.folder.name.rpartition("-")[0] + ("-offload" if bench.offload else "")
        _accept(records, accept / (COUNTED if kind == "meta" else name))
    return ending


def _chosen(known: Mapping[str, Stage], names: Sequence[str] | None) -> list[Stage]:
    """The stages named, in the order in which they run."""
    for name in names or ():
        if name not in known:
            raise unknown_name("stage", name, list(known))
    return [stage for name, stage in known.items() if names is None or name in names]


def _forget(bench: Workbench, stages: Sequence[Stage], *, failures: bool) -> None:
    """Drop what is to be measured again: failures where they are to be tried again, and what lost its statistics."""
    if failures:
        for stage in stages:
            bench.store.forget(stage.name, lambda done: bool(done.failures))
    names = {stage.name for stage in stages}
    if pruning.STAGE in names and pruning.needs_statistics(bench):
        if calibrating.STAGE in names:
            calibrating.forget_lost(bench)
        else:
            pruning.require_statistics(bench)


def _run(bench: Workbench, stages: Sequence[Stage], kind: str) -> Ending:
    """Settle what is left, piece by piece, and say what remains when the budget is spent.

    The first piece starts whatever the budget: calls that are shorter than a piece would never end otherwise.
    """
    environment = describe_environment("cpu" if kind == "meta" else bench.device)
    runner = Runner(bench.store, lambda: environment, budget=bench.budget)
    try:
        for stage in stages:
            left = stage.left(bench)
            if not left:
                console.print(f"{stage.name}: done before", markup=False)
                continue
            pieces = iter(stage.pieces(bench, left))
            while (piece := _next(bench, stage, pieces)) is not None:
                console.print(f"{stage.name}: {', '.join(piece.names)}", markup=False, soft_wrap=True)
                done = runner.make(stage.name, piece)  # the stage knows what is left
                release(bench.device)
                for variant, reason in done.failures.items():
                    console.print(f"  {variant} failed: {reason}", markup=False, soft_wrap=True)
                if done.failures:
                    console.print("  what was measured is kept; --retry measures again what failed", markup=False)
            if stage.name != COUNTED:
                bench.clear()
    except BudgetSpentError as spent:
        counts = {stage.name: len(stage.left(bench)) for stage in stages}
        rest = ", ".join(f"{name} ({count})" for name, count in counts.items() if count)
        console.print(f"{spent}; left are {rest}. The same command continues.", markup=False, soft_wrap=True)
        if rest:
            return Ending.LEFT
    return Ending.FAILED if any(stage.not_measured(bench) for stage in stages) else Ending.MEASURED


def _next(bench: Workbench, stage: Stage, pieces: Iterator[Unit]) -> Unit | None:
    """A stage's next piece, or None: also where there is no memory for the models that decide what a piece is."""
    try:
        return next(pieces, None)
    except BudgetSpentError:
        raise
    except (RuntimeError, FastFluxError) as error:
        reason = reason_of(error)
    release(bench.device)
    console.print(
        f"{stage.name} failed before its next piece: {reason}; the same command tries again",
        markup=False,
        soft_wrap=True,
    )
    return None


def place_of(profile: Profile, sizes: Sizes, device: str, *, offload: bool = False) -> str:
    """Folder of a run: the device's name, and 8 hex digits of all that decides its numbers."""
    there = torch.device(device).type != "cuda" or torch.cuda.is_available()  # a dry run goes without
    name = COUNTED if device == "meta" else device_name(device) if there else "no-gpu"
    inputs: dict[str, JSON] = {
        "sizes": {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(sizes).items()},
        "torch": torch.__version__,
    }
    if device != "meta":
        inputs |= {
            "dtype": profile.dtype,
            "sampling": {**asdict(profile.sampling), "samples": {}},
            "calibration": asdict(profile.calibration),
            "latency": asdict(profile.latency),
            "methods": {name: dict(values) for name, values in profile.methods.items()},
            "offload": offload,
        }
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{slug}-{digest(inputs)[:8]}"


def require_acceptable(stages: Sequence[Stage], device: str, changes: Mapping[str, str]) -> None:
    """Raise FastFluxError unless the run may become the committed one: the profile's own sizes, on a GPU."""
    if other := sorted(key for key in changes if key != "device"):
        raise FastFluxError(f"--accept keeps runs of the profile as it is: leave --set {other[0]} away.")
    if device != "meta" and torch.device(device).type != "cuda":
        names = ", ".join(stage.name for stage in stages if stage.name != COUNTED)
        raise FastFluxError(f"--accept keeps figures of a GPU, and {names} would run on {device}: use --stages flops.")


def require_no_failures(bench: Workbench, stages: Sequence[Stage]) -> None:
    """Raise FastFluxError, to be told before the work too, when a piece that was taken failed."""
    failed = [f"{stage.name} ({', '.join(units)})" for stage in stages if (units := stage.failed(bench))]
    if failed:
        raise FastFluxError(
            f"--accept keeps runs without failures, and {'; '.join(failed)} failed: measure again with --retry first."
        )


def require_no_loss(records: Path, target: Path) -> None:
    """Raise FastFluxError when the records lack a measurement that those in their place hold."""
    there = read_records(target) if target.exists() else []
    new = {record.variant: {item.info.name for item in record.measurements} for record in read_records(records)}
    lost = sorted(
        {
            item.info.name
            for record in there
            for item in record.measurements
            if item.status == "ok" and item.info.name not in new.get(record.variant, set())
        }
    )
    if lost:
        raise FastFluxError(
            f"The records in {target.name} hold {', '.join(lost)} too, which this run lacks: measure all stages, "
            "or delete that folder first."
        )


def _accept(records: Path, target: Path) -> None:
    """Copy records to where they are kept."""
    require_no_loss(records, target)
    replace_files(target, records, "*.json*")  # packed ones too: `python -m reports manifest` packs these
    console.print(f"accepted: {target}", markup=False, soft_wrap=True)


RECORDS = "records"
_LABELS = {REPLACEMENT: "A replaced block", SCORERS: "Scorers, random weights"}


def write_records(bench: Workbench, stages: Sequence[str], device: str) -> Path | None:
    """Write the records beside the pieces and give their folder; None where there is none yet."""
    found: dict[str, list[Measurement]] = {}
    environments: dict[str, dict[str, JSON]] = {}
    created: dict[str, str] = {}
    # FLOPs last: they may have been counted elsewhere, and the record is of the machine that measured.
    for variant, measurement, done in bench.store.measurements(sorted(stages, key=COUNTED.__eq__)):
        found.setdefault(variant, []).append(measurement)
        environments.setdefault(variant, dict(done.environment))
        created[variant] = max(created.get(variant, ""), done.created)
    if not found:
        return None
    folder = bench.store.folder / RECORDS
    for variant, measurements in found.items():
        label, plan = _identity(bench, variant)
        record = RunRecord(
            profile=bench.profile.name,
            variant=variant,
            label=label,
            plan=plan,
            base_model=BASE,
            base_revision=f"seed {bench.sizes.seed}",
            environment=environments[variant],
            sampling={},
            measurements=tuple(measurements),
            created=datetime.fromisoformat(created[variant]).isoformat(timespec="seconds"),
            inputs={"device": device.partition(":")[0], "place": bench.store.folder.name},
        )
        record.write(folder / f"{variant}.json")
    for path in folder.glob("*.json"):
        if path.stem not in found:  # of variants that were measured once
            path.unlink()
    return folder


def _identity(bench: Workbench, name: str) -> tuple[str, dict[str, JSON] | None]:
    """A variant's label and plan."""
    if name in _LABELS:
        return _LABELS[name], None
    variant = bench.variants.get(name)
    if variant is None:
        return name, None
    plan = plan_for(variant, bench.sizes)
    return variant.label, None if plan is None else dict(plan.to_json())
