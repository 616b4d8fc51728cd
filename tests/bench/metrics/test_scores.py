"""HPS and CLIP score: values from the features, styles, pairing and failures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.metrics.models.open_clip_model import load_open_clip
from bench.metrics.quality.clip_score import ClipScore
from bench.metrics.quality.hps import HPS, group_std
from bench.records.results import Measurement
from bench.samples.image_set import ImageSet
from tests.bench.conftest import WriteImages, clip_of

STYLES = ("anime", "concept-art", "paintings", "photo")


@pytest.fixture
def images(write_images: WriteImages, hps_prompts: list[dict[str, Any]]) -> ImageSet:
    return ImageSet.read(write_images(hps_prompts))


@pytest.fixture
def hps(tiny_clip: Path) -> HPS:
    load_open_clip.cache_clear()  # a test may break the weights
    return HPS(clip_of(tiny_clip), reference="a random scorer")


def test_hps_is_100_times_the_cosine_by_style(hps: HPS, images: ImageSet) -> None:
    found = hps(images)
    assert found.status == "ok"
    assert list(found.values) == [*STYLES, "averaged"]
    assert found.info.reference == "a random scorer"
    assert (found.scored, found.missing) == (24, 0)
    for image, pixels in zip(images.images, images, strict=True):
        pair = hps.model.image_features([pixels]), hps.model.text_features([image.prompt])
        score = found.samples[f"{image.style}/{image.prompt_id}"][image.sample]
        assert score == pytest.approx(100 * float((pair[0] * pair[1]).sum()), abs=1e-4)
    for style in STYLES:
        own = [score for key, scores in found.samples.items() if key.startswith(f"{style}/") for score in scores]
        assert len(own) == 6
        assert found.values[style] == pytest.approx(np.mean(own))
        low, high = found.intervals[style]
        assert low <= found.values[style] <= high
    assert found.values["averaged"] == pytest.approx(np.mean([found.values[style] for style in STYLES]))


def test_averaged_counts_images_not_styles(
    hps: HPS, write_images: WriteImages, hps_prompts: list[dict[str, Any]]
) -> None:
    found = hps(ImageSet.read(write_images([hps_prompts[0], *hps_prompts[3:]])))
    scores = [score for prompt in found.samples.values() for score in prompt]
    assert found.values["averaged"] == pytest.approx(np.mean(scores), abs=1e-9)
    assert found.values["averaged"] != pytest.approx(np.mean([found.values[style] for style in STYLES]), abs=1e-6)


def test_hps_leaves_other_sets_alone(hps: HPS, write_images: WriteImages, hps_prompts: list[dict[str, Any]]) -> None:
    other = {"id": "geneval-x", "set": "geneval", "prompt": "a star", "metadata": {"tag": "colors"}}
    found = hps(ImageSet.read(write_images([*hps_prompts, other])))
    assert found.status == "ok"
    assert found.scored == 24


def refuse(found: Measurement, reason: str) -> None:
    assert found.status == "failed"
    assert reason in found.reason
    assert found.values == {}


def test_hps_fails_with_a_reason_and_without_numbers(
    hps: HPS, images: ImageSet, write_images: WriteImages, hps_prompts: list[dict[str, Any]]
) -> None:
    refuse(hps(ImageSet(())), "no images")
    three = write_images([entry for entry in hps_prompts if entry["style"] != "photo"], folder="three")
    refuse(hps(ImageSet.read(three)), "expected ['anime', 'concept-art', 'paintings', 'photo']")
    absent = hps(ImageSet(images.images[1:]))
    refuse(absent, "1 images are missing: sample 0 of hps-anime-000")
    assert absent.missing == 1
    images.images[0].file.write_bytes(b"no image")
    refuse(hps(images), "hps-anime-000_0.png is not the file")


def test_features_that_are_not_finite_fail(hps: HPS, images: ImageSet) -> None:
    hps.model._model.visual.proj.fill_(float("nan"))
    refuse(hps(images), "not finite")
    load_open_clip.cache_clear()


def test_clip_score_is_the_mean_over_all_images_and_counts_long_prompts(
    tiny_clip: Path, write_images: WriteImages
) -> None:
    long = {"id": "long", "set": "hps", "style": "photo", "prompt": "star " * 30}
    short = {"id": "short", "set": "geneval", "prompt": "a star", "metadata": {}}
    found = ClipScore(clip_of(tiny_clip))(ImageSet.read(write_images([long, short], samples=3)))
    assert found.status == "ok"
    assert found.values["mean"] == pytest.approx(np.mean([*found.samples["long"], *found.samples["short"]]))
    assert found.settings["prompts_too_long"] == 1
    assert found.settings["precision"] == "fp32"
    assert found.scored == 6


def test_clip_score_fails_when_an_image_is_gone(tiny_clip: Path, images: ImageSet) -> None:
    images.images[3].file.unlink()
    refuse(ClipScore(clip_of(tiny_clip))(images), "hps-anime-001_1.png")


def test_ten_groups_have_the_spread_that_hpsv2_prints(hps: HPS, write_images: WriteImages) -> None:
    entries = [
        {"id": f"{style}-{i:03}", "set": "hps", "style": style, "prompt": f"{style} of {i} stars"}
        for style in STYLES
        for i in range(20 if style == "photo" else 3)
    ]
    found = hps(ImageSet.read(write_images(entries, samples=1)))
    assert list(found.values) == [*STYLES, "averaged", "photo_group_std"]
    scores = np.array([found.samples[f"photo/photo-{i:03}"] for i in range(20)])
    groups = scores.reshape(10, 2).mean(axis=1)
    assert found.values["photo"] == pytest.approx(groups.mean())
    assert found.values["photo_group_std"] == pytest.approx(groups.std(ddof=0))
    assert "photo_group_std" not in found.intervals


def test_groups_are_of_successive_prompts() -> None:
    assert group_std([[float(i // 2)] for i in range(20)]) == pytest.approx(np.std(np.arange(10)))
    assert group_std([[1.0]] * 19) is None
    assert group_std([]) is None


def test_images_there_twice_or_unasked_for_fail(hps: HPS, images: ImageSet, hps_prompts: list[dict[str, Any]]) -> None:
    twice = ImageSet((*images.images, images.images[0]))
    refuse(hps(twice), "1 images are there twice or were not asked for: sample 0 of hps-anime-000")
    fewer = images.expecting({entry["id"]: "hps" for entry in hps_prompts[1:]}, {"hps": 2})
    refuse(hps(fewer), "2 images are there twice or were not asked for: sample 0 of hps-anime-000")
    more = images.expecting({entry["id"]: "hps" for entry in [*hps_prompts, {"id": "x"}]}, {"hps": 2})
    refuse(hps(more), "2 images are missing: sample 0 of x")
