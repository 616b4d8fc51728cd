"""Checks of the regression suite: two snapshots in, a verdict for each out. Pure: no torch, no files, no clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from bench.metrics.catalogue import Metric, metric_named
from bench.records.results import JSON, Measurement, RunRecord
from bench.records.statistics import SEED, SIGNIFICANT, PairedDifference, compared, holm, median_change
from bench.regression.baseline import NoVerdictError, Snapshot
from fastflux.errors import FastFluxError, unknown_name

Outcome = Literal["passed", "improved", "regressed", "undecided", "not compared"]


@dataclass(frozen=True)
class Tolerances:
    """How much worse is still as good. Scores are differences, all others fractions of the baseline.

    Scores: above what pruning from another seed changes, as a machine of other rounding does (FastFLUX-20% on the
    suite's prompts: HPS up to 0.3, GenEval 0.02, CLIP score 0.4), and what so few prompts can tell from chance.
    Latency: ratios of a run scatter by up to 3% between runs on a machine in use. The dense model's own time hangs on
    the yardstick, which other work does not slow quite alike: up to 9%. Memory and checkpoint hold some bytes that
    libraries decide.
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


def tolerances(given: Mapping[str, str]) -> Tolerances:
    """The tolerances with other values for some; raises FastFluxError for an unknown name or a number below 0."""
    known = [entry.name for entry in fields(Tolerances)]
    found = {}
    for name, text in given.items():
        if name not in known:
            raise unknown_name("tolerance", name, known)
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = -1.0
        if not 0 <= found[name] < float("inf"):
            raise FastFluxError(f"--tolerance {name}={text}: expected a number of 0 or more, such as {name}=0.1")
    return Tolerances(**found)


def verdict_of(checks: Sequence[Check]) -> Outcome:
    """Of all together: "regressed" if anything is; else "undecided" unless everything was checked; else "passed"."""
    outcomes = {check.outcome for check in checks}
    if "regressed" in outcomes:
        return "regressed"
    return "undecided" if not checks or outcomes & {"undecided", "not compared"} else "passed"


def record_pairs(baseline: Snapshot, now: Snapshot) -> list[tuple[RunRecord, RunRecord]]:
    """(old, new) records of every variant of `now`."""
    found = [(baseline.record(record.variant), record) for record in now.records]
    return [(old, new) for old, new in found if old is not None]


def measured_pair(old: RunRecord, new: RunRecord, metric: str) -> tuple[Measurement, Measurement] | str:
    """Both measurements, or why there is no comparing them."""
    pair = old.measurement(metric), new.measurement(metric)
    for side, measurement in zip(("the baseline", "this run"), pair, strict=True):
        if measurement is None or measurement.status != "ok":
            return f"{metric} of {side}: {measurement.reason if measurement else 'not measured'}"
    first, second = pair
    if first is None or second is None:  # for mypy: the loop has told
        return metric
    if first.info.version != second.info.version:
        raise NoVerdictError(
            f"{metric} has version {first.info.version} in the baseline and {second.info.version} here: "
            "make a new one with --update."
        )
    return first, second


def judge(baseline: Snapshot, now: Snapshot, kinds: Sequence[str], tolerances: Tolerances) -> tuple[Check, ...]:
    """The verdicts on all variants of `now`, which the baseline must hold, by kind.

    Raises NoVerdictError when a metric has another version than in the baseline.
    """
    checks = {"quality": quality_checks, "latency": _latency, "cost": _cost, "render": _render}
    return tuple(check for kind in kinds for check in checks[kind](baseline, now, tolerances))


# -- latency


def _latency(baseline: Snapshot, now: Snapshot, tolerances: Tolerances) -> list[Check]:
    """Pruned models by their ratio to dense within a run, the dense model by its ratio to the yardstick."""
    checks = [_machine_check(baseline, now, tolerances.time)]
    dense = (baseline.dense, now.dense)
    for old, new in record_pairs(baseline, now)[1:]:
        pairs = [measured_pair(dense[0], dense[1], "latency"), measured_pair(old, new, "latency")]
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
    pair = measured_pair(baseline.dense, now.dense, "latency")
    if isinstance(pair, str):
        return replace(empty, reason=pair)
    if baseline.device != now.device:
        return replace(empty, reason=f"the baseline was measured on {baseline.device}, this is {now.device}")
    times = [measurement.samples["ms"] for measurement in pair]
    yardsticks = [list(baseline.yardstick_ms), list(now.yardstick_ms)]
    ratios = [[a / b for a, b in zip(ms, yards, strict=True)] for ms, yards in zip(times, yardsticks, strict=True)]
    check = _ratio_check(empty, ratios[0], ratios[1], tolerance)
    raw, machine = median_change(times[1], times[0], seed=SEED), median_change(*reversed(yardsticks), seed=SEED)
    told = f"{raw.value - 1:+.1%} in ms, of which the machine {machine.value - 1:+.1%}"
    texts = [f"{measurement.values['median_ms']:.1f} ms" for measurement in pair]
    return replace(check, baseline=texts[0], now=texts[1], change=f"{check.change} ({told})")


def _ratio_check(empty: Check, old: list[float], new: list[float], tolerance: float) -> Check:
    """Worse when the whole interval of the change lies beyond the tolerance, as good when none of it does."""
    change = median_change(new, old, seed=SEED)
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
    for old, new in record_pairs(baseline, now):
        for metric, key, name, tolerance in (
            ("flops", "forward", "FLOPs", 0.0),
            ("parameters", "total", "parameters", 0.0),
            ("memory", "peak_mib", "peak memory", tolerances.memory),
            ("parameters", "checkpoint_bytes", "checkpoint size", tolerances.checkpoint),
        ):
            empty = _fraction("cost", new.variant, name, tolerance)
            if metric == "memory" and baseline.device != now.device:
                reason = f"measured on {baseline.device} in the baseline, on {now.device} here"
                checks.append(replace(empty, reason=reason))
                continue
            pair = measured_pair(old, new, metric)
            if isinstance(pair, str):
                checks.append(replace(empty, reason=pair))
                continue
            values = [_number(measurement, key) for measurement in pair]
            checks.append(_amount_check(empty, values[0], values[1], tolerance))
    return checks


def _number(measurement: Measurement, key: str) -> float:
    value = measurement.values.get(key, measurement.settings.get(key))
    if not isinstance(value, int | float):
        raise NoVerdictError(f"{measurement.info.name} holds no {key}: make a new baseline with --update.")
    return float(value)


def _amount_check(empty: Check, old: float, new: float, tolerance: float) -> Check:
    exact = not tolerance
    texts = [f"{value:,.0f}" if value == int(value) else f"{value:,.2f}" for value in (old, new)]
    change = f"{new - old:+,.0f}" if exact else f"{new / old - 1:+.2%}"
    shown = replace(empty, baseline=texts[0], now=texts[1], change=change)
    if exact and new < old:  # a block or an adapter that is lost makes a model smaller, too
        return replace(shown, outcome="regressed", reason="less than in the baseline: if that is meant, --update")
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
    return "; ".join(
        f"{name} {was} in the baseline, {found} here"
        for (name, was), (_, found) in pairs
        if None not in (was, found) and was != found
    )


#: What says which instructions the CPU has.
_CPU = {"CPU": "cpu", "instructions": "cpu_capability"}


def _arithmetic(record: RunRecord) -> list[tuple[str, JSON]]:
    libraries = record.environment.get("libraries")
    versions = libraries if isinstance(libraries, Mapping) else {}
    environment = record.environment
    return [(name, environment.get(key)) for name, key in _CPU.items()] + [("torch", versions.get("torch"))]


#: The scores with a tolerance.
SCORES = tuple(map(metric_named, ("hps", "geneval", "clip_score")))


def quality_checks(baseline: Snapshot, now: Snapshot, tolerances: Tolerances) -> list[Check]:
    """Worse only if beyond the tolerance and significant among all quality checks; pairs share prompt and seed."""
    found = [
        (getattr(tolerances, score.name), *_compared(score, old, new, getattr(tolerances, score.name)))
        for old, new in record_pairs(baseline, now)
        for score in SCORES
        if old.measurement(score.name) is not None or new.measurement(score.name) is not None
    ]
    corrected = iter(holm([paired.p_bound for _, _, paired in found if paired is not None]))
    return [
        check if paired is None else _decided(check, paired, tolerance, next(corrected))
        for tolerance, check, paired in found
    ]


def _compared(score: Metric, old: RunRecord, new: RunRecord, tolerance: float) -> tuple[Check, PairedDifference | None]:
    """The check without its verdict, and what decides it where the two can be compared."""
    pair = measured_pair(old, new, score.name)
    empty = Check("quality", new.variant, score.title, "not compared", "", "", "", f"-{tolerance:g}")
    if isinstance(pair, str):
        return replace(empty, reason=pair), None
    _require_one_scorer(*pair)
    texts = [format(measurement.values[score.headline], score.spec) for measurement in pair]
    shown = replace(empty, baseline=texts[0], now=texts[1])
    paired = compared(pair[1:], pair[:1], score.weighting)
    if isinstance(paired, str):
        return replace(shown, reason=paired), None
    return replace(shown, change=f"{paired.difference.signed(score.spec)}, {paired.prompts} prompts"), paired


def _require_one_scorer(old: Measurement, new: Measurement) -> None:
    """Raise NoVerdictError when what both say of their scorer differs, such as its weights."""
    differing = [
        f"{key} ({old.settings[key]} there, {new.settings[key]} here)"
        for key in sorted(old.settings.keys() & new.settings.keys())
        if old.settings[key] != new.settings[key]
    ]
    if differing:
        raise NoVerdictError(
            f"{old.info.name} of the baseline was scored by something else: {'; '.join(differing)}. Go back to what "
            "scored there, or make a new one with --update."
        )


def _decided(check: Check, paired: PairedDifference, tolerance: float, p_value: float) -> Check:
    """The check with its verdict and its corrected p-value."""
    change, significant = paired.difference, p_value < SIGNIFICANT
    outcome: Outcome = "passed"
    reason = ""
    if change.value < -tolerance:
        outcome = "regressed" if significant else "undecided"
        reason = "" if significant else f"beyond the tolerance, but {paired.prompts} prompts are too few to be sure"
    elif change.value > tolerance and significant:
        outcome = "improved"
    elif change.interval is None or change.interval[0] < -2 * tolerance:
        outcome = "undecided"
        reason = f"{paired.prompts} prompts are too few: they leave a loss of twice the tolerance possible"
    return replace(check, outcome=outcome, p_value=p_value, reason=reason)
