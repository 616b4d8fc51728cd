"""Tables that a TOML file declares: filled like our own, and mistakes named with file, table and key."""

from pathlib import Path

import pytest

from bench.tables import TABLES, TableSpec
from fastflux.errors import FastFluxError
from reports.build import build
from reports.cli import main
from reports.tables import read_tables

ROOT = Path(__file__).resolve().parents[2]
GOOD = """\
[tables.speed]
title = "Speed"
families = ["dense", "fastflux"]
columns = [
    { heading = "HPS", key = "hps.averaged", spec = "z.1f" },
    { heading = "Latency (ms)", key = "latency.median_ms", share = "latency.ratio_to_dense", ranked = false },
]

[tables.pairs]
title = "Pairs"
columns = [{ heading = "HPS", key = "hps.averaged" }]
pairs = { baseline = "l1", candidate = "fastflux" }
"""
SPEED = """\
### Speed, FLUX-Shapes

**Scores are of the FLUX-Shapes scorers (small models on rendered shapes), not HPS v2 or GenEval of FLUX.1-dev; compare them within this table only.**

| Model        |       HPS ↑ |  Latency (ms) ↓ |
| ------------ | ----------: | --------------: |
| FLUX-Shapes  | <u>28.1</u> | 100.00 (100.0%) |
| FastFLUX-10% |        27.9 |   91.00 (91.0%) |
| FastFLUX-30% |        25.0 |   73.00 (73.0%) |

Underlined: best of all rows.

hps (version 1): hand-made hps; n = 8

latency (version 1): hand-made latency; device test device
"""  # noqa: E501


def declared(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_declared_table_is_exactly_this(results: Path, tmp_path: Path) -> None:
    path = declared(tmp_path, GOOD)
    written = build(results, tmp_path / "out", ["table6", str(path)], ["md", "csv"])
    names = ["table6.md", "table6_paper.md", "speed.md", "pairs.md", "table6.csv", "table6_paper.csv"]
    assert [found.name for found in written][:6] == names
    assert (tmp_path / "out" / "speed.md").read_text(encoding="utf-8") == SPEED
    assert "*Latency 0.910 to 0.920 of dense*" in (tmp_path / "out" / "pairs.md").read_text(encoding="utf-8")


def test_a_declaration_says_the_same_as_one_of_ours(tmp_path: Path) -> None:
    text = """
        [tables.mine]
        title = "Table 4: without Sandwich Training"
        variants = ["dense", "fastflux-10", "brll-10"]
        columns = [
            { heading = "HPS averaged", key = "hps.averaged" },
            { heading = "CLIP score", key = "clip_score.mean" },
            { heading = "Latency (ms)", key = "latency.median_ms", share = "latency.ratio_to_dense", share_spec = "z.3f", ranked = false },
        ]
    """  # noqa: E501
    ours: TableSpec = TABLES["table4"]
    assert read_tables(declared(tmp_path, text))["mine"].columns == ours.columns
    assert read_tables(declared(tmp_path, text))["mine"].variants == ours.variants


def test_the_documented_example_is_read() -> None:
    text = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
    example = text.partition("```toml\n")[2].partition("```")[0]
    assert "speed" in example
    assert (ROOT / "docs" / "speed.toml").read_text(encoding="utf-8") == example
    assert set(read_tables(ROOT / "docs" / "speed.toml")) == {"speed"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[tables.speed]", "[tables.speed", r"mine\.toml cannot be read as TOML .*line 1"),
        ("[tables.speed]", "[table.speed]", r"mine\.toml has \['table', 'tables'\] at its top; expected \[tables\."),
        ("[tables.speed]", "[tables.table1]", r"names a table 'table1', which is another document's name"),
        ("[tables.speed]", '[tables."../x"]', r"names a table '\.\./x'; expected letters"),
        ('title = "Speed"', "", r"table speed: Object missing required field `title`"),
        ('title = "Speed"', "title = 3", r"table speed: Expected `str`, got `int` - at `\$\.title`"),
        ('title = "Speed"', 'titel = "Speed"', r"mine\.toml, table speed: Object contains unknown field `titel`"),
        ('title = "Speed"', 'title = "Speed"\npaper = true', r"table speed says paper, which only FastFLUX's own"),
        ('title = "Speed"', 'title = "Speed"\nvariants = ["dense"]', r"table speed: expected either families or"),
        ('key = "hps.averaged", spec', "spec", r"missing required field `key` - at `\$\.columns\[0\]`"),
        ('spec = "z.1f"', 'spec = "z.1q"', r"table speed, column 1: spec 'z\.1q' \("),
        ("ranked = false", 'ranked = "no"', r"Expected `bool`, got `str` - at `\$\.columns\[1\]\.ranked`"),
        ('["dense", "fastflux"]', '"dense"', r"Expected `array \| null`, got `str` - at `\$\.families`"),
        ('candidate = "fastflux"', 'candidate = "fastflux", by = "x"', r"Invalid enum value 'x' - at `\$\.pairs\.by`"),
        ("hps.averaged", "hps.avreged", r"Table speed: Unknown value 'hps\.avreged'.* 'hps\.averaged'\?"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_anything_is_written(
    results: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    path = declared(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(FastFluxError, match=message):
        build(results, tmp_path / "out", [str(path)], ["md"])
    assert not (tmp_path / "out").exists()


def test_why_knows_declared_tables(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = declared(tmp_path, GOOD)
    command = ["why", f"{path}:speed", "FastFLUX-10%", "HPS", "--results", str(results)]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("Speed: FastFLUX-10%, HPS\nvalue: 27.9\n")
    assert main([*command[:1], f"{path}:sped", *command[2:]]) == 1
    expected = "python -m reports: Unknown table 'sped': expected one of pairs, speed; did you mean 'speed'?\n"
    assert capsys.readouterr().err == expected
