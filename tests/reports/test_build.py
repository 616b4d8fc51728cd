"""Documents from a folder of records: same bytes each time, the command line, errors in one sentence, no torch."""

from pathlib import Path

import pytest

from bench.tables import TABLES
from fastflux.errors import FastFluxError
from reports.build import build
from reports.cli import main

TEXTS = ("md", "tex")
KNOWN = ", ".join(sorted(TABLES))
FORMATS = "csv, html, md, pdf, png, svg, tex"


def test_the_same_records_give_the_same_bytes(results: Path, tmp_path: Path) -> None:
    first = build(results, tmp_path / "a", formats=("md", "tex", "svg", "png", "html"))
    second = build(results, tmp_path / "b", formats=("md", "tex", "svg", "png", "html"))
    names = [path.name for path in first]
    assert names[:4] == ["table1.md", "table1.tex", "table1_paper.md", "table1_paper.tex"]
    assert names[-3:] == ["quality_against_latency.png", "quality_against_latency.svg", "page.html"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(names)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_twin_holds_both_tables(results: Path, tmp_path: Path) -> None:
    build(results, tmp_path, ["table1"], ["md"])
    headings = [
        line for line in (tmp_path / "table1_paper.md").read_text(encoding="utf-8").splitlines() if line.startswith("#")
    ]
    assert headings == [
        "### Table 1: HPS by style, FLUX.1-dev as printed in the paper",
        "### Table 1: HPS by style, FLUX-Shapes as measured",
    ]


@pytest.mark.parametrize(
    ("tables", "formats", "message"),
    [
        (["tabel1"], TEXTS, f"Unknown table 'tabel1': expected one of {KNOWN}; did you mean 'table1'?"),
        (["xyz"], TEXTS, f"Unknown table 'xyz': expected one of {KNOWN}."),
        (["table1"], ["mdd"], f"Unknown format 'mdd': expected one of {FORMATS}; did you mean 'md'?"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_written(
    results: Path, tmp_path: Path, tables: list[str], formats: list[str], message: str
) -> None:
    with pytest.raises(FastFluxError) as caught:
        build(results, tmp_path / "out", tables, formats)
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


def test_command_line_builds(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert (
        main(["build", "--results", str(results), "--tables", "table1,table6", "--format", "md", "-o", str(out)]) == 0
    )
    names = ["table1.md", "table1_paper.md", "table6.md", "table6_paper.md"]
    assert capsys.readouterr().out.split() == [str(out / name) for name in names]


def test_command_line_compares(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(results), str(results)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("### Committed against fresh records, FLUX-Shapes\n")
    assert main(["diff", str(results), str(results), "-o", str(tmp_path / "d.md")]) == 0
    assert (tmp_path / "d.md").read_text(encoding="utf-8") == shown


@pytest.mark.parametrize("command", [[], ["build"], ["diff"]])
def test_help_shows_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert "python -m reports" in capsys.readouterr().out.partition("examples:")[2]
