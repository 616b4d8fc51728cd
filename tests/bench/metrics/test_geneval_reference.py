"""GenEval's rules a second time, straight from the reference's arithmetic, against the judge on random scenes.

Written from the behaviour of djghosh13/geneval, evaluation/evaluate_images.py at 16f1681, in float32 as there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.metrics.detection import Detection
from bench.metrics.quality.geneval_judge import judge, relations
from bench.samples.image_set import Pixels
from bench.samples.prompts import COLORS, TASKS

IMAGE = np.zeros((8, 8, 3), dtype=np.uint8)
NAMES = ("dog", "cat", "kite")
RELATIONS = ("left of", "right of", "above", "below")
Found = tuple[np.ndarray, str]
"""An object as the reference has it: [x0, y0, x1, y1, score] in float32; and its color."""


def reference_sides(ours: np.ndarray, theirs: np.ndarray) -> set[str]:
    """The reference's relations of two float32 boxes."""
    corners = np.stack([ours[:4], theirs[:4]]).reshape(2, 2, 2)  # (object, corner, axis)
    offset = corners[0].mean(axis=0) - corners[1].mean(axis=0)
    size = np.abs(corners[:, 1] - corners[:, 0]).sum(axis=0)
    left = np.maximum(np.abs(offset) - 0.1 * size, 0) * np.sign(offset)
    if (np.abs(left) < 1e-3).all():
        return set()
    x, y = left / np.linalg.norm(offset)
    tests = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, holds in tests.items() if holds}


def reference_verdict(found: Mapping[str, Sequence[Found]], metadata: Mapping[str, Any]) -> bool:
    """Whether the reference calls an image correct."""
    threshold = np.float32(0.9 if metadata["tag"] == "counting" else 0.3)
    kept: dict[str, list[Found]] = {}
    for name, objects in found.items():
        order = np.argsort(np.array([box[4] for box, _ in objects], dtype=np.float32))[::-1]
        kept[name] = [objects[index] for index in order if np.float32(objects[index][0][4]) > threshold][:16]
    right = True
    groups: list[list[Found] | None] = []
    for wanted in metadata["include"]:
        best = kept.get(wanted["class"], [])[: wanted["count"]]
        fits = len(best) >= wanted["count"]
        if fits and "color" in wanted:
            fits = sum(color == wanted["color"] for _, color in best) >= wanted["count"]
        if fits and "position" in wanted:
            side, target = wanted["position"]
            others = groups[target]
            fits = others is not None and all(
                side in reference_sides(box, other) for box, _ in best for other, _ in others
            )
        groups.append(best if fits else None)
        right = right and fits
    for unwanted in metadata.get("exclude", []):
        right = right and len(kept.get(unwanted["class"], [])) < unwanted["count"]
    return right


