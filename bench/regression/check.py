"""A check of the regression suite: what was compared, with which tolerance, and the verdict. Pure data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from bench.records.results import Measurement, RunRecord
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
