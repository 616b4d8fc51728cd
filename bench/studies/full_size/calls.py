"""Stage of whole pipeline calls at full size, VAE and text encoders with them: their time and memory by stage."""

from collections.abc import Iterator, Sequence
from typing import Any

from bench.metrics.cost.end_to_end import LATENCY_END_TO_END, PipelineCall, measure_end_to_end
from bench.metrics.cost.memory import measure_stage_memory
from bench.records.variant_id import DENSE, FASTFLUX, L1, L1_EQUAL, VariantId
from bench.run.units import Results, Unit
from bench.studies.full_size.latency import against_targets, with_targets
from bench.studies.full_size.random_weights import encoder_bytes, random_pipeline
from bench.studies.full_size.variants import build, groups
from bench.studies.full_size.workbench import Need, Workbench, piece, release

PROMPT = "a photo of a red star left of a blue ring"
AT_ONCE = 3


def units(bench: Workbench) -> list[str]:
    """FastFLUX of single blocks at every ratio, the folded run, and the sliced models, those of equal latency too."""
    families = (FASTFLUX, "run_folded", L1, L1_EQUAL)
    return [name for name in bench.variants if VariantId.parse(name).family in families]


def pieces(bench: Workbench, left: Sequence[str]) -> Iterator[Unit]:
    """A few variants each, with the dense model."""
    room = bench.room() - encoder_bytes(bench.sizes, bench.dtype)
    variants = bench.variants
    for group in groups([variants[name] for name in left], bench.own_bytes, room):
        for start in range(0, len(group), AT_ONCE):
            names = tuple(variant.id for variant in group[start : start + AT_ONCE])
            yield piece(names, (DENSE, *names), LATENCY_END_TO_END, lambda names=names: _measure(bench, names))  # type: ignore[misc]


def _measure(bench: Workbench, names: Sequence[str]) -> Results:
    profile, sampling, variants = bench.profile, bench.profile.sampling, bench.variants
    models: dict[str, Any] = {
        name: build(variants[name], bench.dense, bench.sizes)
        for name in dict.fromkeys((DENSE, *with_targets(variants, names)))
    }
    pipeline = random_pipeline(bench.sizes, models[DENSE], bench.device, bench.dtype)
    calls = {
        name: PipelineCall(
            pipeline, model, (PROMPT,) * sampling.batch, sampling.steps, sampling.guidance, sampling.height,
            sampling.width, sampling.seed,
        )
        for name, model in models.items()
    }  # fmt: skip
    settings = {"weights": "random", "together": list(models)}
    found = measure_end_to_end(
        calls, warmup=1, rounds=max(1, profile.latency.end_to_end), seed=bench.sizes.seed, baseline=DENSE,
        device=bench.device, settings=settings,
    )  # fmt: skip
    compared = against_targets(variants, found)
    results = {
        name: [compared[name], measure_stage_memory(calls[name], device=bench.device, settings=settings)]
        for name in (DENSE, *names)
    }
    del pipeline
    calls.clear()
    models.clear()
    release(bench.device)
    return results


def need(bench: Workbench) -> Need:
    """The dense model and the encoders."""
    return Need(
        device=bench.weight_bytes + encoder_bytes(bench.sizes, bench.dtype),
        remedy="take a GPU with more, or leave this stage away with --stages",
    )