@st.composite
def boxes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Whole pixels, as boxes around masks have, and few of them: borders are met often."""
    reach = draw(st.sampled_from([40, 200]))
    x, y = draw(st.integers(0, reach)), draw(st.integers(0, reach))
    return x, y, x + draw(st.integers(1, 25)), y + draw(st.integers(1, 25))


@st.composite
def scenes(draw: st.DrawFn) -> list[tuple[Detection, str]]:
    """Objects with their colors, of equal scores too, as numbers of detectors are: float32.

    Hundredths hold the thresholds themselves, 0.3 and 0.9; in some there are more than 16 of a class.
    """
    least = draw(st.sampled_from([0, 4, 17]))
    hundredths = draw(st.lists(st.integers(25, 99), unique=draw(st.booleans()), min_size=least, max_size=least + 8))
    names = NAMES[:1] if least > 16 else NAMES
    return [
        (
            Detection(draw(st.sampled_from(names)), float(np.float32(score / 100)), tuple(map(float, draw(boxes())))),
            draw(st.sampled_from(COLORS[:2])),
        )
        for score in hundredths
    ]


@st.composite
def metadatas(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.booleans()):
        target, placed = ({"class": name, "count": draw(st.integers(1, 2))} for name in NAMES[:2])
        position = [draw(st.sampled_from(RELATIONS)), 0]
        return {"tag": "position", "include": [target, {**placed, "position": position}]}
    include: list[dict[str, Any]] = []
    for index in range(draw(st.integers(1, 3))):
        count = draw(st.sampled_from([1, 2, 3, 16, 17]))
        entry: dict[str, Any] = {"class": NAMES[draw(st.sampled_from([index, 0]))], "count": count}
        if draw(st.integers(0, 3)) == 0:
            entry["color"] = draw(st.sampled_from(COLORS[:2]))
        if index and draw(st.booleans()):
            entry["position"] = [draw(st.sampled_from(RELATIONS)), draw(st.integers(0, index - 1))]
        include.append(entry)
    unwanted = st.fixed_dictionaries({"class": st.sampled_from(NAMES), "count": st.sampled_from([2, 3, 16, 17])})
    exclude = draw(st.lists(unwanted, max_size=1))
    return {"tag": draw(st.sampled_from(TASKS)), "include": include, **({"exclude": exclude} if exclude else {})}


@settings(max_examples=200)
@given(scene=scenes(), metadata=metadatas())
def test_the_judge_agrees_with_the_reference(scene: list[tuple[Detection, str]], metadata: dict[str, Any]) -> None:
    colors = {id(found): color for found, color in scene}
    asked: list[tuple[int, str]] = []

    def classify(_: Pixels, objects: Sequence[Detection], name: str) -> list[str]:
        asked.append((len(objects), name))
        return [colors[id(one)] for one in objects]

    by_name: dict[str, list[Found]] = {}
    for found, color in scene:
        row = np.array([*found.box, found.score], dtype=np.float32)
        by_name.setdefault(found.label, []).append((row, color))
    verdict = judge(IMAGE, [found for found, _ in scene], metadata, classify)
    assert verdict.correct is bool(reference_verdict(by_name, metadata))
    assert verdict.correct is (verdict.reason == "")
    # Colors are asked of the objects that count, and of no others.
    assert set(asked) <= {(entry["count"], entry["class"]) for entry in metadata["include"] if "color" in entry}


@settings(max_examples=200)
@given(box=boxes(), target=boxes())
@example(box=(8, 0, 28, 20), target=(0, 0, 20, 20))  # the margin is half of the offset: not more than half is left
@example(box=(6, 8, 11, 13), target=(0, 0, 5, 5))  # 3-4-5: half of the length along x
@example(box=(0, 5, 20, 10), target=(2, 0, 12, 5))  # a long box over a short one
def test_relations_are_the_references(box: tuple[int, ...], target: tuple[int, ...]) -> None:
    ours, theirs = (np.array(edges, dtype=np.float32) for edges in (box, target))
    assert relations(box, target) == reference_sides(ours, theirs)


def test_an_entry_of_the_wrong_color_is_no_target() -> None:
    include = [{"class": "cat", "count": 1, "color": "red"}, {"class": "dog", "count": 1, "position": ["left of", 0]}]
    objects = [Detection("cat", 0.9, (40.0, 0.0, 50.0, 10.0)), Detection("dog", 0.9, (0.0, 0.0, 10.0, 10.0))]

    def said(color: str) -> str:
        return judge(IMAGE, objects, {"tag": "position", "include": include}, lambda *_: [color]).reason

    assert said("red") == ""
    assert said("blue") == "expected 1 red cat, found blue\nno target for dog to be left of"


def test_color_and_position_of_one_entry_must_both_hold_and_colors_come_first() -> None:
    include = [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "color": "red", "position": ["left of", 0]}]
    cat, left = Detection("cat", 0.9, (40.0, 0.0, 50.0, 10.0)), Detection("dog", 0.9, (0.0, 0.0, 10.0, 10.0))
    right = Detection("dog", 0.9, (80.0, 0.0, 90.0, 10.0))

    def said(dog: Detection, color: str) -> str:
        return judge(IMAGE, [cat, dog], {"tag": "position", "include": include}, lambda *_: [color]).reason

    assert said(left, "red") == ""
    assert said(left, "blue") == "expected 1 red dog, found blue"
    assert said(right, "red") == "expected dog left of cat, found right of"
    assert said(right, "blue") == "expected 1 red dog, found blue"
