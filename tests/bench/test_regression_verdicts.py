"""The comparison alone: made snapshots, a planted fault of every kind, and what must not raise an alarm."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from bench.metrics.cost.latency import LATENCY, latency_of
from bench.records.results import Measurement, MetricInfo, RunRecord
from bench.records.statistics import holm
from bench.regression.baseline import KINDS, NoVerdictError, Snapshot
from bench.regression.verdicts import Check, Tolerances, judge, verdict_of
from tests.bench.made_snapshots import made_snapshot, with_scores

RECORDS = Path(__file__).parents[2] / "reports" / "data" / "results" / "cpu" / "shapes"


def verdicts(baseline: Snapshot, now: Snapshot, kinds: Sequence[str] = KINDS) -> dict[str, Check]:
    return {check.title: check for check in judge(baseline, now, kinds, Tolerances())}


def worse(found: dict[str, Check]) -> set[str]:
    return {title for title, check in found.items() if check.outcome == "regressed"}


def changed(snapshot: Snapshot, metric: str, change: Callable[[Measurement], Measurement], variant: str) -> Snapshot:
    """The snapshot with one measurement of one variant changed."""
    records = tuple(
        record.with_measurement(change(record.measurement(metric)))  # type: ignore[arg-type]
        if record.variant == variant
        else record
        for record in snapshot.records
    )
    return replace(snapshot, records=records)


def slowed(snapshot: Snapshot, variant: str, factor: float) -> Snapshot:
    dense = snapshot.dense.measurement("latency").samples["ms"]  # type: ignore[union-attr]

    def slow(measurement: Measurement) -> Measurement:
        times = [factor * ms for ms in measurement.samples["ms"]]
        return latency_of(LATENCY, times, times if variant == "dense" else dense, {})

    return changed(snapshot, "latency", slow, variant)


def test_equal_runs_pass_every_check() -> None:
    found = verdicts(made_snapshot(), made_snapshot())
    assert {check.outcome for check in found.values()} == {"passed"}
    assert verdict_of(list(found.values())) == "passed"
    assert {check.kind for check in found.values()} == set(KINDS)


def test_twenty_runs_without_a_change_raise_no_alarm() -> None:
    """Other noise in every time: 1% of a step, 10% of the machine as a whole, and now and then a step twice as long."""
    baseline = made_snapshot(noise=0.01, rounds=90)
    runs = [
        judge(baseline, made_snapshot(noise=0.01, seed=seed, machine=1 + 0.005 * seed), KINDS, Tolerances())
        for seed in range(1, 21)
    ]
    assert [verdict_of(checks) for checks in runs] == ["passed"] * 20


def test_pruning_from_other_seeds_raises_no_alarm() -> None:
    """The committed records of FastFLUX from three seeds: as far apart as machines of other rounding bring it."""
    for ratio in ("10", "20"):
        records = [RunRecord.read(RECORDS / f"{name}-{ratio}.json.gz") for name in ("fastflux", "seed1", "seed2")]
        for old, new in pairwise([*records, records[0]]):
            found = verdicts(with_scores(made_snapshot(), old), with_scores(made_snapshot(), new), kinds=["quality"])
            assert not worse(found), (old.variant, new.variant)


@pytest.mark.parametrize(
    ("name", "score"), [("brll-10", "GenEval overall"), ("layers1-10", "GenEval overall"), ("l1-12", "HPS averaged")]
)
def test_a_worse_model_is_caught_by_its_scores_alone(name: str, score: str) -> None:
    """Linear layers without Sandwich Training, and without LoRA in the neighbours: what a lost merge leaves."""
    old, new = (RunRecord.read(RECORDS / f"{variant}.json.gz") for variant in ("fastflux-10", name))
    found = verdicts(with_scores(made_snapshot(), old), with_scores(made_snapshot(), new))
    assert f"fastflux-10 {score}" in worse(found)
    assert {found[title].kind for title in worse(found)} == {"quality"}
    assert verdict_of(list(found.values())) == "regressed"


def test_a_slower_model_is_caught_by_its_latency_alone() -> None:
    base = made_snapshot(noise=0.01)
    assert worse(verdicts(base, slowed(base, "fastflux-10", 1.1))) == {"fastflux-10 latency ratio to dense"}
    assert worse(verdicts(base, slowed(base, "fastflux-10", 1.03))) == set()


def test_a_slower_dense_model_is_caught_though_every_ratio_falls() -> None:
    base = made_snapshot(noise=0.01)
    found = verdicts(base, slowed(base, "dense", 1.3))
    assert worse(found) == {"dense latency in ms"}
    assert found["fastflux-10 latency ratio to dense"].outcome == "improved"


def test_a_slower_machine_is_no_slower_model() -> None:
    found = verdicts(made_snapshot(noise=0.01), made_snapshot(noise=0.01, machine=1.8))
    assert not worse(found)
    assert "of which the machine +8" in found["dense latency in ms"].change


@pytest.mark.parametrize(
    ("metric", "key", "title"),
    [("flops", "forward", "fastflux-10 FLOPs"), ("parameters", "total", "fastflux-10 parameters")],
)
def test_one_more_is_caught_and_by_nothing_else(metric: str, key: str, title: str) -> None:
    base = made_snapshot()

    def add(measurement: Measurement, count: float) -> Measurement:
        return replace(measurement, values={**measurement.values, key: measurement.values[key] + count})

    assert worse(verdicts(base, changed(base, metric, lambda m: add(m, 1), "fastflux-10"))) == {title}
    # One less may be a block that was lost.
    assert worse(verdicts(base, changed(base, metric, lambda m: add(m, -1), "fastflux-10"))) == {title}


@pytest.mark.parametrize(("factor", "outcome"), [(1.05, "regressed"), (1.01, "passed"), (0.9, "improved")])
def test_memory_and_checkpoint_have_tolerances(factor: float, outcome: str) -> None:
    base = made_snapshot()

    def memory(measurement: Measurement) -> Measurement:
        return replace(measurement, values={"peak_mib": factor * measurement.values["peak_mib"]})

    def size(measurement: Measurement) -> Measurement:
        grown = int(factor * measurement.settings["checkpoint_bytes"])  # type: ignore[operator, arg-type]
        return replace(measurement, settings={"checkpoint_bytes": grown})

    now = changed(changed(base, "memory", memory, "fastflux-10"), "parameters", size, "fastflux-10")
    found = verdicts(base, now)
    assert found["fastflux-10 peak memory"].outcome == outcome
    assert found["fastflux-10 checkpoint size"].outcome == outcome


def test_another_pixel_is_caught() -> None:
    base = made_snapshot()
    now = replace(base, render={**base.render, "dense": {**base.render["dense"], "p1": "another"}})
    found = verdicts(base, now)
    assert worse(found) == {"dense image hashes"}
    assert found["dense image hashes"].change == "1 of 2 images differ: p1"


def with_environment(snapshot: Snapshot, **changes: Any) -> Snapshot:
    records = tuple(replace(record, environment={**record.environment, **changes}) for record in snapshot.records)
    return replace(snapshot, records=records)


def test_pixels_under_another_torch_are_not_compared_and_not_passed() -> None:
    base = made_snapshot()
    found = verdicts(base, with_environment(base, libraries={"torch": "9.9"}), kinds=["render"])
    assert {check.outcome for check in found.values()} == {"not compared"}
    assert "torch 2.15.0 in the baseline, 9.9 here" in found["dense image hashes"].reason
    assert verdict_of(list(found.values())) == "undecided"


def test_times_of_another_device_are_not_compared() -> None:
    base = made_snapshot()
    found = verdicts(base, with_environment(base, device="another CPU"), kinds=["latency"])
    assert found["dense latency in ms"].outcome == "not compared"


def test_wide_intervals_leave_latency_undecided() -> None:
    found = verdicts(made_snapshot(noise=0.3), made_snapshot(noise=0.3, seed=5, rounds=8), kinds=["latency"])
    check = found["fastflux-10 latency ratio to dense"]
    assert check.outcome == "undecided"
    assert "8 rounds are too few samples" in check.reason
    assert verdict_of(list(found.values())) == "undecided"


@pytest.mark.parametrize(
    ("prompts", "change", "outcome"),
    [
        (3, {"loss": 4.0}, "undecided"),
        (8, {"scatter": 8.0}, "undecided"),
        (40, {"loss": 0.5}, "passed"),  # within the tolerance, however significant
        (40, {"loss": -2.0}, "improved"),
    ],
)
def test_quality_hangs_on_tolerance_and_chance(prompts: int, change: dict[str, float], outcome: str) -> None:
    found = verdicts(made_snapshot(prompts=prompts), made_snapshot(prompts=prompts, **change), kinds=["quality"])
    check = found["fastflux-10 HPS averaged"]
    assert check.outcome == outcome
    assert (f"{prompts} prompts are too few" in check.reason) == (outcome == "undecided")
    assert check.p_value is not None
    assert prompts < 40 or check.p_value < 0.05
    assert outcome != "improved" or verdict_of(list(found.values())) == "passed"


def test_scores_of_other_prompts_are_not_compared() -> None:
    found = verdicts(made_snapshot(prompts=8), made_snapshot(prompts=9), kinds=["quality"])
    assert {check.outcome for check in found.values()} == {"not compared"}
    assert "in one variant only" in found["fastflux-10 HPS averaged"].reason


def test_a_failed_metric_is_not_passed() -> None:
    base = made_snapshot()
    now = changed(base, "hps", lambda m: Measurement.failed(m.info, "no weights"), "fastflux-10")
    found = verdicts(base, now)
    assert found["fastflux-10 HPS averaged"].outcome == "not compared"
    assert found["fastflux-10 HPS averaged"].reason == "hps of this run: no weights"
    assert verdict_of(list(found.values())) == "undecided"


def test_a_metric_of_another_version_is_refused() -> None:
    base = made_snapshot()
    other = MetricInfo("hps", "99", "", higher_is_better=True, reference="")
    now = changed(base, "hps", lambda m: replace(m, info=other), "fastflux-10")
    with pytest.raises(NoVerdictError, match="version 1 in the baseline and 99 here"):
        verdicts(base, now)


def test_scores_of_another_scorer_are_refused() -> None:
    base, now = (
        changed(made_snapshot(), "hps", lambda m, sha=sha: replace(m, settings={"weights_sha256": sha}), "fastflux-10")
        for sha in ("abc", "def")
    )
    with pytest.raises(NoVerdictError, match=r"hps .* something else: weights_sha256 \(abc there, def here\)"):
        verdicts(base, now)


def test_nothing_checked_is_not_passed() -> None:
    assert verdict_of([]) == "undecided"


def test_holm_corrects_for_the_number_of_tests() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_chance_among_many_checks_raises_no_alarm() -> None:
    """Twelve checks of pure noise, 200 times over: at most 5% with an alarm, whatever the tolerance would save."""
    generator = np.random.default_rng(0)
    alarms = sum(min(holm(list(generator.uniform(size=12)))) < 0.05 for _ in range(200))
    assert alarms <= 20
