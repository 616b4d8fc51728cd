"""Latency of one transformer step at several batch sizes: variants interleaved at each, in one measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.metrics.catalogue import metric_named
from bench.metrics.cost.latency import measure_latency
from bench.metrics.cost.timing import Clock, Step
from bench.records.results import JSON, Measurement
from fastflux.errors import FastFluxError

LATENCY_BATCHES = metric_named("latency_batches").info


def measure_latency_batches(
    steps_of: Callable[[int], Mapping[str, Step]],
    batches: Sequence[int],
    *,
    warmup: int,
    rounds: int,
    seed: int,
    baseline: str = "dense",
    device: str = "cpu",
    clock: Clock | None = None,
    settings: Mapping[str, JSON] | None = None,
    require_idle: bool = False,
) -> dict[str, Measurement]:
    """`measure_latency` at every batch size, one after the other.

    Args:
        steps_of: for a batch size, the step of every variant; called when its turn comes, so that the inputs of one
            size are held at a time.
        batches: numbers of images in a step.

    Returns:
        Per variant the values of `measure_latency` as "batch4_median_ms" and so on, "batch4_per_image_ms", and the raw
        times as samples "batch4/ms". A size at which the variant's step raised a RuntimeError has no values and is
        named, with the reason, in the setting "failed"; failed as a whole when that is every size.

    Raises:
        FastFluxError: no sizes, one below 1 or twice, or as `measure_latency`.
    """
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise FastFluxError(f"The batch sizes are {list(batches)}; expected at least one, each from 1 and once.")
    gathered: dict[str, _Gathered] = {}
    for batch in batches:
        found = measure_latency(
            steps_of(batch),
            warmup=warmup,
            rounds=rounds,
            seed=seed,
            baseline=baseline,
            device=device,
            clock=clock,
            settings=settings,
            require_idle=require_idle,
            info=LATENCY_BATCHES,
        )
        for name, measurement in found.items():
            gathered.setdefault(name, _Gathered()).add(batch, measurement)
    return {name: entry.measurement(batches) for name, entry in gathered.items()}


@dataclass
class _Gathered:
    """What the sizes measured so far gave for one variant."""

    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, JSON] = field(default_factory=dict)
    settings: Mapping[str, JSON] = field(default_factory=dict)
    scored: int = 0
    missing: int = 0

    def add(self, batch: int, found: Measurement) -> None:
        self.settings = found.settings
        self.scored += found.scored
        self.missing += found.missing
        if found.status != "ok":
            self.failed[str(batch)] = found.reason
            return
        prefix = f"batch{batch}"
        self.values |= {f"{prefix}_{key}": value for key, value in found.values.items()}
        self.values[f"{prefix}_per_image_ms"] = found.values["median_ms"] / batch
        self.intervals |= {f"{prefix}_{key}": pair for key, pair in found.intervals.items()}
        self.samples |= {f"{prefix}/{key}": series for key, series in found.samples.items()}

    def measurement(self, batches: Sequence[int]) -> Measurement:
        settings: dict[str, JSON] = {**self.settings, "batches": list(batches), "failed": self.failed}
        if not self.values:
            reason = "; ".join(f"batch {batch}: {why}" for batch, why in self.failed.items())
            return Measurement.failed(LATENCY_BATCHES, reason, missing=self.missing, settings=settings)
        return Measurement(
            LATENCY_BATCHES,
            "ok",
            values=self.values,
            intervals=self.intervals,
            scored=self.scored,
            missing=self.missing,
            samples=self.samples,
            settings=settings,
        )
