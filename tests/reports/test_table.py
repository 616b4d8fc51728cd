"""Tables as text: whole golden documents, escaping, footnotes."""

# Golden documents stand here as they are read: with dashes, and longer than code lines.
# ruff: noqa: RUF001

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastflux.text import one_line
from reports.table import Cell, Group, Header, Table, escape_markdown, letter, to_markdown

TABLE = Table(
    name="sample_1",
    title="A_B & C",
    headers=(Header("Model|name", align="left"), Header("Score", "up"), Header("Time (ms)", "down", "z.1f")),
    groups=(
        Group(((Cell(text="a*b_c"), Cell(1.005, bold=True, underline=True), Cell(-0.01)),)),
        Group(
            (
                (
                    Cell(text="[x] 5%"),
                    Cell(footnote="failed: no | weights"),
                    Cell(-12.34, suffix="(-3%)", interval=(-13.0, -12.0)),
                ),
                (Cell(text="<y>", footnote="alone"), Cell(footnote="failed: no | weights"), Cell(text="$n/a$")),
            ),
            heading="Group #1",
        ),
    ),
    label="Not ~ HPS",
    notes=("n = 3 \\ all",),
)

MARKDOWN = r"""### A\_B \& C

**Not \~ HPS**

| Model\|name       |         Score ↑ |                  Time (ms) ↓ |
| ----------------- | --------------: | ---------------------------: |
| a\*b\_c           | <u>**1.00**</u> |                          0.0 |
| *Group \#1*       |                 |                              |
| \[x\] 5%          |   –<sup>a</sup> | -12.3 \[-13.0, -12.0\] (-3%) |
| \<y\><sup>b</sup> |   –<sup>a</sup> |                      \$n/a\$ |

<sup>a</sup> failed: no \| weights

<sup>b</sup> alone

n = 3 \\ all
"""


def test_markdown_is_exactly_this() -> None:
    assert to_markdown(TABLE) == MARKDOWN


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="'t' has 2 columns, but a row of 1 cells"):
        Table("t", "T", (Header("a"), Header("b")), (Group(((Cell(1.0),),)),))


def test_a_table_without_label_has_no_empty_bold_line() -> None:
    assert (
        to_markdown(Table("t", "T", (Header("a"),), (Group(((Cell(2.0),),)),)))
        == "### T\n\n|    a |\n| ---: |\n| 2.00 |\n"
    )


def test_footnote_letters_go_on_after_z() -> None:
    assert [letter(index) for index in (0, 1, 25, 26, 27, 51, 52)] == ["a", "b", "z", "aa", "ab", "az", "ba"]


@given(st.text())
def test_escaped_markdown_reads_back_as_the_same_words(text: str) -> None:
    escaped = escape_markdown(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[|*_`<>#]", re.sub(r"\\.", "", escaped))
    assert re.sub(r"\\(.)", r"\1", escaped) == one_line(text)
