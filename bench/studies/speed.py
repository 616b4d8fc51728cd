"""`python -m bench speed`: a model's speed in more ways than the tables need, all variants interleaved in one run.

Steps at several batch sizes, compiled steps, whole pipeline calls, peak memory by stage, FLOPs by kind of block. The
records go to runs/<profile>/speed/; latencies that the device's arithmetic cannot give are named.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import nn

from bench.metrics.cost.end_to_end import measure_end_to_end
from bench.metrics.cost.flops import measure_flops_by_block
from bench.metrics.cost.latency import CompileSettings, measure_compiled_latency, measure_latency_batches
from bench.metrics.cost.memory import measure_stage_memory
from bench.metrics.cost.plausibility import implausible
from bench.profiles.profile import load_profile
from bench.profiles.variants import chosen_variants
from bench.progress import console
from bench.records.results import JSON, Measurement, RunRecord
from bench.run.base_model import BaseModel
from bench.run.evaluate import settle_here
from bench.run.evaluation import Evaluation, ModelStep
from bench.run.folders import RUNS, locked
from bench.run.measure import calls
from bench.run.prune import transformer
from bench.run.score import new_record
from bench.tables import TABLES, needed_by
from fastflux.errors import FastFluxError
from fastflux.models.sizes import sequence_length


@dataclass(frozen=True)
class SpeedSettings:
    """What to measure: steps of so many images, `compile_mode` for compiled steps ("" is none), whole calls."""

    batches: tuple[int, ...] = (1,)
    compile_mode: str = ""
    end_to_end: bool = False
    rounds: int = 20
    warmup: int = 3
    require_idle: bool = False


def speed(
    *,
    profile_name: str,
    variant_names: Sequence[str],
    settings: SpeedSettings,
    device: str | None = None,
    changes: Mapping[str, str] | None = None,
    runs: Path = RUNS,
) -> list[RunRecord]:
    """Measure the variants named and the dense model of each base; pruned models are made first where they are not.

    Raises FastFluxError for unknown names, sizes or modes, before the long work.
    """
    if settings.rounds < 1 or not settings.batches or min(settings.batches) < 1:
        raise FastFluxError(
            f"{settings.rounds} rounds at batch sizes {list(settings.batches)} are asked for; "
            "expected at least 1 of each"
        )
    compiled = CompileSettings(settings.compile_mode) if settings.compile_mode else None
    profile = load_profile(profile_name, changes)
    device = profile.device_for(device)
    variants = chosen_variants(profile, needed_by(TABLES), variant_names)
    evaluation = Evaluation(profile, runs / profile.name, variants, device=device)
    with locked(evaluation.folder):
        settle_here(evaluation, "prune")
        records = [record for name in evaluation.bases for record in _of_one_base(evaluation, name, settings, compiled)]
    _show(records, evaluation)
    console.print(f"the records are in {evaluation.folder / 'speed'}", markup=False, soft_wrap=True)
    return records


def _of_one_base(
    evaluation: Evaluation, name: str, settings: SpeedSettings, compiled: CompileSettings | None
) -> Iterator[RunRecord]:
    """Measure the variants of one dense model in turn, and write their records."""
    chosen = [variant for variant in evaluation.variants if variant.base == name]
    models = {variant.id: transformer(evaluation, variant).eval() for variant in chosen}
    found = _measured(evaluation, evaluation.base(name), models, settings, compiled)
    for variant in chosen:
        empty = new_record(evaluation, variant)
        record = empty.finished(found[variant.id], empty.environment, empty.created)
        record.write(evaluation.folder / "speed" / f"{variant.id}.json")
        yield record


def _measured(
    evaluation: Evaluation,
    base: BaseModel,
    models: Mapping[str, nn.Module],
    settings: SpeedSettings,
    compiled: CompileSettings | None,
) -> dict[str, list[Measurement]]:
    """All measurements by variant, the dense model first among `models`."""
    sampling, device = evaluation.sampling, evaluation.device
    dense = next(iter(models))
    size = (sampling.height, sampling.width)
    found: dict[str, list[Measurement]] = {
        name: [measure_flops_by_block(model, [size], text_tokens=sequence_length(base.outline))]
        for name, model in models.items()
    }

    def steps(batch: int) -> dict[str, ModelStep]:
        inputs = base.step_inputs(models[dense], batch)
        return {name: ModelStep(model, inputs) for name, model in models.items()}

    conditions: dict[str, JSON] = {
        "height": sampling.height,
        "width": sampling.width,
        "dtype": evaluation.profile.dtype,
        "threads": torch.get_num_threads(),
    }
    console.print(f"steps at {', '.join(map(str, settings.batches))} images")
    times = [
        measure_latency_batches(
            steps, settings.batches, warmup=settings.warmup, rounds=settings.rounds, seed=sampling.seed,
            baseline=dense, device=device, settings=conditions, require_idle=settings.require_idle,
        )
    ]  # fmt: skip
    if compiled is not None:
        console.print(f"compiled steps, mode {compiled.mode}: the first calls compile")
        times.append(
            measure_compiled_latency(
                models, base.step_inputs(models[dense], settings.batches[-1]), compiled,
                warmup=max(settings.warmup, compiled.warmup), rounds=settings.rounds, seed=sampling.seed,
                baseline=dense, device=device, settings={**conditions, "batch": settings.batches[-1]},
                require_idle=settings.require_idle,
            )
        )  # fmt: skip
    if settings.end_to_end:
        console.print("whole pipeline calls")
        made = calls(evaluation, base, models, settings.batches[-1])
        times.append(
            measure_end_to_end(
                made, warmup=1, rounds=settings.rounds, seed=sampling.seed, baseline=dense, device=device,
                require_idle=settings.require_idle,
            )
        )  # fmt: skip
        times.append({name: measure_stage_memory(call, device=device) for name, call in made.items()})
    for part in times:
        for name, measurement in part.items():
            found[name].append(measurement)
    return found


def _show(records: Sequence[RunRecord], evaluation: Evaluation) -> None:
    """A table of the values, and a line for every latency that cannot be."""
    rows: dict[str, dict[str, str]] = {}
    for record in records:
        for measurement in record.measurements:
            if measurement.status != "ok":
                rows.setdefault(f"{measurement.info.name}", {})[record.variant] = measurement.status
                console.print(f"{record.label}: {measurement.info.name} {measurement.status}, {measurement.reason}")
            for key, value in measurement.values.items():
                if key.endswith(("median_ms", "ratio_to_dense", "_mib", "first_call_ms", "total")):
                    rows.setdefault(f"{measurement.info.name}.{key}", {})[record.variant] = f"{value:,.4g}"
    table = Table("", *(record.label for record in records), box=None)
    for name, values in rows.items():
        table.add_row(name, *(values.get(record.variant, "") for record in records))
    console.print(table)
    for record in records:
        for sentence in _implausible(record, evaluation):
            console.print(f"{record.label}: {sentence}")


def _implausible(record: RunRecord, evaluation: Evaluation) -> list[str]:
    """A sentence for every latency of a step that is below what its FLOPs take at the device's peak."""
    steps, counted = record.measurement("latency_batches"), record.measurement("flops_by_block")
    device = record.environment
    if steps is None or counted is None:
        return []
    flops = counted.values[f"{evaluation.sampling.height}x{evaluation.sampling.width}.forward"]
    where = (str(device["device"]), evaluation.profile.dtype, str(device["device_type"]))
    sentences = (
        implausible(value, flops * int(key.partition("_")[0].removeprefix("batch")), *where)
        for key, value in steps.values.items()
        if key.endswith("_median_ms")
    )
    return [sentence for sentence in sentences if sentence]
