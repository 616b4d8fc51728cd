"""Records that are damaged, contradictory, huge or hostile: refused with the reason, or shown without harm."""

import json
import time
from pathlib import Path

import pytest
from drawn import with_digest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from msgspec.structs import replace
from test_latex import HOSTILE

from bench.records.results import RunRecord
from bench.records.statistics import strata_of, stratified_means
from fastflux.errors import FastFluxError
from fastflux.text import one_line
from reports.build import build
from reports.pdf import build_pdf
from reports.rows import read_rows
from reports.table import Cell, Group, Header, Table, to_markdown
from tests.reports.conftest import MakeRecord, Measured, overfull

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
#: The tags that a table of ours writes itself.
OURS = {"<sup>", "</sup>", "<u>", "</u>"}


def shown(token: Token) -> str:
    """The text a reader sees of an inline token, our footnote marks left out."""
    parts, marked = [], False
    for child in token.children or []:
        if child.type == "html_inline":
            assert child.content in OURS
            marked = child.content == "<sup>" or (marked and child.content != "</sup>")
        elif child.type in ("text", "text_special") and not marked:
            parts.append(child.content)
        else:
            assert child.type in ("strong_open", "strong_close", "em_open", "em_close", "text", "text_special")
    return "".join(parts)


@given(st.lists(st.text(), min_size=1, max_size=4))
@example(list(HOSTILE))
@example(["- item", "1. item", "+ item", "# head", "---", "===", "    code", "> quote", "![x](y)", "a  \nb", "12) x"])
def test_markdown_shows_exactly_the_text_and_nothing_else(texts: list[str]) -> None:
    rows = tuple((Cell(text=text, bold=True), Cell(text=text, underline=True), Cell(text=text)) for text in texts)
    headers = tuple(Header(texts[-1], "up") for _ in range(3))
    notes = tuple(text for text in texts if text.split())
    table = Table("t", texts[0], headers, (Group(rows, texts[-1]),), label=texts[0], notes=notes)
    tokens = PARSER.parse(to_markdown(table))
    assert not [
        token for token in tokens if token.type in ("html_block", "code_block", "hr", "fence", "bullet_list_open")
    ]
    inline = [shown(token).strip() for token in tokens if token.type == "inline"]
    expected = [one_line(texts[0])]
    expected += [one_line(texts[0])] if texts[0].split() else []
    expected += [f"{one_line(texts[-1])} ↑".strip()] * 3
    expected += [one_line(texts[-1]), "", ""] if texts[-1] else []
    expected += [one_line(text) for text in texts for _ in range(3)]
    assert inline == [text.strip() for text in expected] + [one_line(text) for text in notes]


@pytest.fixture
def hostile(make_record: MakeRecord, measured: Measured, tmp_path: Path) -> Path:
    """A folder of records, each with one hostile text as its label, in its settings and as a reason, one also as id."""
    text = "".join(HOSTILE)
    for number, one in enumerate(HOSTILE):
        variant = "dense" if number == 0 else f"fastflux{'_&%' if number % 2 else ''}-{number}"
        hps = measured("hps", {"averaged": 1.0}, settings={"prompt": one})
        record = make_record(variant, one, hps, measured("fid", f"broke: {one}"), config={"note": text})
        path = tmp_path / "in" / f"{number}.json"
        path.parent.mkdir(exist_ok=True)
        data = {**json.loads(record.to_json()), "base_model": one, "base_revision": one}
        data["environment"]["commit"] = {"hash": one, "dirty": True}
        data["environment"]["libraries"] = {one: one}
        path.write_text(with_digest(data), encoding="ascii")  # so that half a surrogate pair is in the file
    return tmp_path / "in"


def test_hostile_records_are_shown_without_harm(hostile: Path, tmp_path: Path) -> None:
    written = build(hostile, tmp_path / "out", formats=("md", "tex", "csv", "html"))
    for path in written:
        content = path.read_text(encoding="utf-8")
        assert path.suffix in (".csv", ".html") or "<script" not in content.replace(r"\<script", "")
        assert not {"\x1b", "\x07", "\u202e", "\x00"} & set(content), path


@pytest.mark.usefixtures("pdflatex")
def test_hostile_records_make_a_pdf(hostile: Path, tmp_path: Path) -> None:
    pdf = build_pdf(hostile, tmp_path, ["efficiency", "differences"])
    log = pdf.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    assert overfull(log, more_than=20) == []
    assert "undefined" not in log
    assert "multiply" not in log


def test_folders_below_are_not_mixed_in(results: Path, hps_records: tuple[RunRecord, ...]) -> None:
    replace(hps_records[0], label="Another").write(results / "older" / "dense.json")
    assert next(row.label for row in read_rows(results) if row.variant == "dense") == "FLUX-Shapes"


def test_a_folder_of_folders_says_which_to_give(results: Path) -> None:
    with pytest.raises(FastFluxError, match=f"holds no record; .* such as {results}"):
        read_rows(results.parent)


def test_thousands_of_images_take_seconds(make_record: MakeRecord, measured: Measured, tmp_path: Path) -> None:
    for place, variant in enumerate(("dense", "fastflux-10", "l1-12")):
        samples = {f"{'abcd'[n % 4]}/prompt-{n}": [60.0 + (7 * n + place) % 11] for n in range(5000)}
        found = stratified_means(strata_of(samples), weighting="images", seed=0).overall
        assert found.interval is not None
        intervals = {"averaged": found.interval}
        hps = measured("hps", {"averaged": found.value}, intervals=intervals, samples=samples, scored=5000)
        make_record(variant, variant, hps).write(tmp_path / "in" / f"{variant}.json")
    start = time.monotonic()
    build(tmp_path / "in", tmp_path / "out", formats=("md", "tex", "csv"))
    assert time.monotonic() - start < 60
