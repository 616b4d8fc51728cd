"""The rendered world: what the ground truth says is what the pictures show."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.samples.prompts import TASKS
from bench.shapes.vocabulary import COLOR_NAMES, COLORS, HELD_OUT, SHAPES, STYLE_NAMES, caption, words
from bench.shapes.world import SIZE, Scenes, object_boxes, object_coverage, object_masks, render, sample_scenes


def one_object(shape: int, color: int, style: int) -> Scenes:
    shapes, colors = np.full((1, 4), -1), np.full((1, 4), -1)
    shapes[0, 0], colors[0, 0] = shape, color
    centers = np.full((1, 4, 2), 32.0)
    return Scenes(shapes, colors, centers, np.full((1, 4), 12.0), np.array([style]), np.full((1, 8), 0.5), ({},), ("",))


def test_the_same_seed_gives_the_same_scenes_and_pictures() -> None:
    first, second = sample_scenes(20, 5), sample_scenes(20, 5)
    assert first.captions == second.captions
    assert torch.equal(render(first), render(second))
    assert first.captions != sample_scenes(20, 6).captions


def test_splits_share_no_scene() -> None:
    layouts = {}
    for split in ("train", "calibration", "evaluation"):
        scenes = sample_scenes(300, 0, split)
        layouts[split] = {(text, place.tobytes()) for text, place in zip(scenes.captions, scenes.centers, strict=True)}
    assert not layouts["train"] & layouts["evaluation"]
    assert not layouts["train"] & layouts["calibration"]
    assert not layouts["calibration"] & layouts["evaluation"]


def test_training_scenes_hold_no_held_out_pair_and_evaluation_scenes_some() -> None:
    def pairs(split: str) -> int:
        scenes = sample_scenes(1500, 1, split)
        at = scenes.shapes >= 0
        named = zip(scenes.shapes[at], scenes.colors[at], strict=True)
        return sum((COLOR_NAMES[color], SHAPES[shape]) in HELD_OUT for shape, color in named)

    assert pairs("train") == 0
    assert pairs("evaluation") > 100


def test_eight_of_eighty_pairs_are_held_out() -> None:
    assert len(HELD_OUT) == 8
    assert {shape for _, shape in HELD_OUT} == set(SHAPES)
    assert {color for color, _ in HELD_OUT} < set(COLOR_NAMES)


def test_coverage_is_the_share_of_each_cell_by_class_and_by_color() -> None:
    scenes = sample_scenes(20, 3)
    coverage, masks = object_coverage(scenes, 8), object_masks(scenes)
    assert coverage.shape == (20, 18, 8, 8)
    by_class, by_color = coverage.split([8, 10], dim=1)
    torch.testing.assert_close(by_class.sum(dim=1), by_color.sum(dim=1))
    for row in range(20):
        for shape in range(8):
            pixels = masks[row, torch.from_numpy(scenes.shapes[row] == shape)].any(dim=0)
            torch.testing.assert_close(by_class[row, shape, 2, 5], pixels[16:24, 40:48].float().mean())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_objects_never_overlap_and_lie_within_the_picture(seed: int) -> None:
    scenes = sample_scenes(16, seed)
    masks = object_masks(scenes)
    assert int(masks.sum(dim=1).max()) <= 1
    present = torch.from_numpy(scenes.shapes >= 0)
    assert torch.equal(masks.flatten(2).any(dim=2), present)
    border = torch.ones(SIZE, SIZE, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert not masks[..., border].any()


def test_boxes_are_the_tight_boxes_of_the_masks() -> None:
    masks = torch.zeros(1, 4, SIZE, SIZE, dtype=torch.bool)
    masks[0, 0, 10:20, 30:33] = True
    boxes = object_boxes(masks)
    assert boxes[0, 0].tolist() == [30, 10, 33, 20]
    assert boxes[0, 1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("relation", ["left of", "right of", "above", "below"])
def test_relations_hold_in_the_picture(relation: str) -> None:
    scenes = sample_scenes(200, 3, tasks={"position": 1.0})
    axis, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[relation]
    chosen = [row for row, data in enumerate(scenes.metadata) if data["include"][1]["position"][0] == relation]
    assert chosen
    for row in chosen:
        offset = (
            scenes.centers[row, 1] - scenes.centers[row, 0]
        )  # the second object stands in the relation to the first
        assert sign * offset[axis] >= 20


def test_counted_scenes_hold_as_many_objects_as_their_caption_says() -> None:
    scenes = sample_scenes(100, 4, tasks={"counting": 1.0})
    for row, data in enumerate(scenes.metadata):
        assert (scenes.shapes[row] >= 0).sum() == data["include"][0]["count"]
        assert data["exclude"][0]["count"] == data["include"][0]["count"] + 1


@pytest.mark.parametrize("style", range(4))
def test_an_object_is_drawn_in_its_color(style: int) -> None:
    for color, name in enumerate(COLOR_NAMES):
        scene = one_object(SHAPES.index("square"), color, style)
        centre = render(scene)[0, :, 28:36, 28:36].float().mean(dim=(1, 2))
        distances = {other: float((centre - torch.tensor(rgb)).norm()) for other, rgb in COLORS.items()}
        assert min(distances, key=distances.__getitem__) == name


def test_every_shape_looks_different() -> None:
    masks = [object_masks(one_object(shape, 0, 0))[0, 0] for shape in range(len(SHAPES))]
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert (first ^ second).sum() > 0.08 * (first | second).sum()


def test_captions_follow_genevals_templates() -> None:
    star, ring = {"class": "star", "count": 1}, {"class": "ring", "count": 1}
    assert caption("photo", {"include": [star]}) == "a photo of a star"
    assert caption("photo", {"include": [{**star, "color": "orange"}]}) == "a photo of an orange star"
    assert caption("anime", {"include": [{"class": "cross", "count": 3}]}) == "an anime of three crosses"
    assert caption("photo", {"include": [{**star, "color": "red"}, ring]}) == "a photo of a red star and a ring"
    placed = {"include": [star, {**ring, "position": ["left of", 0]}]}
    assert caption("paintings", placed) == "a painting of a ring left of a star"


def test_captions_use_known_words_and_fit_twelve_tokens() -> None:
    known = set(words())
    for text in sample_scenes(2000, 8, "evaluation").captions:
        assert set(text.split()) <= known
        assert len(text.split()) + 1 <= 12


def test_all_tasks_and_styles_occur() -> None:
    scenes = sample_scenes(500, 9)
    assert {data["tag"] for data in scenes.metadata} == set(TASKS)
    assert set(scenes.styles) == set(range(len(STYLE_NAMES)))


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(KeyError):
        sample_scenes(1, 0, "test")
