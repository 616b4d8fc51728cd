"""Tables as HTML: a whole golden fragment, hostile text, numbers to sort by, and text that reads back as it went in."""

# A golden document stands here as it is read: with dashes, and longer than code lines.
# ruff: noqa: E501, RUF001

import json
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_page import Page

from fastflux.text import one_line
from reports.render.html.document import element_id, environment
from reports.table import Cell, Group, Header, Table

TABLE = Table(
    name="sample_1",
    title="A & <B>",
    headers=(Header("Model", align="left"), Header("Score", "up"), Header("Time (ms)", "down", "z.1f")),
    groups=(
        Group(
            (
                (
                    Cell(text="first"),
                    Cell(1.005, bold=True, underline=True, origin=("fastflux-10", "hps.photo"), others=("dense", "gone")),
                    Cell(-0.01, origin=("gone", "latency.median_ms")),
                ),
            )
        ),
        Group(
            (
                (Cell(text="second"), Cell(footnote="no weights"), Cell(-12.34, suffix="(-3%)", interval=(-13.0, -12.0))),
                (Cell(text="third", footnote="alone"), Cell(footnote="no weights"), Cell(float("nan"))),
            ),
            heading="Group 1",
        ),
    ),
    label="Not HPS",
    notes=("n = 3",),
)  # fmt: skip

GOLDEN = """\
<figure class="table" id="sample-1">
<div class="scroll">
<table>
<caption><div class="caption"><h3>A &amp; &lt;B&gt;</h3><p class="whose">Not HPS</p></div></caption>
<thead>
<tr>
<th scope="col" class="left" aria-sort="none"><button type="button">Model</button></th>
<th scope="col" class="right" aria-sort="none" data-better="up"><button type="button">Score&nbsp;<span class="arrow" role="img" aria-label="higher is better">↑</span></button></th>
<th scope="col" class="right" aria-sort="none" data-better="down"><button type="button">Time (ms)&nbsp;<span class="arrow" role="img" aria-label="lower is better">↓</span></button></th>
</tr>
</thead>
<tbody>
<tr><th scope="row" class="left">first</th><td class="right" data-value="1.005" data-record="record-1" data-key="hps.photo" data-others="record-0"><u><strong>1.00</strong></u></td><td class="right" data-value="-0.01">0.0</td></tr>
</tbody>
<tbody>
<tr class="group"><th scope="rowgroup" colspan="3"><span>Group 1</span></th></tr>
<tr><th scope="row" class="left">second</th><td class="right">–<sup><a href="#sample-1-note-a" aria-label="note a">a</a></sup></td><td class="right" data-value="-12.34">−12.3 <span class="behind">[−13.0, −12.0]</span> <span class="behind">(−3%)</span></td></tr>
<tr><th scope="row" class="left">third<sup><a href="#sample-1-note-b" aria-label="note b">b</a></sup></th><td class="right">–<sup><a href="#sample-1-note-a" aria-label="note a">a</a></sup></td><td class="right">nan</td></tr>
</tbody>
</table>
</div>
<figcaption class="notes">
<p id="sample-1-note-a"><sup>a</sup> no weights</p>
<p id="sample-1-note-b"><sup>b</sup> alone</p>
<p>n = 3</p>
</figcaption>
</figure>
"""

HOSTILE = (
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "]]>", "a\u2028b", "nul \x00 bell \x07",
    'quote " and \' ', "\u202eright to left", "$x^2$ \\textbf{b} **c** _d_", "日本語 한국어 עברית 🎨", "\ud800 alone", "&lt;b&gt;",
)  # fmt: skip


def to_html(table: Table, records: Mapping[str, str] = MappingProxyType({})) -> str:
    return str(environment().get_template("table.html").module.figure(table, records))


def rendered(template: str, value: object) -> str:
    return environment().from_string(template).render(value=value)


def test_html_is_exactly_this() -> None:
    assert to_html(TABLE, {"dense": "record-0", "fastflux-10": "record-1"}) == GOLDEN


def test_without_records_no_cell_leads_anywhere() -> None:
    assert "data-record" not in to_html(TABLE)
    assert 'data-value="1.005"' in to_html(TABLE)


def test_columns_of_sentences_get_their_share_of_the_width() -> None:
    headers = (Header("Claim", align="left", width=0.2), Header("Measured", align="left", width=0.6))
    fragment = to_html(Table("t", "T", headers, (Group(((Cell(text="a"), Cell(text="b")),)),)))
    assert '<colgroup><col width="25%"><col width="75%"></colgroup>' in fragment
    assert '<td class="sentence" data-heading="Measured">b</td>' in fragment


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text_wherever_it_stands(text: str) -> None:
    def table(words: str) -> Table:
        row = (Cell(text=words), Cell(1.0, suffix=words, footnote=words, origin=("v", words)))
        return Table("t", words, (Header(words, align="left"), Header(words)), (Group((row,), words),), words, (words,))

    tame, hostile = (Page(to_html(table(words), {"v": "record-0"})).found for words in ("words", text))
    assert [tag for tag, *_ in hostile] == [tag for tag, *_ in tame]
    to_html(table(text), {"v": "record-0"}).encode("utf-8")


@given(st.text())
def test_escaped_text_reads_back_as_the_same_words(text: str) -> None:
    assert Page(f"<p>{rendered('{{ value }}', text)}</p>").all("p") == [({}, one_line(text))]


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_script_data_reads_back_and_cannot_end_its_element(data: object) -> None:
    text = rendered("{{ value|tojson }}", data)
    assert json.loads(text) == data
    assert not set(text) & set("<>&\u2028\u2029")
    assert text.isascii()


def test_script_data_with_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        rendered("{{ value|tojson }}", {"score": float("nan")})


def test_ids_and_facts() -> None:
    assert element_id("table1 paper/ö") == "table1-paper"
    facts = environment().get_template("table.html").module.facts([("a<b", "c&d")], "run")
    assert facts == '<dl class="facts" data-run><dt>a&lt;b</dt><dd>c&amp;d</dd></dl>'
