"""`python -m bench regress`: measure the suite, compare it with a baseline, and tell that in three forms."""

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

import torch
from msgspec import structs
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.metrics.cost.timing import other_work
from bench.options import Regression
from bench.progress import announce, console
from bench.records.environment import device_name
from bench.regression.baseline import (
    KINDS,
    NoVerdictError,
    Snapshot,
    find_baseline,
    require_comparable,
    require_kinds,
    require_no_loss,
    require_same_device,
    slug,
)
from bench.regression.history import append, point_of
from bench.regression.inputs import Suite
from bench.regression.suite import SuiteRun, threads
from bench.regression.verdicts import Check, Tolerances, judge, verdict_of
from bench.run.folders import REGRESS, locked
from fastflux.errors import FastFluxError
from fastflux.files import write_text

_COLOURS = {"regressed": "bold red", "improved": "green", "undecided": "yellow", "not compared": "yellow", "passed": ""}
_HOW = (
    "Quality: differences paired by prompt and seed, 95% interval, p of a sign-flip test corrected by Holm's method; "
    "latency: medians of one interleaved run, 95% bootstrap interval."
)
_COLUMNS = ("Check", "Baseline", "Now", "Change", "Tolerance", "Verdict")


def headline(checks: Sequence[Check]) -> str:
    """The verdict in a line: "REGRESSED: 1 regressed, 24 passed"."""
    counts: Counter[str] = Counter(check.outcome for check in checks)
    told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in _COLOURS if counts[outcome])
    return f"{verdict_of(checks).upper()}: {told or 'nothing was checked'}"


def show(checks: Sequence[Check], baseline: Snapshot, out: Console) -> None:
    """Print the table, the reasons where there is no verdict, and the headline."""
    table = Table(*_COLUMNS, box=None, title="This run against the baseline", title_justify="left")
    for check in _worst_first(checks):
        colour = _COLOURS[check.outcome]
        verdict = escape(check.outcome)
        table.add_row(*map(escape, _cells(check)), f"[{colour}]{verdict}[/]" if colour else verdict)
    out.print(table)
    for check in checks:
        if check.reason:
            out.print(f"{check.title}: {check.outcome}, {check.reason}", markup=False, soft_wrap=True)
    out.print(_against(baseline), markup=False, soft_wrap=True)
    out.print(headline(checks), markup=False, soft_wrap=True)


def to_markdown(checks: Sequence[Check], baseline: Snapshot, now: Snapshot) -> str:
    """The summary that a CI job shows: headline, table, reasons, and what was measured where."""
    rows = [(*_cells(check), _verdict(check)) for check in _worst_first(checks)]
    lines = [
        f"### Regression checks: {headline(checks)}",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "| --- | ---: | ---: | --- | ---: | --- |",
        *(f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows),
        "",
        *(f"- {check.title}: {check.outcome}, {check.reason}" for check in checks if check.reason),
        *([""] if any(check.reason for check in checks) else []),
        _against(baseline),
        "",
        f"This run: {_commit(now)}, {now.device}, {now.created}; {now.suite['limit']} prompts of each style and task, "
        f"{len(now.yardstick_ms)} rounds; {_others(now)}. " + _HOW,
    ]
    return "\n".join(lines) + "\n"


def refusal_to_markdown(message: str) -> str:
    """The summary of a run without a verdict."""
    return f"### Regression checks: NO VERDICT\n\n{message}\n"


def to_junit(checks: Sequence[Check], seconds: float) -> str:
    """JUnit XML, a test suite for each kind: what is worse is a failure, what has no verdict an error."""
    cases = []
    for check in checks:
        told = f"{check.outcome}: {check.baseline} -> {check.now}: {_change(check)} (tolerance {check.tolerance})"
        tag = {"regressed": "failure", "undecided": "error", "not compared": "error"}.get(check.outcome, "system-out")
        text = f"{check.outcome}: {check.reason}" if tag == "error" else told
        cases.append((check.kind, f"regress.{check.kind}.{check.variant}", check.title, tag, text))
    return _junit(cases, f"{seconds:.1f}")


def refusal_to_junit(message: str) -> str:
    """JUnit XML of a run without a verdict: one test case with an error."""
    return _junit([("regress", "regress", "verdict", "error", f"no verdict: {message}")])


def _junit(cases: Sequence[tuple[str, str, str, str, str]], seconds: str = "") -> str:
    """Of suite, class, name and outcome of each case; with the counts that readers of JUnit XML show."""
    root = ET.Element("testsuites", name="fastflux regress")
    suites = {kind: ET.SubElement(root, "testsuite", name=kind) for kind in dict.fromkeys(case[0] for case in cases)}
    for kind, classname, name, tag, text in cases:
        told = ET.SubElement(ET.SubElement(suites[kind], "testcase", classname=classname, name=name), tag)
        if tag == "system-out":
            told.text = text
        else:
            told.set("message", text)
    for element in (root, *suites.values()):
        for key, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            element.set(key, str(len(list(element.iter(tag)))))
    if seconds:
        root.set("time", seconds)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _worst_first(checks: Sequence[Check]) -> list[Check]:
    order = list(_COLOURS)
    return sorted(checks, key=lambda check: order.index(check.outcome))


