"""Paired metrics: the formulas window by window, equal images, and sets that cannot be paired."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.metrics.models.open_clip_model import load_open_clip
from bench.metrics.quality.image_similarity import mean_squared_error, psnr, ssim
from bench.metrics.quality.paired import Paired
from bench.records.results import Measurement
from bench.records.statistics import paired_difference, strata_of
from bench.samples.image_set import UNKNOWN_SEED, ImageSet, ImageSetError, Pixels
from tests.bench.conftest import WriteImages, clip_of


def noisy(image: Pixels, sigma: float, seed: int = 0) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    found: Pixels = (image + noise).clip(0, 255).astype(np.uint8)
    return found


def image_of(seed: int, height: int = 20, width: int = 17) -> Pixels:
    found: Pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return found


def ssim_by_hand(one: Pixels, two: Pixels) -> float:
    """Equation 13, a window at a time."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for channel in range(3):
        for top in range(one.shape[0] - 10):
            for left in range(one.shape[1] - 10):
                x, y = (each[top : top + 11, left : left + 11, channel].astype(float) for each in (one, two))
                mx, my = (weights * x).sum(), (weights * y).sum()
                vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
                cov = (weights * (x - mx) * (y - my)).sum()
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                found.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(found))


@pytest.mark.parametrize("sigma", [5, 60])
def test_ssim_is_the_formula(sigma: float) -> None:
    image = image_of(1)
    other = noisy(image, sigma)
    assert ssim(image, other) == pytest.approx(ssim_by_hand(image, other), abs=1e-10)
    assert ssim(image, image) == pytest.approx(1, abs=1e-12)
    assert ssim(image, other) == ssim(other, image)


def test_psnr_is_the_formula() -> None:
    black, grey = np.zeros((4, 4, 3), dtype=np.uint8), np.full((4, 4, 3), 51, dtype=np.uint8)
    assert mean_squared_error(black, grey) == 51**2
    assert psnr(51**2) == pytest.approx(20 * math.log10(5))
    assert mean_squared_error(black, np.full_like(black, 255)) == 255**2  # uint8 would wrap around


def test_images_smaller_than_a_window_are_refused() -> None:
    with pytest.raises(ImageSetError, match=r"shape \(10, 40, 3\); its windows are of 11 x 11"):
        ssim(image_of(0, 10, 40), image_of(1, 10, 40))


@pytest.fixture
def dense(write_images: WriteImages, hps_prompts: list[dict[str, Any]]) -> ImageSet:
    return ImageSet.read(write_images(hps_prompts, seed=0, folder="dense", size=32))


@pytest.fixture
def pruned(write_images: WriteImages, hps_prompts: list[dict[str, Any]]) -> ImageSet:
    return ImageSet.read(write_images(hps_prompts, seed=1, folder="pruned", size=32))


@pytest.fixture
def metric(tiny_clip: Path, dense: ImageSet) -> Paired:
    load_open_clip.cache_clear()  # a test may break the weights
    return Paired(clip_of(tiny_clip), dense)


def test_values_are_means_over_the_pairs(metric: Paired, dense: ImageSet, pruned: ImageSet) -> None:
    found = metric(pruned)
    assert found.status == "ok"
    assert list(found.values) == ["psnr", "ssim", "clip_image"]
    pairs = list(zip(pruned, dense, strict=True))
    errors = [mean_squared_error(a, b) for a, b in pairs]
    assert found.values["psnr"] == pytest.approx(psnr(float(np.mean(errors))))
    assert found.values["ssim"] == pytest.approx(np.mean([ssim(a, b) for a, b in pairs]))
    ours, theirs = (metric.model.image_features(each).double() for each in (pruned, dense))
    assert found.values["clip_image"] == pytest.approx(float(100 * (ours * theirs).sum(dim=-1).mean()))
    assert found.samples["mse/hps-photo-002"] == [pytest.approx(value) for value in errors[-2:]]
    assert (found.scored, found.settings["equal_images"], found.settings["reference_images"]) == (24, 0, 24)
    for name, (low, high) in found.intervals.items():
        assert low <= found.values[name] <= high
    assert len(found.intervals) == 3
    assert metric(pruned) == found


