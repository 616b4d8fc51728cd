"""Many runs without a change, in one table: how far their figures scatter, and whether any raised an alarm."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.regression.baseline import Snapshot
from bench.regression.check import Check, exit_of


@dataclass(frozen=True)
class Repetition:
    """One of them: what it measured, its verdicts and its seconds."""

    snapshot: Snapshot
    checks: tuple[Check, ...]
    seconds: float


def repetitions_to_markdown(runs: Sequence[Repetition], baseline: Snapshot) -> str:
    """A row for each run with the changes of its latency checks, then the spread of every check."""
    latency = [check.title for check in runs[0].checks if check.kind == "latency"]
    alarms = sum(any(check.outcome == "regressed" for check in run.checks) for run in runs)
    codes = Counter(exit_of(run.checks) for run in runs)
    ends = ", ".join(f"{count} x {code.name} (exit {code.value})" for code, count in sorted(codes.items()))
    header = ["Run", "At", "Other work", *latency, "Rounds", "Regressed", "Undecided", "Seconds", "Exit"]
    commit = baseline.commit or {}
    lines = [
        f"### {len(runs)} runs without a change: {alarms} with an alarm",
        "",
        f"{ends}. Baseline of commit {str(commit.get('hash', 'unknown'))[:12]}, {baseline.created}, {baseline.device}.",
        "",
        f"| {' | '.join(header)} |",
        f"| {' | '.join(['---:'] * len(header))} |",
    ]
    for number, run in enumerate(runs, start=1):
        by_title = {check.title: check for check in run.checks}
        counts = Counter(check.outcome for check in run.checks)
        cells = [
            *(str(number), run.snapshot.created[11:19], run.snapshot.other_work),
            *(_short(by_title[title].change) for title in latency),
            *(str(len(run.snapshot.yardstick_ms)), str(counts["regressed"])),
            *(str(counts["undecided"] + counts["not compared"]), f"{run.seconds:.0f}"),
            str(exit_of(run.checks).value),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| Check | Tolerance | Smallest change | Largest change | Verdicts |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for title in dict.fromkeys(check.title for run in runs for check in run.checks):
        own = [check for run in runs for check in run.checks if check.title == title]
        changes = sorted((check.change.split(" ")[0].rstrip(",") for check in own), key=_size)
        verdicts = ", ".join(f"{count} {outcome}" for outcome, count in Counter(c.outcome for c in own).items())
        lines.append(f"| {title} | {own[0].tolerance} | {changes[0]} | {changes[-1]} | {verdicts} |")
    return "\n".join(lines) + "\n"


def _short(change: str) -> str:
    """A latency's change without its rounds, which have a column."""
    return re.sub(r", \d+ rounds", "", change).replace("[", "\\[").replace("]", "\\]")


def _size(change: str) -> float:
    """The number that a change begins with, 0 where it is a word."""
    found = re.match(r"[-+]?[\d.]+", change.replace(",", ""))
    return float(found[0]) if found else 0.0
