"""The page as text: one file that asks for nothing, allows its own script alone, and is the same each time."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from bench.records.results import RunRecord
from bench.tables import TABLES
from fastflux.errors import FastFluxError
from reports.build import build
from reports.cli import main
from reports.figures.gallery import Gallery
from reports.render.html.document import browser_data, page_html
from reports.rows import rows_of
from reports.tables import make_table
from tests.reports.conftest import MakeRecord, Measured

PARTS = ("default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'")


class Page(HTMLParser):
    """Elements with their attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))
        self.open.append(self.found[-1])

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for _, _, text in self.open:
            text.append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(text)) for name, attributes, text in self.found if name == tag]

    def data(self, name: str) -> Any:
        return json.loads(next(text for attributes, text in self.all("script") if attributes.get("id") == name))


def made(records: tuple[RunRecord, ...], gallery: Gallery | None = None) -> str:
    rows = rows_of(records)
    tables = {name: (make_table(name, TABLES[name], rows),) for name in ("table1", "table6", "equal_latency")}
    return page_html(rows, tables, gallery)


def test_the_build_writes_one_page_of_all_tables(results: Path, tmp_path: Path) -> None:
    [written] = build(results, tmp_path, formats=("html",))
    page = Page(written.read_text(encoding="utf-8"))
    assert page.all("h1")[0][1] == "FLUX-Shapes"
    assert [text for _, text in page.all("p") if "not HPS v2 or GenEval of FLUX.1-dev" in text]
    names = {str(attributes.get("id")) for attributes, _ in page.all("figure")}
    assert {*(name.replace("_", "-") for name in TABLES), "table1-paper"} - {"provenance", "beyond"} <= names


def test_the_command_line_writes_the_page_alone(results: Path, tmp_path: Path) -> None:
    arguments = ["--results", str(results), "--tables", "table6", "--format", "html", "-o", str(tmp_path / "page")]
    assert main(["build", *arguments]) == 0
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["page.html"]


