"""What a run tells: JUnit XML that readers count right, Markdown that shows, a terminal that has the verdict last."""

import io
from xml.etree import ElementTree as ET

from rich.console import Console

from bench.regression import run as report
from bench.regression.verdicts import Check
from tests.bench.made_snapshots import made_snapshot

CHECKS = (
    Check("quality", "fastflux-10", "HPS averaged", "passed", "66.44", "66.40", "-0.04 [-0.10, +0.02]", "-1", 1.0),
    Check("latency", "fastflux-10", "latency ratio to dense", "regressed", "0.93", "1.02", "+9.7%", "+5%"),
    Check("cost", "l1-21", "FLOPs", "improved", "2", "1", "-1", "exact"),
    Check("render", "dense", "image hashes", "not compared", "5", "5", "", "exact", None, "torch <2> & 3"),
    Check("quality", "l1-21", "CLIP score", "undecided", "75", "74", "-1.0", "-0.5", 0.4, "too few | prompts"),
)


def test_junit_counts_what_is_worse_as_failures_and_what_is_open_as_errors() -> None:
    root = ET.fromstring(report.to_junit(CHECKS, 12.34))  # noqa: S314  # our own text
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "time")} == {
        "tests": "5", "failures": "1", "errors": "2", "time": "12.3",
    }  # fmt: skip
    suites = {suite.get("name"): suite for suite in root}
    assert suites["quality"].get("tests") == "2"
    assert suites["latency"].find("testcase/failure") is not None
    error = suites["render"].find("testcase/error")
    assert error.get("message") == "not compared: torch <2> & 3"
    assert suites["cost"].find("testcase/failure") is None
    assert [case.get("classname") for case in suites["cost"]] == ["regress.cost.l1-21"]


def test_markdown_has_the_worst_first_and_every_reason() -> None:
    text = report.to_markdown(CHECKS, made_snapshot(), made_snapshot())
    lines = text.splitlines()
    assert lines[0] == (
        "### Regression checks: REGRESSED: 1 regressed, 1 improved, 1 undecided, 1 not compared, 1 passed"
    )
    rows = [line for line in lines if line.startswith("| ")][2:]
    assert [row.split("|")[-2].strip() for row in rows] == [
        "**regressed**", "**improved**", "**undecided**", "**not compared**", "passed",
    ]  # fmt: skip
    assert "- dense image hashes: not compared, torch <2> & 3" in lines
    assert "\\[-0.10, +0.02\\], p = 1.000" in text
    assert "commit c0ffeec0ffee" in text


def test_no_verdict_is_told_in_both_forms() -> None:
    markdown = report.refusal_to_markdown("no baseline")
    assert markdown.startswith("### Regression checks: NO VERDICT\n\nno baseline")
    root = ET.fromstring(report.refusal_to_junit("no <baseline>"))  # noqa: S314
    assert root.get("errors") == "1"
    assert root.get("failures") == "0"


def test_the_terminal_ends_with_the_verdict() -> None:
    out = io.StringIO()
    report.show(CHECKS, made_snapshot(), Console(file=out, width=160))
    lines = out.getvalue().rstrip().splitlines()
    assert lines[-1].startswith("REGRESSED")
    assert "[-0.10, +0.02]" in out.getvalue()  # no markup of rich's
    assert sum("fastflux-10 latency ratio to dense" in line for line in lines) == 1