def _cells(check: Check) -> tuple[str, ...]:
    return check.title, check.baseline, check.now, _change(check), check.tolerance


def _change(check: Check) -> str:
    chance = "" if check.p_value is None else f", p = {check.p_value:.3f}"
    return check.change + chance


def _verdict(check: Check) -> str:
    return check.outcome if check.outcome == "passed" else f"**{check.outcome}**"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("[", "\\[").replace("]", "\\]")


def _against(baseline: Snapshot) -> str:
    reason = f": {baseline.reason}" if baseline.reason else ""
    return f"Baseline: {_commit(baseline)}, {baseline.device}, {baseline.created}{reason}"


def _others(snapshot: Snapshot) -> str:
    found = snapshot.other_work
    return found if found.startswith("other work") else f"other work: {found or 'not looked for'}"


def _commit(snapshot: Snapshot) -> str:
    if snapshot.commit is None:
        return "no commit"
    return f"commit {str(snapshot.commit['hash'])[:12]}" + (" with changes" if snapshot.commit["dirty"] else "")


HISTORY = "history.jsonl"
_LOG_WIDTH = 180


@dataclass(frozen=True, kw_only=True)
class Options(Regression):
    """What `python -m bench regress --help` lists."""

    suite: Suite = field(default_factory=Suite)
    kinds: tuple[str, ...] = ()
    """Of `KINDS`; empty for all that the device has."""
    tolerances: Tolerances = field(default_factory=Tolerances)
    device: str | None = None
    changes: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where everything goes that is no baseline."""
        return self.out or REGRESS / self.suite.profile_name

    @property
    def place(self) -> Path:
        """Where the baseline is looked for and written."""
        return self.baseline or REGRESS / "baselines"


def regress(options: Options) -> int:
    """Run the checks, or write a baseline; every end but an interruption leaves a summary and JUnit XML.

    Returns:
        0 when every check was taken and none is worse, or a baseline was written; 1 otherwise.

    Raises:
        FastFluxError: options that make no sense together.
    """
    if options.update and not options.reason:
        raise FastFluxError("--update needs --reason TEXT: a baseline says why it was made")
    if options.suite.models and options.baseline is None:
        raise FastFluxError("--model needs --baseline FILE: other baselines hold no model of yours")
    kinds = require_kinds(options.kinds)
    _forget_earlier(options)
    try:
        with locked(options.folder):
            return _regress(options, kinds)
    except Exception as error:
        with contextlib.suppress(OSError, FastFluxError):
            _write(options, refusal_to_markdown(str(error)), refusal_to_junit(str(error)))
        raise


def _forget_earlier(options: Options) -> None:
    """Delete what an earlier run told: its verdict must not be taken for this one's, however this one ends."""
    for path in (*_told(options), options.folder / "run.json"):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _told(options: Options) -> tuple[Path, Path]:
    """The summary and the JUnit XML."""
    return options.summary or options.folder / "summary.md", options.junit or options.folder / "junit.xml"


def _regress(options: Options, kinds: Sequence[str]) -> int:
    run = SuiteRun(options.suite, options.folder, device=options.device, changes=options.changes)
    cpu = torch.device(run.device).type == "cpu"
    kinds = kinds or [kind for kind in KINDS if cpu or kind != "render"]
    if options.update:
        require_no_loss(_written(options, device_name(run.device)), options.suite.names)
    with threads(options.suite.threads) if cpu else contextlib.nullcontext():
        baseline = _baseline(run, options, kinds)
        if options.update or baseline is None:
            _update(run, options, kinds, baseline)
            return 0
        return int(verdict_of(_compare(run, baseline, options, kinds)) != "passed")


def _baseline(run: SuiteRun, options: Options, kinds: Sequence[str]) -> Snapshot | None:
    """The baseline to compare with, refused before the long work where that makes no sense; None if none is needed."""
    device = device_name(run.device)
    try:
        baseline = Snapshot.read(find_baseline(options.place, device, options.suite.profile_name))
        require_comparable(baseline, run.dense_record, options.suite.names, run.description)
        require_same_device(baseline, device, kinds)
    except NoVerdictError as error:
        if not options.update:
            raise
        console.print(f"not compared: {error}", markup=False, soft_wrap=True)
        return None
    return baseline.of(options.suite.names)


