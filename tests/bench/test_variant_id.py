"""The id of a variant: one reading of every id that records, tables and files hold."""

import pytest

from bench.profiles.profile import ROOT, load_profile
from bench.profiles.variants import paper_variants
from bench.records.results import RunRecord, record_files
from bench.records.variant_id import VariantId


def test_every_committed_id_comes_back_as_it_was() -> None:
    measured, sized = (
        {RunRecord.read(path).variant for path in record_files(ROOT / "reports/data" / folder)}
        for folder in ("results", "full_size")
    )
    ids = measured | sized
    assert len(ids) > 30
    assert {str(VariantId.parse(name)) for name in ids} == ids
    assert measured <= {variant.id for variant in paper_variants(load_profile("shapes"))}


@pytest.mark.parametrize(
    ("text", "family", "number", "ratio", "repeated"),
    [
        ("dense", "dense", "", None, None),
        ("sd3", "sd3", "", None, None),
        ("fastflux-05", "fastflux", "05", 0.05, None),
        ("fastsd3-10", "fastsd3", "10", 0.1, None),
        ("l1_equal-15", "l1_equal", "15", 0.15, None),
        ("l1-7of24", "l1", "7of24", None, None),
        ("seed2-20", "seed2", "20", 0.2, VariantId("fastflux", "20")),
        ("layers1_seed2-10", "layers1_seed2", "10", 0.1, VariantId("layers1", "10")),
        ("seeds-20", "seeds", "20", 0.2, None),
        ("seed1", "seed1", "", None, None),
        ("external-sd14", "external", "sd14", None, None),
        ("odd-", "odd-", "", None, None),
    ],
)
def test_an_id_says_what_it_is(
    text: str, family: str, number: str, ratio: float | None, repeated: VariantId | None
) -> None:
    found = VariantId.parse(text)
    assert (found.family, found.number, found.ratio, found.repeated) == (family, number, ratio, repeated)
    assert str(found) == text


def test_a_ratio_makes_the_number() -> None:
    assert str(VariantId.at("l1", 0.05)) == "l1-05"
