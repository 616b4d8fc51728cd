"""Tables as DataFrames: full precision in, full precision out; the CSV as literal text, harmless to spreadsheets."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.results import RunRecord
from bench.tables import TABLES
from fastflux.text import one_line
from reports.render.frame import to_frame, write_csv
from reports.rows import rows_of
from reports.table import Cell, Group, Header, Table
from reports.tables import make_table

ROOT = Path(__file__).resolve().parents[2]
TABLE = Table(
    "sample",
    "Sample",
    (
        Header("Model", align="left"), Header("Score", "up"), Header("FLOPs (M)", scale=1e6), Header("Score"),
        Header("=x"),
    ),
    (
        Group(
            ((
                Cell(text="=cmd()"), Cell(0.1 + 0.2, "0.30", "few", interval=(0.25, 0.35)), Cell(3.2e8), Cell(),
                Cell(-1.0),
            ),)
        ),
        Group(
            (
                (Cell(text='b,\n"c" d'), Cell(footnote="failed"), Cell(1.0, "0.00", suffix="(-9%)"), Cell(text="n/a"),
                 Cell(2.0)),
                (Cell(), Cell(2.0, "2.00 ± 0.10"), Cell(None), Cell(1.5), Cell(50.0, "50%")),
            ),
            "Second",
        ),
    ),
    label="Hand-made",
    notes=("A note.",),
)  # fmt: skip

CSV = """\
group,Model,Score,Score low,Score high,Score suffix,FLOPs (M),FLOPs (M) suffix,Score (2),'=x,notes,scores
,'=cmd(),0.30000000000000004,0.25,0.35,,320.0,,,-1.0,Score: few,Hand-made
Second,"b, ""c"" d",,,,,1e-06,(-9%),,2.0,Score: failed; Score: n/a,Hand-made
Second,,2.0,,,± 0.10,,,1.5,50.0,,Hand-made
"""


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def test_csv_is_exactly_this(tmp_path: Path) -> None:
    assert write_csv(TABLE, tmp_path / "t.csv").read_bytes().decode("utf-8") == CSV


def test_a_table_of_records_is_a_frame_at_full_precision(hps_records: tuple[RunRecord, ...]) -> None:
    rows = rows_of(hps_records)
    frame = to_frame(make_table("table1", TABLES["table1"], rows))
    assert frame["Averaged"].dtype == "float64"
    values = dict(zip(frame["Model"], frame["Averaged"], strict=True))
    assert values["FastFLUX-10%"] == 27.9
    assert values["FLUX-Shapes"] == 28.0625, "shown as 28.06"
    assert frame.loc[frame["Model"] == "FLUX-Pruning-27%", "Averaged"].isna().all()
    notes = dict(zip(frame["Model"], frame["notes"], strict=True))
    gap = "Animation, Concept-art, Painting, Photo, Averaged: hps: failed, scorer weights missing"
    assert gap in notes["FLUX-Pruning-27%"]
    assert frame["group"].tolist()[1] == "Latency 0.910 to 0.920 of dense"
    assert frame.attrs["title"] == "Table 1: HPS by style, FLUX-Shapes"
    assert frame["scores"].str.startswith("Scores are of the FLUX-Shapes scorers").all()


@given(st.lists(st.tuples(st.text(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=5))
def test_any_text_and_number_comes_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, float]]
) -> None:
    folder = tmp_path_factory.mktemp("frames")
    rows = tuple((Cell(text=text), Cell(number)) for text, number in cells)
    table = Table("t", "T", (Header("M", align="left"), Header("N")), (Group(rows),))
    texts = [one_line(text) for text, _ in cells]
    assert to_frame(table)["M"].tolist() == texts
    text = read(write_csv(table, folder / "t.csv"))
    assert text["N"].tolist() == [number for _, number in cells]
    shown = pd.read_csv(folder / "t.csv", dtype={"M": "str"}, keep_default_na=False)["M"].tolist()
    assert shown == [f"'{one}" if one[:1] in tuple("=+-@") else one for one in texts]


def test_the_documented_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = Path("docs", "reports.md").read_text(encoding="utf-8")
    *lines, last = text.partition("```python\n")[2].partition("```")[0].strip().splitlines()
    names: dict[str, object] = {}
    exec("\n".join(lines), names)  # noqa: S102  # our own documentation
    shown = eval(last, names)  # noqa: S307
    assert shown.shape == (13, 4)
    assert (shown["Averaged low"] <= shown["Averaged"]).all()
