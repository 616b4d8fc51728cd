"""Stage of the step's profile: what each kind of block and operation takes, to see where a ratio is lost."""

from collections.abc import Iterator, Sequence

from bench.metrics.cost.step_profile import STEP_PROFILE, measure_step_profile
from bench.records.results import MetricInfo
from bench.records.variant_id import DENSE
from bench.run.units import Results, Unit
from bench.studies.full_size.variants import build
from bench.studies.full_size.workbench import Workbench, piece, release, with_size

PROFILED = ("fastflux-20", "mix-20", "run_folded-20", "run_lora-20", "l1-4of24")


def units(bench: Workbench) -> list[str]:
    """The dense model and one of each family, at every resolution."""
    names = [name for name in bench.planned if name == DENSE or name in PROFILED]
    return [f"{pixels}/{name}" for pixels in bench.sizes.resolutions for name in names]


def pieces(bench: Workbench, left: Sequence[str]) -> Iterator[Unit]:
    """One for each unit."""
    for unit in left:
        size, _, name = unit.partition("/")
        info = with_size(STEP_PROFILE, int(size))
        yield piece(
            (unit,), (name,), info,
            lambda pixels=int(size), name=name, info=info: _measure(bench, pixels, name, info),  # type: ignore[misc]
        )  # fmt: skip


def _measure(bench: Workbench, pixels: int, name: str, info: MetricInfo) -> Results:
    latency = bench.profile.latency
    model = build(bench.planned[name], bench.dense, bench.sizes)
    found = measure_step_profile(
        model, bench.inputs(pixels, latency.batch), rounds=latency.rounds, warmup=latency.warmup,
        device=bench.device, settings=bench.conditions(pixels), info=info,
    )  # fmt: skip
    del model
    release(bench.device)
    return {name: [found]}
