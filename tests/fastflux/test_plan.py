"""Plans as data: JSON round trip, hash, and what bad JSON gets."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastflux.errors import FastFluxError
from fastflux.plan import BlockRef, PruningPlan, Replacement

PLAN = PruningPlan(
    base_model="tiny",
    base_revision="r1",
    method="linear_replacement",
    config={"ratio": 0.2},
    replacements=(Replacement(BlockRef("single_transformer_blocks", 7), "linear"),),
)


BLOCKS = st.builds(BlockRef, st.sampled_from(["transformer_blocks", "single_transformer_blocks"]), st.integers(0, 99))
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
PLANS = st.builds(
    PruningPlan,
    base_model=st.text(),
    base_revision=st.text(),
    method=st.text(),
    config=st.dictionaries(st.text(), VALUES | st.lists(VALUES), max_size=4),
    replacements=st.lists(
        st.builds(Replacement, BLOCKS, st.sampled_from(["linear", "removed"])),
        unique_by=lambda replacement: replacement.block,
        max_size=8,
    ).map(tuple),
)


@given(PLANS)
def test_every_plan_comes_back_from_its_json(plan: PruningPlan) -> None:
    again = PruningPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.hash == plan.hash


@given(PLANS, PLANS)
def test_plans_share_a_hash_only_where_they_are_equal(first: PruningPlan, second: PruningPlan) -> None:
    same = json.dumps(first.to_json(), sort_keys=True) == json.dumps(second.to_json(), sort_keys=True)
    assert (first.hash == second.hash) == same


def test_json_is_what_it_says() -> None:
    assert PLAN.to_json() == {
        "base_model": "tiny",
        "base_revision": "r1",
        "method": "linear_replacement",
        "config": {"ratio": 0.2},
        "replacements": [{"block": "single_transformer_blocks.7", "kind": "linear"}],
        "schema_version": 1,
    }
    assert PruningPlan.from_json(PLAN.to_json()) == PLAN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema version 2, but this FastFLUX reads version 1"),
        ({"colour": "red"}, "unknown keys colour"),
        ({"method": 3}, "method is a string, not 3"),
        ({"replacements": [{"block": "here", "kind": "linear"}]}, "'here' names no block"),
        ({"replacements": [{"block": "a.1", "kind": "liner"}]}, "did you mean 'linear'"),
        ({"replacements": [{"block": "a.1"}]}, "lacks kind"),
        ({"replacements": [{"block": "a.1", "kind": "linear"}] * 2}, "repeats a.1"),
        ({"replacements": ["a.1"]}, "is a JSON object"),
        ({"config": []}, "config is a JSON object"),
    ],
)
def test_bad_json_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FastFluxError, match=message):
        PruningPlan.from_json({**PLAN.to_json(), **change})