def test_ids_are_unique_and_every_link_leads_somewhere(judged_records: tuple[RunRecord, ...], gallery: Gallery) -> None:
    page = Page(made(judged_records, gallery))
    ids = [attributes["id"] for _, attributes, _ in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"]) for attributes, _ in page.all("a")]
    assert links
    assert {link[1:] for link in links} <= set(ids)
    assert all(link.startswith("#") for link in links)


def test_every_number_leads_to_a_record_with_that_value(judged_records: tuple[RunRecord, ...]) -> None:
    text = made(judged_records)
    page = Page(text)
    records = dict(re.findall(r'<details class="record" id="([^"]+)"(.*?)</details>', text, re.DOTALL))
    assert len(records) == len(judged_records)
    cells = [attributes for attributes, _ in page.all("td") if "data-record" in attributes]
    assert any("data-value" in cell for cell in cells)
    for cell in cells:
        record = records[cell["data-record"]]
        assert "data-run" in record
        if "data-value" in cell:
            key = cell["data-key"]
            assert f'<tr data-key="{key}"><th scope="row">{key}</th><td>{cell["data-value"]}</td>' in record
    facts = records["record-1"]
    for expected in (
        "test device",
        "steps 4",
        "weights 0",
        "2026-01-01",
        "--variants fastflux-10 --force",
        "hps (version 1)",
    ):
        assert expected in facts


def test_nothing_is_asked_for_and_only_the_own_script_and_style_may_run(
    judged_records: tuple[RunRecord, ...], gallery: Gallery
) -> None:
    page = Page(made(judged_records, gallery))
    policy = next(str(a["content"]) for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert set(PARTS) <= {part.strip() for part in policy.split(";")}
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (own,) = [text for attributes, text in page.all(tag) if "type" not in attributes]
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert allowed[directive] == f"'sha256-{digest}'"
    for tag, attributes, _ in page.found:
        assert not {"src", "srcset", "style", "action", "data"} & attributes.keys(), tag
        assert not any(name.startswith("on") for name in attributes), tag
    types = {attributes.get("type") for attributes, _ in page.all("script")}
    assert types == {None, "application/json", "text/plain"}
    assert not page.all("link")
    assert not re.search(r"@import|url\(", page.all("style")[0][1])


def test_hostile_prompts_and_labels_stay_data(judged_records: tuple[RunRecord, ...], gallery: Gallery) -> None:
    page = Page(made(judged_records, gallery))
    assert not page.all("img")
    assert len(page.all("script")) == 3 + len(gallery.sheets)
    assert not page.all("b")
    prompts = [shot[3] for shot in page.data("image-data")["shots"]]
    assert prompts[2] == gallery.shots[2].prompt
    assert prompts[4] == "a painting of a ⟨U+0000⟩⟨U+0007⟩ moon"


def test_verdicts_and_scores_stand_with_their_image(judged_records: tuple[RunRecord, ...], gallery: Gallery) -> None:
    rows = rows_of(judged_records)
    data = browser_data(rows, gallery, {})
    dense, light, heavy = data["variants"]
    assert [variant["verdicts"] for variant in data["variants"]] == ["1010-", "1100-", "0001-"]
    assert dense["hps"] == [None, None, None, None, 70.0]
    assert light["hps"][4] == 63.0
    assert heavy["clip"] == [None] * 5
    assert (data["left"], data["right"]) == (0, 2)
    assert data["shots"][3][5:] == [8, 8]
    assert data["shots"][0][2] == str(2**52)  # a seed as text: JavaScript's numbers would round larger ones


def test_a_missing_sample_leaves_out_what_cannot_be_told_apart(
    judged_records: tuple[RunRecord, ...], gallery: Gallery
) -> None:
    dense = judged_records[0]
    verdicts = dense.measurement("geneval")
    samples = {**verdicts.samples, "colors/geneval-a": [1.0]}
    gap = structs.replace(dense.with_measurement(structs.replace(verdicts, samples=samples, missing=1)),
                  sampling={"samples": {"geneval": 2}})  # fmt: skip
    assert browser_data(rows_of([gap]), gallery, {})["variants"][0]["verdicts"] == "-----"
    whole = structs.replace(gap, sampling={"samples": {"geneval": 1}})
    assert browser_data(rows_of([whole]), gallery, {})["variants"][0]["verdicts"] == "1-10-"


def test_sheets_without_a_record_come_last_and_have_no_scores(
    judged_records: tuple[RunRecord, ...], gallery: Gallery
) -> None:
    named = structs.replace(gallery, sheets={"block-3": "dense.png", **gallery.sheets})
    last = browser_data(rows_of(judged_records), named, {})["variants"][-1]
    assert (last["label"], last["verdicts"], last["record"]) == ("block-3", "-----", "")


def test_without_images_the_page_says_how_to_get_them(judged_records: tuple[RunRecord, ...], gallery: Gallery) -> None:
    for given in (None, structs.replace(gallery, sheets={})):
        page = Page(made(judged_records, given))
        assert page.data("image-data") is None
        assert any(
            "build --gallery" in text for attributes, text in page.all("p") if attributes.get("class") == "empty"
        )


@pytest.mark.parametrize(
    ("name", "message"), [("dense.tiff", "of a kind no browser shows"), ("gone.png", "cannot be read")]
)
def test_a_sheet_that_cannot_be_shown_is_one_sentence(
    judged_records: tuple[RunRecord, ...], gallery: Gallery, name: str, message: str
) -> None:
    with pytest.raises(FastFluxError, match=message):
        made(judged_records, structs.replace(gallery, sheets={"dense": name}))


def test_records_that_do_not_share_a_commit_are_told_apart(make_record: MakeRecord, measured: Measured) -> None:
    one, other = (make_record(name, name, measured("hps", {"averaged": 1.0})) for name in ("dense", "fastflux-10"))
    commit = {"hash": "abc", "dirty": True}
    other = structs.replace(other, environment={**other.environment, "commit": commit})
    text = made((one, other))
    assert (
        "<dt>commit</dt><dd>unknown (dense)</dd><dt>commit</dt><dd>abc, with uncommitted changes (fastflux-10)</dd>"
        in text
    )