def _look_around(run: SuiteRun, options: Options) -> str:
    """What else the device does; raises NoVerdictError where that forbids to measure."""
    found = other_work(run.device)
    on_gpu = torch.device(run.device).type == "cuda"
    if found.busy and (on_gpu or options.require_idle):
        raise NoVerdictError(f"The device is busy: {found}. Wait for it, or stop the other work.")
    if options.require_idle and found.busy is None:
        raise NoVerdictError(f"Whether the device is busy cannot be told: {found}. Leave --require-idle away.")
    return str(found)


def _measure(
    run: SuiteRun, options: Options, kinds: Sequence[str], rounds: int, expected: Mapping[str, float]
) -> Snapshot:
    """All stages, told one by one."""
    found: dict[str, Snapshot] = {}
    work = _look_around(run, options)

    def rest() -> None:
        found["snapshot"] = run.snapshot(kinds)

    # Each with the seconds that the baseline's took.
    stages = {
        "prune": (lambda: run.prune(force=options.force), ("prune",) if options.force or not run.is_pruned else ()),
        "generate and score": (run.score, ("generate", "score")),
        "latency": (lambda: run.time(rounds), ("latency",)),
        "cost and render": (rest, ("cost", "render")),
    }
    if "quality" not in kinds:
        del stages["generate and score"]
    if "latency" not in kinds:
        del stages["latency"]
    announce(
        {name: stage for name, (stage, _) in stages.items()},
        {name: sum(expected.get(part, 0.0) for part in parts) for name, (_, parts) in stages.items()},
    )
    if torch.device(run.device).type == "cuda":
        _look_around(run, options)  # work that began meanwhile is in the times
    return structs.replace(found["snapshot"], other_work=work)


def _compare(run: SuiteRun, baseline: Snapshot, options: Options, kinds: Sequence[str]) -> tuple[Check, ...]:
    """Measure, compare, and measure more rounds of latency while these leave something open."""
    began = time.monotonic()
    suite = options.suite
    shorter = suite.rounds / max(1, len(baseline.yardstick_ms))
    expected = {**baseline.seconds, "latency": baseline.seconds.get("latency", 0.0) * shorter}
    now = _measure(run, options, kinds, suite.rounds, expected)
    now.write(options.folder / "run.json")  # whatever a comparison says, the measuring is not lost
    checks = judge(baseline, now, kinds, options.tolerances)
    while _more_rounds(checks) and len(run.yardstick_ms) < suite.most_rounds:
        console.print(f"latency is open after {len(run.yardstick_ms)} rounds: {suite.rounds} more")
        run.time(suite.rounds)
        now = run.with_times(now)
        checks = judge(baseline, now, kinds, options.tolerances)
    seconds = time.monotonic() - began
    show(checks, baseline, _output())
    now.write(options.folder / "run.json")
    _write(options, to_markdown(checks, baseline, now), to_junit(checks, seconds))
    append(options.folder / HISTORY, [point_of(now.records, now.commit)])
    console.print(f"{seconds:.0f} s; summary.md, junit.xml and run.json are in {options.folder}", markup=False)
    return checks


def _output() -> Console:
    """Results go to stdout, in a log wide enough for the table."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=_LOG_WIDTH)


def _more_rounds(checks: Sequence[Check]) -> bool:
    return any(check.kind == "latency" and check.outcome == "undecided" for check in checks)


def _update(run: SuiteRun, options: Options, kinds: Sequence[str], earlier: Snapshot | None) -> None:
    """Write a baseline with its commit and reason, and say how it differs from the one before."""
    seconds = {} if earlier is None else earlier.seconds
    now = _measure(run, options, KINDS, options.suite.most_rounds, seconds)
    # What was pruned before took no time in this run, but will where nothing is kept.
    spent = {**seconds, **{stage: value for stage, value in now.seconds.items() if value >= 1}}
    now = structs.replace(now, reason=options.reason, seconds=spent)
    if now.commit is None or now.commit["dirty"]:
        console.print("The checkout has changes that no commit holds; the baseline says so.")
    path = _written(options, now.device)
    now.write(path)
    if earlier is not None:
        try:
            show(judge(earlier, now, kinds, options.tolerances), earlier, _output())
        except NoVerdictError as error:  # such as another scorer's weights, which may be why there is a new one
            console.print(f"not compared: {error}", markup=False, soft_wrap=True)
    history = [options.folder / HISTORY]
    if options.place != path:  # a folder of baselines has its history beside them
        history.append(options.place / HISTORY)
    for place in history:
        append(place, [point_of(now.records, now.commit)])
    console.print(f"baseline written: {path} ({options.reason})", markup=False, soft_wrap=True)


def _written(options: Options, device: str) -> Path:
    """The file of the baseline that --update writes."""
    place = options.place
    return place if place.suffix == ".json" else place / slug(device) / f"{options.suite.profile_name}.json"


def _write(options: Options, markdown: str, junit: str) -> None:
    for path, text in zip(_told(options), (markdown, junit), strict=True):
        write_text(path, text)
