"""The GenEval metric with a detector that reads images of one flat color, and the CLIP color classifier."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.metrics.detection import Detection, DetectorError
from bench.metrics.models.open_clip_model import OpenClipModel, OpenClipSpec
from bench.metrics.quality.geneval import GenEval, SelfTest, known_images_test
from bench.metrics.quality.geneval_judge import ClipColorClassifier, object_crop
from bench.samples.image_set import ImageSet, Pixels
from bench.samples.prompts import TASKS
from fastflux.errors import FastFluxError
from tests.bench.conftest import WriteImages


class SeesStars:
    """A detector that finds one star in images whose first pixel is odd, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: Sequence[Pixels]) -> list[list[Detection]]:
        self.batches.append(len(images))
        return [[Detection("star", 0.95, (0.0, 0.0, 9.0, 9.0))] if image[0, 0, 0] % 2 else [] for image in images]


def all_red(_: Pixels, found: Sequence[Detection], __: str) -> list[str]:
    return ["red"] * len(found)


def sees_nothing(images: Sequence[Pixels]) -> list[list[Detection]]:
    return [[] for _ in images]


def passes(_: object) -> str:
    return ""


@pytest.fixture
def images(write_images: WriteImages) -> ImageSet:
    include = [{"class": "star", "count": 1, "color": "red"}]
    prompts = [
        {
            "id": f"geneval-{task}-{i}",
            "set": "geneval",
            "prompt": "a star",
            "metadata": {"tag": task, "include": include},
        }
        for task in TASKS
        for i in range(3)
    ]
    return ImageSet.read(write_images(prompts, samples=4))


@pytest.mark.parametrize(
    ("include", "reason"),
    [
        ([], r"no GenEvalMetadata: .* length >= 1"),
        ([{"class": "unicorn", "count": 1}], r"asks for \['unicorn'\], which the detector does not know"),
        ([{"class": "star", "count": 1, "color": "gray"}], "'gray'"),
    ],
)
def test_a_prompt_that_cannot_be_judged_fails_before_the_detector_runs(
    write_images: WriteImages, include: list[Any], reason: str
) -> None:
    asked = {**{task: [{"class": "star", "count": 1}] for task in TASKS}, "counting": include}
    prompts = [
        {"id": task, "set": "geneval", "prompt": "x", "metadata": {"tag": task, "include": asked[task]}}
        for task in TASKS
    ]
    images = ImageSet.read(write_images(prompts))
    metric = GenEval(lambda _: pytest.fail("it ran"), all_red, self_test=None, classes=("star",))
    found = metric(images)
    assert (found.status, found.values) == ("failed", {})
    assert re.search(reason, found.reason)


def test_tasks_are_shares_of_right_images_and_overall_is_their_mean(images: ImageSet) -> None:
    detector = SeesStars()
    found = GenEval(detector, all_red, self_test=passes, batch_size=10, settings={"detector": "stars"})(images)
    assert found.status == "ok"
    assert list(found.values) == [*TASKS, "overall"]
    assert found.scored == 72
    assert detector.batches == [10] * 7 + [2]
    odd = {(i.prompt_id, i.sample): float(p[0, 0, 0] % 2) for i, p in zip(images.images, images, strict=True)}
    for task in TASKS:
        own = [right for (prompt, _), right in odd.items() if f"-{task}-" in prompt]
        assert found.values[task] == pytest.approx(np.mean(own))
        assert found.samples[f"{task}/geneval-{task}-0"] == [odd[f"geneval-{task}-0", sample] for sample in range(4)]
    assert found.values["overall"] == pytest.approx(np.mean([found.values[task] for task in TASKS]))
    low, high = found.intervals["overall"]
    assert low < found.values["overall"] < high
    assert found.settings["detector"] == "stars"


def test_overall_counts_tasks_not_images(images: ImageSet) -> None:
    part = ImageSet(tuple(i for i in images.images if i.prompt_id not in {"geneval-colors-1", "geneval-colors-2"}))
    found = GenEval(SeesStars(), all_red, self_test=passes)(part)
    assert found.values["overall"] == pytest.approx(np.mean([found.values[task] for task in TASKS]), abs=1e-12)
    rights = [right for prompt in found.samples.values() for right in prompt]
    assert found.values["overall"] != pytest.approx(np.mean(rights), abs=1e-6)


