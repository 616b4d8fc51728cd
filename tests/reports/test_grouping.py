"""Latency groups: the paper's own, and what holds for any latencies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.tables import BY_LATENCY, BY_NUMBER
from fastflux.errors import FastFluxError
from reports.grouping import pair_by_latency, pair_by_number, pairs_of, relative_difference
from reports.paper import paper_data, paper_rows
from reports.rows import rows_of
from tests.reports.conftest import MakeRecord, Measured

ratios = st.floats(0.1, 2.0) | st.none()
baselines = st.dictionaries(st.sampled_from([f"l1-{n}" for n in range(6)]), ratios)
candidates = st.dictionaries(st.sampled_from([f"fastflux-{n}" for n in range(6)]), ratios)
tolerances = st.floats(0.0, 0.5)


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_the_papers_groups_are_found_from_its_latencies(table: str) -> None:
    latencies = {row.variant: row.number("latency.median_ms") for row in paper_rows(table)}
    found = pair_by_latency(
        {variant: value for variant, value in latencies.items() if variant.startswith("l1")},
        {variant: value for variant, value in latencies.items() if variant.startswith("fastflux")},
    )
    pairs = [(pair.baseline, pair.candidate) for pair in found.pairs]
    assert pairs == [("l1-12", "fastflux-10"), ("l1-21", "fastflux-15"), ("l1-27", "fastflux-20")]
    assert found.alone == {}
    assert paper_data()["tables"][table]["source"].startswith("arXiv 2506.10035")


def test_the_closest_pair_comes_first_and_the_rest_say_why_they_are_alone() -> None:
    found = pair_by_latency({"l1-a": 0.90, "l1-b": 0.60, "l1-c": None}, {"fastflux-x": 0.91, "fastflux-y": 0.89})
    assert [(pair.baseline, pair.candidate) for pair in found.pairs] == [("l1-a", "fastflux-x")]
    assert found.pairs[0].difference == pytest.approx(0.01 / 0.91)
    assert found.alone == {
        "fastflux-y": "every partner within 5% of its latency has a closer one",
        "l1-b": "no partner within 5% of its latency",
        "l1-c": "latency not measured",
    }


def test_a_family_beside_joins_the_group_of_nearest_latency(make_record: MakeRecord, measured: Measured) -> None:
    latencies = {"l1-12": 0.91, "fastflux-10": 0.9, "l1-21": 0.81, "fastflux-20": 0.8, "plus-18": 0.82, "plus-35": 0.6}
    rows = rows_of(
        [make_record(name, name, measured("latency", {"ratio_to_dense": at})) for name, at in latencies.items()]
    )
    found = pairs_of(rows, BY_LATENCY)
    assert {name: pair.candidate for name, pair in found.beside.items()} == {"plus-18": "fastflux-20"}
    assert found.alone == {"plus-35": "no group of its latency"}


def test_a_family_beside_joins_the_group_of_its_number(make_record: MakeRecord) -> None:
    names = ("l1_equal-10", "fastflux-10", "width_equal-10", "width_equal-15")
    found = pairs_of(rows_of([make_record(name, name) for name in names]), BY_NUMBER)
    assert {name: pair.baseline for name, pair in found.beside.items()} == {"width_equal-10": "l1_equal-10"}


@given(baselines, candidates, tolerances)
def test_groups_are_one_to_one_within_tolerance_and_leave_nobody_out(
    slow: dict[str, float | None], fast: dict[str, float | None], tolerance: float
) -> None:
    found = pair_by_latency(slow, fast, tolerance)
    members = [name for pair in found.pairs for name in (pair.baseline, pair.candidate)]
    assert len(members) == len(set(members))
    assert sorted([*members, *found.alone]) == sorted([*slow, *fast])
    assert all(
        pair.baseline in slow and pair.candidate in fast and pair.difference <= tolerance for pair in found.pairs
    )


@given(baselines, candidates, tolerances)
def test_no_two_variants_would_both_rather_be_together(
    slow: dict[str, float | None], fast: dict[str, float | None], tolerance: float
) -> None:
    found = pair_by_latency(slow, fast, tolerance)
    reached = {name: pair.difference for pair in found.pairs for name in (pair.baseline, pair.candidate)}
    for baseline, first in slow.items():
        for candidate, second in fast.items():
            if first is not None and second is not None and (apart := relative_difference(first, second)) <= tolerance:
                assert apart >= min(reached.get(baseline, 1.0), reached.get(candidate, 1.0))


@given(baselines, candidates, tolerances)
def test_the_order_of_the_inputs_does_not_matter(
    slow: dict[str, float | None], fast: dict[str, float | None], tolerance: float
) -> None:
    def turned(values: dict[str, float | None]) -> dict[str, float | None]:
        return dict(reversed(values.items()))

    assert pair_by_latency(slow, fast, tolerance) == pair_by_latency(turned(slow), turned(fast), tolerance)


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_a_tolerance_that_is_no_fraction_is_refused(tolerance: float) -> None:
    with pytest.raises(FastFluxError, match="latency tolerance"):
        pair_by_latency({}, {}, tolerance)


@pytest.mark.parametrize("latency", [0.0, -1.0])
def test_a_latency_that_is_not_positive_is_refused(latency: float) -> None:
    with pytest.raises(FastFluxError, match="l1-12"):
        pair_by_latency({"l1-12": latency}, {})


def test_variants_made_for_one_another_are_paired_by_their_number() -> None:
    made = {"l1_equal-10": 0.9, "l1_equal-20": None, "l1_equal-40": 0.5}
    found = pair_by_number(made, {"fastflux-05": 0.95, "fastflux-20": 0.8, "fastflux-10": 0.92})
    assert [(pair.baseline, pair.candidate, pair.difference) for pair in found.pairs] == [
        ("l1_equal-10", "fastflux-10", pytest.approx(0.02 / 0.92)),
        ("l1_equal-20", "fastflux-20", None),
    ]
    # For fastflux-05 nothing was made: it is no row of such a table.
    assert found.alone == {"l1_equal-40": "the variant it was made to equal was not measured"}
