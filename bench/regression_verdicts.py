"""The comparison itself: two snapshots in, a verdict for every check out. Pure: no torch, no files, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bench.regression_baseline import Snapshot
from bench.regression_exit import Exit, NotComparableError
from bench.results import JSON, Measurement, RunRecord
from bench.statistics import StatisticsError, Weighting, median_change, paired_difference, strata_of

Outcome = Literal["passed", "improved", "regressed", "undecided", "not compared"]
SIGNIFICANT = 0.05
_SEED = 0


@dataclass(frozen=True)
class Tolerances:
    """How much worse is still as good. Scores are differences, all others fractions of the baseline.

    Scores: about twice what pruning from another seed changes at FastFLUX-20% (HPS up to 0.3, GenEval 0.02, CLIP score
    0.4 on the suite's prompts), as a machine with other rounding does. Latency: times in one run scatter by 1 to 3%
    between runs on a machine in use. The dense model's own time hangs on the yardstick, which no other work slows
    quite alike. Memory and checkpoint hold some bytes that libraries decide.
    """

    hps: float = 1.0
    geneval: float = 0.03
    clip_score: float = 0.5
    latency: float = 0.05
    time: float = 0.15
    memory: float = 0.02
    checkpoint: float = 0.01


@dataclass(frozen=True)
class Check:
    """One comparison with its verdict.

    `change` is what was found in words and figures; `tolerance` what is still as good; `reason` says why there is no
    verdict. `p_value` is that of quality checks, corrected for their number by Holm's method.
    """

    kind: str
    variant: str
    name: str
    outcome: Outcome
    baseline: str
    now: str
    change: str
    tolerance: str
    p_value: float | None = None
    reason: str = ""

    @property
    def title(self) -> str:
        """Which check it is: "fastflux-20 HPS averaged"."""
        return f"{self.variant} {self.name}"


@dataclass(frozen=True)
class _Score:
    """An image metric as the suite compares it: the value, what counts once in it, and its number format."""

    metric: str
    value: str
    name: str
    weighting: Weighting
    spec: str


SCORES = (
    _Score("hps", "averaged", "HPS averaged", "images", ".2f"),
    _Score("geneval", "overall", "GenEval overall", "strata", ".3f"),
    _Score("clip_score", "mean", "CLIP score", "images", ".2f"),
)


def judge(baseline: Snapshot, now: Snapshot, kinds: Sequence[str], tolerances: Tolerances) -> tuple[Check, ...]:
    """The verdicts on all variants of `now`, which the baseline must hold, by kind.

    Raises NotComparableError when a metric has another version than in the baseline.
    """
    checks = {
        "quality": _quality,
        "latency": _latency,
        "cost": _cost,
        "render": _render,
    }
    return tuple(check for kind in kinds for check in checks[kind](baseline, now, tolerances))


def exit_of(checks: Sequence[Check]) -> Exit:
    """REGRESSED if anything is worse; else UNDECIDED if anything has no verdict or nothing was checked; else PASSED."""
    outcomes = {check.outcome for check in checks}
    if "regressed" in outcomes:
        return Exit.REGRESSED
    if not checks or outcomes & {"undecided", "not compared"}:
        return Exit.UNDECIDED
    return Exit.PASSED


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number. Source: S. Holm, Scandinavian Journal of Statistics 6 (1979), 65-70."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def _pairs(baseline: Snapshot, now: Snapshot) -> list[tuple[RunRecord, RunRecord]]:
    """(old, new) records of every variant of `now`."""
    found = [(baseline.record(record.variant), record) for record in now.records]
    return [(old, new) for old, new in found if old is not None]


def _measured(old: RunRecord, new: RunRecord, metric: str) -> tuple[Measurement, Measurement] | str:
    """Both measurements, or why there is no comparing them."""
    pair = old.measurement(metric), new.measurement(metric)
    for side, measurement in zip(("the baseline", "this run"), pair, strict=True):
        if measurement is None or measurement.status != "ok":
            return f"{metric} of {side}: {measurement.reason if measurement else 'not measured'}"
    first, second = pair
    if first is None or second is None:  # for mypy: the loop has told
        return metric
    if first.info.version != second.info.version:
        raise NotComparableError(
            f"{metric} has version {first.info.version} in the baseline and {second.info.version} here: "
            "make a new one with --update."
        )
    return first, second


# -- quality


def _quality(baseline: Snapshot, now: Snapshot, tolerances: Tolerances) -> list[Check]:
    """Worse only if beyond the tolerance and significant among all quality checks; pairs share prompt and seed."""
    found = [
        _score_check(score, old, new, getattr(tolerances, score.metric))
        for old, new in _pairs(baseline, now)
        for score in SCORES
        if old.measurement(score.metric) is not None or new.measurement(score.metric) is not None
    ]
    tested = [index for index, (check, _) in enumerate(found) if check.p_value is not None]
    corrected = dict(zip(tested, holm([found[index][0].p_value or 0.0 for index in tested]), strict=True))
    return [_decided(check, bounds, corrected.get(index)) for index, (check, bounds) in enumerate(found)]


@dataclass(frozen=True)
class _Bounds:
    """Of a score: difference, the interval's lower end (None without one), tolerance and prompts."""

    difference: float
    low: float | None
    tolerance: float
    prompts: int


def _score_check(score: _Score, old: RunRecord, new: RunRecord, tolerance: float) -> tuple[Check, _Bounds | None]:
    pair = _measured(old, new, score.metric)
    empty = Check("quality", new.variant, score.name, "not compared", "", "", "", f"-{tolerance:g}")
    if isinstance(pair, str):
        return replace(empty, reason=pair), None
    texts = [format(measurement.values[score.value], score.spec) for measurement in pair]
    shown = replace(empty, baseline=texts[0], now=texts[1])
    try:
        strata = [strata_of(measurement.samples) for measurement in pair]
        paired = paired_difference(strata[1], strata[0], weighting=score.weighting, seed=_SEED)
    except StatisticsError as error:
        return replace(shown, reason=str(error)), None
    value, interval, spec = paired.difference.value, paired.difference.interval, score.spec
    bounds = "" if interval is None else f" [{interval[0]:+{spec}}, {interval[1]:+{spec}}]"
    change = f"{value:+{spec}}{bounds}, {paired.prompts} prompts"
    low = None if interval is None else interval[0]
    return replace(shown, change=change, p_value=paired.p_value), _Bounds(value, low, tolerance, paired.prompts)


def _decided(check: Check, bounds: _Bounds | None, p_value: float | None) -> Check:
    """The check with its verdict and its corrected p-value."""
    if bounds is None or p_value is None:
        return check
    significant = p_value < SIGNIFICANT
    outcome: Outcome = "passed"
    reason = ""
    if bounds.difference < -bounds.tolerance:
        outcome = "regressed" if significant else "undecided"
        reason = "" if significant else f"beyond the tolerance, but {bounds.prompts} prompts are too few to be sure"
    elif bounds.difference > bounds.tolerance and significant:
        outcome = "improved"
    elif bounds.low is None or bounds.low < -2 * bounds.tolerance:
        outcome = "undecided"
        reason = f"{bounds.prompts} prompts are too few: they leave a loss of twice the tolerance possible"
    return replace(check, outcome=outcome, p_value=p_value, reason=reason)


# -- latency


def _latency(baseline: Snapshot, now: Snapshot, tolerances: Tolerances) -> list[Check]:
    """Pruned models by their ratio to dense within a run, the dense model by its ratio to the yardstick."""
    checks = [_machine_check(baseline, now, tolerances.time)]
    dense = (baseline.dense, now.dense)
    for old, new in _pairs(baseline, now)[1:]:
        pairs = [_measured(dense[0], dense[1], "latency"), _measured(old, new, "latency")]
        empty = _fraction("latency", new.variant, "latency ratio to dense", tolerances.latency)
        if failed := [pair for pair in pairs if isinstance(pair, str)]:
            checks.append(replace(empty, reason=failed[0]))
            continue
        reference, own = (pair for pair in pairs if not isinstance(pair, str))
        ratios = [
            [a / b for a, b in zip(own[side].samples["ms"], reference[side].samples["ms"], strict=True)]
            for side in (0, 1)
        ]
        checks.append(_ratio_check(empty, ratios[0], ratios[1], tolerances.latency))
    return checks


def _machine_check(baseline: Snapshot, now: Snapshot, tolerance: float) -> Check:
    """The dense model's time, corrected by how fast the machine was: what slowed both down was not the code."""
    empty = _fraction("latency", now.dense.variant, "latency in ms", tolerance)
    pair = _measured(baseline.dense, now.dense, "latency")
    if isinstance(pair, str):
        return replace(empty, reason=pair)
    if baseline.device != now.device:
        return replace(empty, reason=f"the baseline was measured on {baseline.device}, this is {now.device}")
    times = [measurement.samples["ms"] for measurement in pair]
    yardsticks = [list(baseline.yardstick_ms), list(now.yardstick_ms)]
    ratios = [[a / b for a, b in zip(ms, yards, strict=True)] for ms, yards in zip(times, yardsticks, strict=True)]
    check = _ratio_check(empty, ratios[0], ratios[1], tolerance)
    raw, machine = median_change(times[1], times[0], seed=_SEED), median_change(*reversed(yardsticks), seed=_SEED)
    told = f"{raw.value - 1:+.1%} in ms, of which the machine {machine.value - 1:+.1%}"
    texts = [f"{measurement.values['median_ms']:.1f} ms" for measurement in pair]
    return replace(check, baseline=texts[0], now=texts[1], change=f"{check.change} ({told})")


def _ratio_check(empty: Check, old: list[float], new: list[float], tolerance: float) -> Check:
    """Worse when the whole interval of the change lies beyond the tolerance, as good when none of it does."""
    change = median_change(new, old, seed=_SEED)
    middle = [sorted(values)[len(values) // 2] for values in (old, new)]
    shown = replace(empty, baseline=f"{middle[0]:.3f}", now=f"{middle[1]:.3f}", change=f"{change.value - 1:+.1%}")
    if change.interval is None:
        return replace(shown, outcome="undecided", reason=f"{min(len(old), len(new))} rounds are too few samples")
    low, high = change.interval
    shown = replace(shown, change=f"{shown.change} [{low - 1:+.1%}, {high - 1:+.1%}], {len(new)} rounds")
    if low > 1 + tolerance:
        return replace(shown, outcome="regressed")
    if high > 1 + tolerance:
        reason = f"{len(new)} rounds are too few samples: the interval reaches beyond the tolerance"
        return replace(shown, outcome="undecided", reason=reason)
    return replace(shown, outcome="improved" if high < 1 - tolerance else "passed")


def _fraction(kind: str, variant: str, name: str, tolerance: float) -> Check:
    return Check(kind, variant, name, "not compared", "", "", "", f"+{tolerance:.0%}" if tolerance else "exact")


# -- cost and render


def _cost(baseline: Snapshot, now: Snapshot, tolerances: Tolerances) -> list[Check]:
    """FLOPs and parameters exactly, peak memory and checkpoint size within a tolerance."""
    checks = []
    for old, new in _pairs(baseline, now):
        for metric, key, name, tolerance in (
            ("flops", "forward", "FLOPs", 0.0),
            ("parameters", "total", "parameters", 0.0),
            ("memory", "peak_mib", "peak memory", tolerances.memory),
            ("parameters", "checkpoint_bytes", "checkpoint size", tolerances.checkpoint),
        ):
            empty = _fraction("cost", new.variant, name, tolerance)
            if metric == "memory" and baseline.device_type != now.device_type:
                reason = f"measured on {baseline.device_type} in the baseline, on {now.device_type} here"
                checks.append(replace(empty, reason=reason))
                continue
            pair = _measured(old, new, metric)
            if isinstance(pair, str):
                checks.append(replace(empty, reason=pair))
                continue
            values = [_number(measurement, key) for measurement in pair]
            checks.append(_amount_check(empty, values[0], values[1], tolerance))
    return checks


def _number(measurement: Measurement, key: str) -> float:
    value = measurement.values.get(key, measurement.settings.get(key))
    if not isinstance(value, int | float):
        raise NotComparableError(f"{measurement.info.name} holds no {key}: make a new baseline with --update.")
    return float(value)


def _amount_check(empty: Check, old: float, new: float, tolerance: float) -> Check:
    exact = not tolerance
    texts = [f"{value:,.0f}" if value == int(value) else f"{value:,.2f}" for value in (old, new)]
    change = f"{new - old:+,.0f}" if exact else f"{new / old - 1:+.2%}"
    shown = replace(empty, baseline=texts[0], now=texts[1], change=change)
    if new > old * (1 + tolerance):
        return replace(shown, outcome="regressed")
    return replace(shown, outcome="improved" if new < old * (1 - tolerance) else "passed")


def _render(baseline: Snapshot, now: Snapshot, _: Tolerances) -> list[Check]:
    """Pixel by pixel, where the same arithmetic is to be expected."""
    unlike = _unlike(baseline, now)
    checks = []
    for model, hashes in now.render.items():
        old: Mapping[str, str] = baseline.render.get(model, {})
        empty = Check("render", model, "image hashes", "not compared", f"{len(old)}", f"{len(hashes)}", "", "exact")
        if unlike or old.keys() != hashes.keys():
            checks.append(replace(empty, reason=unlike or "the baseline rendered no such model, or other prompts"))
            continue
        changed = [prompt for prompt, digest in hashes.items() if old[prompt] != digest]
        if changed:
            text = f"{len(changed)} of {len(hashes)} images differ: {', '.join(changed[:3])}"
            checks.append(replace(empty, outcome="regressed", change=text))
        else:
            checks.append(replace(empty, outcome="passed", change="equal"))
    if not now.render:
        reason = "nothing is rendered: only on a CPU"
        checks.append(
            Check("render", now.dense.variant, "image hashes", "not compared", "", "", "", "exact", None, reason)
        )
    return checks


def _unlike(baseline: Snapshot, now: Snapshot) -> str:
    """What differs of that which decides the last bits besides the code, "" where nothing does."""
    pairs = zip(_arithmetic(baseline.dense), _arithmetic(now.dense), strict=True)
    return "; ".join(f"{name} {was} in the baseline, {found} here" for (name, was), (_, found) in pairs if was != found)


def _arithmetic(record: RunRecord) -> list[tuple[str, JSON]]:
    libraries = record.environment.get("libraries")
    versions = libraries if isinstance(libraries, Mapping) else {}
    return [("CPU", record.environment.get("cpu")), ("torch", versions.get("torch"))]