def test_a_broken_detector_fails_the_metric_before_it_scores(images: ImageSet) -> None:
    star = np.ones((8, 8, 3), dtype=np.uint8)
    good = known_images_test([(star, {"star": 1}), (star * 2, {})])
    assert good(SeesStars()) == ""
    found = GenEval(sees_nothing, all_red, self_test=good)(images)
    assert found.status == "failed"
    assert "fails on known images: image 0 shows {'star': 1}, found {}" in found.reason
    assert found.values == {}


def test_the_self_test_is_run_once(images: ImageSet) -> None:
    tested: list[object] = []

    def test(detector: object) -> str:
        tested.append(detector)
        return ""

    metric = GenEval(SeesStars(), all_red, self_test=test)
    assert metric(images) == metric(images)
    assert len(tested) == 1


def test_without_known_images_a_detector_must_find_something(images: ImageSet) -> None:
    found = GenEval(SeesStars(), all_red, self_test=None)(images)
    single = [
        pixels[0, 0, 0] % 2 for image, pixels in zip(images.images, images, strict=True) if "single" in image.prompt_id
    ]
    assert found.values["single_object_found"] == pytest.approx(np.mean(single))
    assert 0 < found.values["single_object_found"] < 1
    known = GenEval(SeesStars(), all_red, self_test=passes)(images)
    assert known.values == {key: found.values[key] for key in (*TASKS, "overall")}
    blind = GenEval(sees_nothing, all_red, self_test=None)(images)
    assert blind.status == "failed"
    assert "finds no object in any of 72 images" in blind.reason


@pytest.mark.parametrize("self_test", [None, known_images_test([(np.ones((8, 8, 3), dtype=np.uint8), {"star": 1})])])
def test_a_detector_that_breaks_fails_the_metric(images: ImageSet, self_test: SelfTest | None) -> None:
    def breaks(_: Sequence[Pixels]) -> list[list[Detection]]:
        raise DetectorError("scores are not finite")

    found = GenEval(breaks, all_red, self_test=self_test)(images)
    assert (found.status, found.reason, found.missing) == ("failed", "scores are not finite", 72)


def test_photographs_may_show_more_than_is_known_of_them() -> None:
    star = np.ones((8, 8, 3), dtype=np.uint8)
    assert known_images_test([(star, {})])(SeesStars()) == "image 0 shows {}, found {'star': 1}"
    assert known_images_test([(star, {"ring": 0})], listed_only=True)(SeesStars()) == ""
    assert known_images_test([(star, {"star": 2})], listed_only=True)(SeesStars()) != ""


def test_missing_tasks_and_damaged_images_fail(images: ImageSet) -> None:
    metric = GenEval(SeesStars(), all_red, self_test=passes)
    part = metric(ImageSet(tuple(i for i in images.images if "-colors-" not in i.prompt_id)))
    assert part.status == "failed"
    assert "expected ['color_attr', 'colors'," in part.reason
    images.images[5].file.write_bytes(b"")
    damaged = metric(images)
    assert damaged.status == "failed"
    assert images.images[5].file.name in damaged.reason


@pytest.fixture
def model(tiny_clip: Path) -> OpenClipModel:
    return OpenClipModel(OpenClipSpec(f"local-dir:{tiny_clip}"))


@pytest.mark.parametrize("templates", [(), ("a photo of a {name}",)])
def test_templates_must_name_the_color(model: OpenClipModel, templates: tuple[str, ...]) -> None:
    with pytest.raises(FastFluxError, match=r"expected texts with \{color\}"):
        ClipColorClassifier(model, templates)


@pytest.mark.parametrize("box", [(3.0, 3.0, 3.1, 3.1), (-5.0, -5.0, -1.0, -1.0), (9.9, 9.9, 30.0, 30.0)])
def test_a_crop_is_never_empty(box: tuple[float, float, float, float]) -> None:
    assert min(object_crop(np.zeros((10, 10, 3), dtype=np.uint8), Detection("star", 1.0, box)).shape) >= 1


def test_a_mask_of_another_size_is_refused() -> None:
    found = Detection("star", 1.0, (0.0, 0.0, 1.0, 1.0), np.ones((5, 5), dtype=np.bool_))
    with pytest.raises(FastFluxError, match=r"shape \(5, 5\); expected the image's \(10, 10\)"):
        object_crop(np.zeros((10, 10, 3), dtype=np.uint8), found)