def test_equal_images_have_no_psnr(metric: Paired, dense: ImageSet, pruned: ImageSet) -> None:
    same = metric(dense)
    assert same.status == "ok"
    assert sorted(same.values) == ["clip_image", "ssim"]
    assert same.values["ssim"] == pytest.approx(1)
    assert same.values["clip_image"] == pytest.approx(100)
    assert same.settings["equal_images"] == 24
    half = ImageSet((*dense.images[:12], *pruned.images[12:]))
    assert metric(half).values["psnr"] > metric(pruned).values["psnr"]


def test_variants_can_be_compared_prompt_by_prompt(metric: Paired, dense: ImageSet, pruned: ImageSet) -> None:
    near, far = (strata_of(metric(each).samples)["ssim"] for each in (dense, pruned))
    found = paired_difference([{"": near}], [{"": far}], weighting="images", seed=0)
    assert found.difference.value > 0
    assert (found.prompts, found.p_value < 0.01) == (12, True)


def test_the_reference_decides_the_hash(tiny_clip: Path, metric: Paired, dense: ImageSet, pruned: ImageSet) -> None:
    other = metric.against(pruned)
    assert metric(pruned).settings["reference_sha256"] == metric(dense).settings["reference_sha256"]
    assert metric(pruned).settings["reference_sha256"] != other(pruned).settings["reference_sha256"]


def refuse(found: Measurement, reason: str) -> None:
    assert (found.status, found.values) == ("failed", {})
    assert reason in found.reason


def test_sets_that_cannot_be_paired_fail_with_the_reason(
    metric: Paired, pruned: ImageSet, write_images: WriteImages, hps_prompts: list[dict[str, Any]], tiny_clip: Path
) -> None:
    first, *rest = pruned.images
    third = write_images(hps_prompts, samples=3, folder="third", size=32)
    refuse(metric(ImageSet.read(third)), "12 images have no partner: of sample 2 of hps-anime-000 the dense model has")
    fewer = write_images(hps_prompts[1:], folder="fewer", size=32)
    refuse(metric(ImageSet.read(fewer)), "2 images have no partner: of sample 0 of hps-anime-000 only the dense model")
    other = dataclasses.replace(first, prompt="a ring")
    refuse(metric(ImageSet((other, *rest))), "hps-anime-000 reads 'a ring' here and 'anime of 0 stars' for the dense")
    seed = dataclasses.replace(first, seed=9)
    refuse(metric(ImageSet((seed, *rest))), "sample 0 of hps-anime-000 has seed 9, the dense model's 0")
    unknown = dataclasses.replace(first, seed=UNKNOWN_SEED)
    refuse(metric(ImageSet((unknown, *rest))), "nobody knows the seed of sample 0 of hps-anime-000")
    larger = write_images(hps_prompts, folder="larger", size=33)
    refuse(metric(ImageSet.read(larger)), "has the shape (33, 33, 3), the dense model's (32, 32, 3)")
    refuse(metric(ImageSet((*pruned.images, first))), "twice or were not asked for: sample 0 of hps-anime-000")
    refuse(Paired(clip_of(tiny_clip))(pruned), "of the dense model, the image set holds no images")


def test_damage_fails_with_the_reason(metric: Paired, dense: ImageSet, pruned: ImageSet) -> None:
    dense.images[3].file.write_bytes(b"no image")
    refuse(metric(pruned), "hps-anime-001_1.png is not the file")
    dense.images[3].file.unlink()
    refuse(metric(pruned), "of the dense model, 1 images are missing")


def test_features_that_are_not_finite_fail(metric: Paired, pruned: ImageSet) -> None:
    metric.model._model.visual.proj.fill_(float("nan"))
    refuse(metric(pruned), "not finite")
    load_open_clip.cache_clear()
