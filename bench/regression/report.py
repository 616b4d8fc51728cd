"""What a regression run tells: a table on the terminal, a Markdown summary, JUnit XML."""

from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.regression.baseline import Snapshot
from bench.regression.check import Check, verdict_of

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
        cells = (check.title, check.baseline, check.now, _change(check), check.tolerance)
        colour = _COLOURS[check.outcome]
        verdict = escape(check.outcome)
        table.add_row(*map(escape, cells), f"[{colour}]{verdict}[/]" if colour else verdict)
    out.print(table)
    for check in checks:
        if check.reason:
            out.print(f"{check.title}: {check.outcome}, {check.reason}", markup=False, soft_wrap=True)
    out.print(_against(baseline), markup=False, soft_wrap=True)
    out.print(headline(checks), markup=False, soft_wrap=True)


def to_markdown(checks: Sequence[Check], baseline: Snapshot, now: Snapshot) -> str:
    """The summary that a CI job shows: headline, table, reasons, and what was measured where."""
    rows = [
        (check.title, check.baseline, check.now, _change(check), check.tolerance, _verdict(check))
        for check in _worst_first(checks)
    ]
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
    root = ET.Element("testsuites", name="fastflux regress")
    for kind in dict.fromkeys(check.kind for check in checks):
        own = [check for check in checks if check.kind == kind]
        suite = ET.SubElement(root, "testsuite", name=kind, tests=str(len(own)))
        for check in own:
            case = ET.SubElement(suite, "testcase", classname=f"regress.{kind}.{check.variant}", name=check.title)
            text = f"{check.baseline} -> {check.now}: {_change(check)} (tolerance {check.tolerance})"
            if check.outcome == "regressed":
                ET.SubElement(case, "failure", message=f"regressed: {text}")
            elif check.outcome in ("undecided", "not compared"):
                ET.SubElement(case, "error", message=f"{check.outcome}: {check.reason}")
            else:
                ET.SubElement(case, "system-out").text = f"{check.outcome}: {text}"
        _count(suite)
    _count(root)
    root.set("time", f"{seconds:.1f}")
    return _text(root)


def refusal_to_junit(message: str) -> str:
    """JUnit XML of a run without a verdict: one test case with an error."""
    root = ET.Element("testsuites", name="fastflux regress")
    suite = ET.SubElement(root, "testsuite", name="regress", tests="1")
    case = ET.SubElement(suite, "testcase", classname="regress", name="verdict")
    ET.SubElement(case, "error", message=f"no verdict: {message}")
    _count(suite)
    _count(root)
    return _text(root)


def _worst_first(checks: Sequence[Check]) -> list[Check]:
    order = list(_COLOURS)
    return sorted(checks, key=lambda check: order.index(check.outcome))


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


def _count(element: ET.Element) -> None:
    """Set the numbers of tests, failures and errors, which readers of JUnit XML show."""
    element.set("tests", str(len(list(element.iter("testcase")))))
    element.set("failures", str(len(list(element.iter("failure")))))
    element.set("errors", str(len(list(element.iter("error")))))


def _text(root: ET.Element) -> str:
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
