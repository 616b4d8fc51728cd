"""Spans of sandwiches: the paper's cases by hand, and what must hold of every span."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastflux.errors import FastFluxError
from fastflux.methods.sandwich_training.config import LAYERS, Sandwich, sandwich_around
from fastflux.plan import BlockRef

DOUBLE, SINGLE = "transformer_blocks", "single_transformer_blocks"
BLOCKS = tuple(BlockRef(DOUBLE, i) for i in range(3)) + tuple(BlockRef(SINGLE, i) for i in range(4))


def at(*places: int) -> tuple[BlockRef, ...]:
    return tuple(BLOCKS[place] for place in places)


def test_without_overlap() -> None:
    assert sandwich_around(BLOCKS[4], (), BLOCKS) == Sandwich(BLOCKS[4], at(3, 4, 5), at(3, 5), at(4))


def test_overlap_reaches_past_replaced_blocks_to_the_nearest_unpruned_ones() -> None:
    found = sandwich_around(BLOCKS[4], at(3, 5), BLOCKS)
    assert found == Sandwich(BLOCKS[4], at(2, 3, 4, 5, 6), at(2, 6), at(3, 4, 5))


def test_a_span_crosses_from_double_to_single_blocks() -> None:
    assert sandwich_around(BLOCKS[2], (), BLOCKS).blocks == at(1, 2, 3)


def test_the_ends_of_the_model() -> None:
    assert sandwich_around(BLOCKS[0], (), BLOCKS) == Sandwich(BLOCKS[0], at(0, 1), at(1), at(0))
    assert sandwich_around(BLOCKS[6], at(5), BLOCKS) == Sandwich(BLOCKS[6], at(4, 5, 6), at(4), at(5, 6))


def test_one_and_five_layers() -> None:
    assert sandwich_around(BLOCKS[3], at(2), BLOCKS, layers=1) == Sandwich(BLOCKS[3], at(3), (), at(3))
    five = sandwich_around(BLOCKS[3], at(2), BLOCKS, layers=5)
    assert five == Sandwich(BLOCKS[3], at(0, 1, 2, 3, 4, 5), at(0, 1, 4, 5), at(2, 3))


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(FastFluxError, match="All blocks around"):
        sandwich_around(BLOCKS[3], at(0, 1, 2, 4, 5, 6), BLOCKS)
    with pytest.raises(FastFluxError, match="4 layers"):
        sandwich_around(BLOCKS[3], (), BLOCKS, layers=4)
    with pytest.raises(FastFluxError, match="replaced already"):
        sandwich_around(BLOCKS[3], at(3), BLOCKS)
    with pytest.raises(FastFluxError, match=r"no block transformer_blocks\.9"):
        sandwich_around(BlockRef(DOUBLE, 9), (), BLOCKS)


@given(
    st.integers(0, len(BLOCKS) - 1),
    st.sets(st.integers(0, len(BLOCKS) - 1)),
    st.sampled_from([layers for layers in LAYERS if layers > 1]),
)
def test_every_span(place: int, others: set[int], layers: int) -> None:
    center, replaced = BLOCKS[place], set(at(*(others - {place})))
    if replaced | {center} == set(BLOCKS):
        return
    found = sandwich_around(center, replaced, BLOCKS, layers=layers)
    places = [BLOCKS.index(block) for block in found.blocks]
    assert places == list(range(places[0], places[-1] + 1)), "the span has no gaps"
    assert set(found.blocks) == set(found.adapted) | set(found.replaced)
    assert not set(found.adapted) & (replaced | {center}), "only unpruned blocks are adapted"
    assert set(found.replaced) <= replaced | {center}
    assert center in found.replaced
    for side in (slice(0, place), slice(place + 1, None)):
        unpruned = [block for block in BLOCKS[side] if block not in replaced]
        chosen = [block for block in found.adapted if block in unpruned]
        assert len(chosen) == min(len(unpruned), (layers - 1) // 2)
    for end in (found.blocks[0], found.blocks[-1]):
        assert end in found.adapted or end in (center, BLOCKS[0], BLOCKS[-1]) or end in replaced
