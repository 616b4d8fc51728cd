"""Snapshots made of numbers alone, for tests of what is concluded from them."""

import numpy as np
from msgspec.structs import replace

from bench.metrics.cost.latency import LATENCY, latency_of
from bench.records.results import Measurement, MetricInfo, RunRecord
from bench.regression.baseline import Snapshot

VARIANTS = ("dense", "fastflux-10")
_MS = {"dense": 100.0, "fastflux-10": 90.0}


def made_snapshot(
    *, prompts: int = 32, rounds: int = 30, noise: float = 0.0, machine: float = 1.0, seed: int = 0, loss: float = 0.0,
    scatter: float = 0.0,
) -> Snapshot:  # fmt: skip
    """A run of two models.

    Args:
        noise: relative scatter of every time; each tenth step is twice as long where there is any.
        machine: factor on all times, the yardstick's too.
        loss: taken off every score of the pruned model; `scatter` moves each by chance.
    """
    generator = np.random.default_rng(seed)

    def times(median: float) -> list[float]:
        factors = np.exp(generator.normal(0, noise, rounds))
        factors[generator.uniform(size=rounds) < 0.1 * bool(noise)] *= 2
        return [float(value) for value in median * machine * factors]

    yardstick, dense = times(40.0), times(_MS["dense"])
    scores = np.random.default_rng(7).uniform(40, 80, prompts)
    records = []
    for variant in VARIANTS:
        moved = scores if variant == "dense" else scores - loss + scatter * generator.normal(size=prompts)
        own = dense if variant == "dense" else times(_MS[variant])
        records.append(
            _record(
                variant,
                _measurement("hps", {"averaged": float(moved.mean())}, _samples(moved, "photo/")),
                _measurement("geneval", {"overall": 0.5}, _samples(np.arange(prompts) % 2, "colors/")),
                _measurement("clip_score", {"mean": float(moved.mean())}, _samples(moved)),
                _measurement("flops", {"forward": 171479040.0}),
                replace(_measurement("parameters", {"total": 5268256.0}), settings={"checkpoint_bytes": 20_000_000}),
                _measurement("memory", {"peak_mib": 23.4}),
                latency_of(LATENCY, own, dense, {}),
            )
        )
    return Snapshot(
        suite={"profile": "shapes", "limit": 16, "threads": 1, "latency_batch": 8},
        records=tuple(records),
        yardstick_ms=tuple(yardstick),
        render={"dense": {"p0": "a", "p1": "b"}, "brll-10": {"p0": "c", "p1": "d"}},
        commit={"hash": "c0ffee" * 6, "dirty": False},
        created="2026-11-21T18:00:00+00:00",
        seconds={"prune": 100.0},
        other_work="none seen",
    )


def with_scores(snapshot: Snapshot, record: RunRecord) -> Snapshot:
    """The snapshot with a record's scores in the pruned model's."""
    pruned = snapshot.records[1]
    for name in ("hps", "geneval", "clip_score"):
        measurement = record.measurement(name)
        assert measurement is not None
        pruned = pruned.with_measurement(measurement)
    return replace(snapshot, records=(snapshot.dense, pruned))


def _record(variant: str, *measurements: Measurement) -> RunRecord:
    return RunRecord(
        profile="shapes",
        variant=variant,
        label=variant,
        plan=None,
        base_model="FLUX-Shapes",
        base_revision="abc",
        environment={
            "device": "a CPU", "device_type": "cpu", "cpu": "a CPU", "libraries": {"torch": "2.15.0"},
            "commit": {"hash": "c0ffee" * 6, "dirty": False},
        },
        sampling={"steps": 10, "prompts": "0123"},
        measurements=measurements,
        created="2026-11-21T18:00:00+00:00",
        inputs={"scorers": "def", "device": "cpu"},
    )  # fmt: skip


def _measurement(name: str, values: dict[str, float], samples: dict[str, list[float]] | None = None) -> Measurement:
    info = MetricInfo(name, "1", "", higher_is_better=None, reference="")
    return Measurement(info, "ok", values=values, samples=samples or {}, scored=len(samples or {"": 0}))


def _samples(scores: np.ndarray, stratum: str = "") -> dict[str, list[float]]:
    return {f"{stratum}p{index:03}": [float(score)] for index, score in enumerate(scores)}
