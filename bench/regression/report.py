"""What a regression run tells: a table on the terminal, a Markdown summary, JUnit XML."""

from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.regression.baseline import Snapshot
from bench.regression.verdicts import Check, verdict_of

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
