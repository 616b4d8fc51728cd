"""Profiles and variants: the paper's rows, and what unknown names and impossible wishes get."""

from pathlib import Path

import pytest

from bench import profile as profiles
from bench.profile import load_profile, require_disk
from bench.reproduce import reproduce
from bench.variants import TABLES, chosen_variants, paper_variants
from fastflux.errors import FastFluxError


def test_the_variants_are_the_papers() -> None:
    variants = {variant.id: variant for variant in paper_variants("FLUX-Shapes")}
    assert list(variants) == [
        "dense", "fastflux-05", "fastflux-10", "fastflux-15", "fastflux-20", "fastflux-25", "fastflux-30",
        "l1-12", "l1-21", "l1-27",
    ]  # fmt: skip
    assert variants["fastflux-05"].label == "FastFLUX-5%"
    assert variants["l1-21"].label == "FLUX-Pruning-21%"


def test_table6_needs_no_l1_variant() -> None:
    assert not [v.id for v in chosen_variants("x", ["table6"]) if v.id.startswith("l1")]
    assert len(chosen_variants("x", TABLES)) == 10


def test_named_variants_bring_the_dense_model_along() -> None:
    assert [variant.id for variant in chosen_variants("x", TABLES, ["l1-12"])] == ["dense", "l1-12"]


@pytest.mark.parametrize(
    ("wish", "answer"),
    [
        ({"profile_name": "shpes"}, "shapes"),
        ({"profile_name": "shapes", "tables": ["tabel1"]}, "table1"),
        ({"profile_name": "shapes", "variant_names": ["fastflux-11"]}, "fastflux-1"),
        ({"profile_name": "shapes", "limit": 0}, "at least 1"),
        ({"profile_name": "shapes", "seeds": 0}, "at least 1"),
        ({"profile_name": "shapes", "limit": 2, "accept": True}, "whole runs only"),
    ],
)
def test_wrong_wishes_get_one_sentence_before_any_work(tmp_path: Path, wish: dict[str, object], answer: str) -> None:
    with pytest.raises(FastFluxError, match=answer):
        reproduce(**wish, runs=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_faulty_profile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text('name = "mine"\n')
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    with pytest.raises(FastFluxError, match=r"mine\.toml"):
        load_profile("mine")


def test_too_little_disk_is_said_with_the_need(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match="free some space"):
        require_disk(tmp_path / "not" / "yet", 10**9)
    require_disk(tmp_path, 1)
