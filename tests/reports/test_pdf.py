"""The PDF of a folder of records: the same bytes, nothing off the page, and errors that say what to install or mend."""

import re
from pathlib import Path

import pytest

from bench.records.results import RunRecord
from fastflux.errors import FastFluxError
from reports.cli import main
from reports.pdf import PACKAGES, build_pdf, check_latex, compile_latex, report_document
from reports.render.latex.tables import anchor
from reports.rows import read_rows
from tests.reports.conftest import overfull

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "reports" / "data" / "results" / "cpu" / "shapes"
TABLES = ("table1", "table6", "claims")


@pytest.mark.usefixtures("pdflatex")
def test_the_same_document_gives_the_same_pdf_with_everything_on_the_page(results: Path, tmp_path: Path) -> None:
    pdf = build_pdf(results, tmp_path / "a", TABLES)
    data = pdf.read_bytes()
    assert data.startswith(b"%PDF-")
    assert str(tmp_path).encode() not in data
    again = compile_latex(tmp_path / "a" / "latex" / "report.tex", tmp_path / "again.pdf", epoch=1_767_225_600)
    assert again.read_bytes() == data
    log = pdf.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    assert overfull(log) == []
    assert "undefined" not in log
    assert "multiply" not in log
    document = (tmp_path / "a" / "latex" / "report.tex").read_text(encoding="ascii")
    for name in ("claims", "table1", "table1_paper", "table6", "provenance"):
        assert rf"\input{{{name}}}" in document
    assert r"\includegraphics{quality_against_latency.pdf}" in document
    assert "importance" not in document, "the committed ranking is of other weights"


@pytest.mark.usefixtures("pdflatex")
def test_every_row_leads_to_its_record(results: Path, hps_records: tuple[RunRecord, ...], tmp_path: Path) -> None:
    build_pdf(results, tmp_path, ["table1"])
    texts = {path.stem: path.read_text(encoding="ascii") for path in (tmp_path / "latex").glob("*.tex")}
    for record in hps_records:
        label = anchor(record.variant)
        assert texts["provenance"].count(rf"\phantomsection\label{{{label}}}") == 1
        assert rf"\hyperref[{label}]{{{record.label.replace('%', chr(92) + '%')}" in texts["table1"]
        assert record.key in texts["provenance"].replace(r"\allowbreak{}", "")


@pytest.mark.usefixtures("pdflatex")
def test_the_committed_fragments_fit_the_page(tmp_path: Path) -> None:
    rows = read_rows(COMMITTED)
    fragments = {
        path.stem: path.read_text(encoding="ascii") for path in sorted((ROOT / "reports/generated").glob("*.tex"))
    }
    for name, text in fragments.items():
        (tmp_path / f"{name}.tex").write_text(text, encoding="ascii")
    document = tmp_path / "report.tex"
    document.write_text(report_document(rows, fragments, []), encoding="ascii")
    log = compile_latex(document, tmp_path / "out" / "report.pdf").with_suffix(".log").read_text(errors="replace")
    assert overfull(log) == []


def test_a_missing_pdflatex_names_what_to_install(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["pdf", "--results", str(results), "-o", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == (
        "python -m reports: pdflatex is not installed, which makes the PDF: "
        "apt-get install --no-install-recommends texlive-latex-recommended\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("pdflatex")
def test_a_missing_package_names_debians() -> None:
    check_latex(PACKAGES)
    with pytest.raises(FastFluxError, match=r"^LaTeX lacks nosuchsty: apt-get install .* texlive-of-it$"):
        check_latex({**PACKAGES, "nosuchsty": "texlive-of-it"})


@pytest.mark.usefixtures("pdflatex")
def test_an_error_of_latex_shows_its_line(tmp_path: Path) -> None:
    document = tmp_path / "x.tex"
    document.write_text("\\documentclass{article}\\begin{document}\nfine\n\\nosuchcommand here\n\\end{document}\n")
    with pytest.raises(FastFluxError, match=r"Undefined control sequence\. / l\.3 \\nosuchcommand"):
        compile_latex(document, tmp_path / "x.pdf")
    assert not (tmp_path / "x.pdf").exists()


@pytest.mark.usefixtures("pdflatex")
def test_no_shell_is_run(tmp_path: Path) -> None:
    document = tmp_path / "x.tex"
    body = rf"\immediate\write18{{touch {tmp_path}/touched}}x"
    document.write_text(rf"\documentclass{{article}}\begin{{document}}{body}\end{{document}}")
    compile_latex(document, tmp_path / "x.pdf")
    assert not (tmp_path / "touched").exists()


def test_overfull_boxes_are_found_in_a_log() -> None:
    log = (
        "Overfull \\hbox (12.5pt too wide) in alignment at lines 3--9\n []\n"
        "Overfull \\hbox (0.4pt too wide) in paragraph at lines 1--2\nUnderfull \\hbox (badness 10000)\n"
        "Overfull \\vbox (3.0pt too high) has occurred while \\output is active\n"
    )
    assert [re.search(r"[\d.]+pt", line)[0] for line in overfull(log)] == ["12.5pt", "3.0pt"]
