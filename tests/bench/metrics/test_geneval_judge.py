"""GenEval's rules, each at its border."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.metrics.detection import Detection
from bench.metrics.quality.geneval_judge import Verdict, judge, relations
from bench.samples.image_set import Pixels
from fastflux.errors import FastFluxError

IMAGE = np.zeros((64, 64, 3), dtype=np.uint8)
BOX = (0.0, 0.0, 10.0, 10.0)
Box = tuple[float, float, float, float]


def star(score: float = 0.99, box: Box = BOX, label: str = "star") -> Detection:
    return Detection(label, score, box)


def no_colors(_: Pixels, __: Sequence[Detection], ___: str) -> list[str]:
    raise AssertionError("colors were not asked for")


def verdict(found: Sequence[Detection], tag: str = "single_object", **metadata: Any) -> Verdict:
    return judge(IMAGE, found, {"tag": tag, **metadata}, no_colors)


ONE_STAR = [{"class": "star", "count": 1}]


@pytest.mark.parametrize(
    ("tag", "score", "right"),
    [
        ("single_object", 0.3, False),
        ("single_object", float(np.float32(0.3)), False),
        ("single_object", 0.3000001, True),
        ("colors", 0.31, True),
        ("counting", 0.9, False),
        ("counting", 0.9000001, True),
        ("counting", 0.5, False),
    ],
)
def test_scores_must_exceed_the_threshold(tag: str, score: float, *, right: bool) -> None:
    assert verdict([star(score)], tag, include=ONE_STAR).correct is right


def test_too_few_are_wrong_and_more_are_only_wrong_if_excluded() -> None:
    include = [{"class": "star", "count": 2}]
    assert verdict([star()], include=include) == Verdict(correct=False, reason="expected 2 star, found 1")
    assert verdict([star()] * 2, include=include) == Verdict(correct=True, reason="")
    assert verdict([star()] * 3, include=include).correct
    exclude = [{"class": "star", "count": 3}]
    assert verdict([star()] * 2, "counting", include=include, exclude=exclude).correct
    assert verdict([star()] * 3, "counting", include=include, exclude=exclude) == Verdict(
        correct=False, reason="expected fewer than 3 star, found 3"
    )


def test_all_of_include_must_hold_and_all_faults_are_told() -> None:
    both = [{"class": "star", "count": 1}, {"class": "ring", "count": 1}]
    assert verdict([star(), star(label="ring")], "two_object", include=both).correct
    assert verdict([], "two_object", include=both).reason == "expected 1 star, found 0\nexpected 1 ring, found 0"


def test_colors_are_those_of_the_best_objects_only() -> None:
    seen: list[tuple[list[float], str]] = []

    def colors(_: Pixels, found: Sequence[Detection], name: str) -> list[str]:
        seen.append(([one.score for one in found], name))
        return ["red" if one.score > 0.6 else "blue" for one in found]

    def judged(scores: list[float], count: int) -> Verdict:
        wanted = [{"class": "star", "count": count, "color": "red"}]
        return judge(IMAGE, [star(score) for score in scores], {"tag": "colors", "include": wanted}, colors)

    assert judged([0.5, 0.9], 1).correct  # the blue one is not looked at
    assert judged([0.5, 0.7, 0.9], 2).correct
    assert judged([0.5, 0.9], 2) == Verdict(correct=False, reason="expected 2 red star, found red, blue")
    assert seen == [([0.9], "star"), ([0.9, 0.7], "star"), ([0.9, 0.5], "star")]


def at(x: float, y: float, width: float = 10, height: float = 10) -> Box:
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (at(-30, 0), {"left of"}),
        (at(30, 0), {"right of"}),
        (at(0, -30), {"above"}),
        (at(0, 30), {"below"}),
        (at(-30, -30), {"left of", "above"}),
        (at(30, 30), {"right of", "below"}),
        (at(0, 0), set()),
        # The margin is 0.1 x (10 + 10) = 2 pixels; what is left must exceed half of the whole offset.
        (at(2, 0), set()),
        (at(4, 0), set()),
        (at(4.01, 0), {"right of"}),
        (at(-4, 0), set()),
        (at(-4.01, 0), {"left of"}),
        (at(0, -4), set()),
        (at(0, -4.01), {"above"}),
        (at(0, 4), set()),
        (at(0, 4.01), {"below"}),
        # 60 degrees off the axis: the shrunk x is under half of the offset.
        (at(15, 26), {"below"}),
    ],
)
def test_relations_of_equal_squares(box: Box, expected: set[str]) -> None:
    assert relations(box, at(0, 0)) == expected


COORDINATE = st.floats(-1000, 1000)
BOXES = st.tuples(COORDINATE, COORDINATE, st.floats(0.1, 200), st.floats(0.1, 200)).map(lambda b: at(*b))
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@given(box=BOXES, target=BOXES)
def test_relations_turn_round_with_the_pair_and_never_contradict(box: Box, target: Box) -> None:
    held = relations(box, target)
    assert relations(target, box) == {OPPOSITE[name] for name in held}
    assert not held & {OPPOSITE[name] for name in held}


POSITION = [{"class": "ring", "count": 1}, {"class": "star", "count": 1, "position": ["left of", 0]}]


def test_positions_are_relative_to_the_earlier_entry() -> None:
    ring = star(box=at(40, 30), label="ring")
    assert verdict([star(box=at(10, 30)), ring], "position", include=POSITION).correct
    wrong = verdict([star(box=at(60, 30)), ring], "position", include=POSITION)
    assert wrong.reason == "expected star left of ring, found right of"
    near = verdict([star(box=at(41, 30)), ring], "position", include=POSITION)
    assert near.reason == "expected star left of ring, found neither"


def test_without_its_target_a_position_is_wrong() -> None:
    found = verdict([star(box=at(10, 30))], "position", include=POSITION)
    assert found.reason == "expected 1 ring, found 0\nno target for star to be left of"


@pytest.mark.parametrize(
    "metadata",
    [
        {"include": ONE_STAR},
        {"tag": "colors", "include": [{"count": 1}]},
        {"tag": "position", "include": [{"class": "star", "count": 1, "position": ["left of", 3]}]},
        {"tag": "position", "include": ["star"]},
    ],
)
def test_metadata_of_another_form_is_an_error_not_a_wrong_image(metadata: dict[str, Any]) -> None:
    with pytest.raises(FastFluxError, match="not of GenEval's form"):
        judge(IMAGE, [star()], metadata, no_colors)
