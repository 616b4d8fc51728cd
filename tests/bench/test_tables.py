"""The one list of tables: what is declared there is known to the runs, measured, and shown."""

from pathlib import Path

import pytest

from bench.profiles.profile import ROOT, load_profile
from bench.profiles.variants import chosen_variants, paper_variants
from bench.records.variant_id import VariantId
from bench.run.reproduce import reproduce
from bench.tables import TABLES, Column, TableSpec, needed_by
from fastflux.errors import FastFluxError
from reports.build import build, make_tables
from reports.rows import read_rows

COMMITTED = ROOT / "reports" / "data" / "results" / "cpu" / "shapes"


def test_a_table_that_is_declared_is_known_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = TableSpec("Mine", (Column("HPS of photos", "hps.photo"),), variants=("fastflux-20", "reuse-10"))
    monkeypatch.setitem(TABLES, "mine", planted)
    chosen = chosen_variants(load_profile("shapes"), needed_by(["mine"]))
    assert [variant.id for variant in chosen] == ["dense", "fastflux-20", "reuse-10"]
    with pytest.raises(FastFluxError, match="--limit is 0"):  # behind the check of the names
        reproduce(profile_name="shapes", tables=["mine"], limit=0, runs=tmp_path)
    (path,) = build(COMMITTED, tmp_path, ["mine"], ["md"])
    assert "| HPS of photos ↑ |" in path.read_text(encoding="utf-8")


def test_every_variant_is_shown_and_every_need_met() -> None:
    variants = [variant.name for variant in paper_variants(load_profile("shapes"))]
    named = {
        name: spec for name, spec in TABLES.items() if spec.needs or spec.variants or spec.families or spec.repeats
    }
    assert {variant for variant in variants if needed_by(named)(variant)} == set(variants)
    for name, spec in named.items():
        for need in spec.needs or spec.variants or spec.families or ():
            known = need == "external" or any(need in (str(variant), variant.family) for variant in variants)
            assert known, f"{name} needs {need}, which no profile prunes"


def test_a_table_of_seeds_needs_what_they_repeat() -> None:
    needed = {variant.name for variant in chosen_variants(load_profile("shapes"), needed_by(["seeds"]))}
    assert {variant.repeated for variant in needed} - {None} == needed - {VariantId("dense")} - {
        variant for variant in needed if variant.repeated
    }


def test_every_table_is_made_of_the_committed_records() -> None:
    rows = read_rows(COMMITTED)
    made = make_tables(rows, TABLES, TABLES)
    expected = [name for name, spec in TABLES.items() if spec.needs is None or spec.chosen(rows)]
    assert [name for name in made if name in TABLES] == expected
    assert all(part.groups for parts in made.values() for part in parts)
    keys = {key for spec in TABLES.values() for column in spec.columns for key in (column.key, column.share) if key}
    unknown = {key for key in keys if not any(row.number(key) is not None for row in rows)}
    assert unknown <= {"fid.precision", "fid.recall"}, "a misspelt key would show dashes for ever"


def test_an_unknown_table_is_refused_with_the_nearest() -> None:
    with pytest.raises(FastFluxError, match="'table1'"):
        needed_by(["tabel1"])
