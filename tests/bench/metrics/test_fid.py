"""FID against the Frechet formula in float64, KID's direction, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.metrics.models.open_clip_model import load_open_clip
from bench.metrics.quality.fid import FID
from bench.samples.image_set import ImageSet, Pixels
from fastflux.errors import FastFluxError
from tests.bench.conftest import WriteImages, clip_of

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


def frechet(one: FloatArray, two: FloatArray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), by symmetric eigendecompositions."""
    first, second = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    difference = one.mean(axis=0) - two.mean(axis=0)
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * cross)


def pixels(count: int, seed: int, low: int = 0) -> list[Pixels]:
    return list(np.random.default_rng(seed).integers(low, 256, (count, 64, 64, 3), dtype=np.uint8))


@pytest.fixture
def images(write_images: WriteImages) -> ImageSet:
    prompts = [{"id": f"p{i:02}", "set": "hps", "style": "photo", "prompt": "a star"} for i in range(40)]
    return ImageSet.read(write_images(prompts, samples=1))


def test_fid_equals_the_formula_on_the_same_features(tiny_clip: Path, images: ImageSet) -> None:
    reference = pixels(50, seed=1, low=60)
    metric = FID(clip_of(tiny_clip, 16), reference_images=reference)
    found = metric(images)
    assert found.status == "ok"
    one, two = (metric.model.raw_image_features(each).double().numpy() for each in (images, reference))
    assert found.values["fid"] == pytest.approx(frechet(one, two), rel=1e-6)
    assert found.values["kid"] > 0
    assert found.settings["images"] == 40
    assert found.settings["reference_images"] == 50
    assert found.settings["kid_subset_size"] == 20
    assert metric(images) == found


def test_a_nearer_set_has_smaller_distances(tiny_clip: Path, images: ImageSet) -> None:
    near = FID(clip_of(tiny_clip), reference_images=pixels(40, seed=2))(images)
    far = FID(clip_of(tiny_clip), reference_images=pixels(40, seed=2, low=150))(images)
    assert near.values["fid"] < far.values["fid"]
    assert near.values["kid"] < far.values["kid"]
    assert near.settings["reference_sha256"] != far.settings["reference_sha256"]


def test_a_folder_is_read_as_its_pixels(tiny_clip: Path, images: ImageSet, tmp_path: Path) -> None:
    reference = pixels(6, seed=3)
    folder = tmp_path / "reference"
    (folder / "zoo").mkdir(parents=True)
    for index, image in enumerate(reference):  # in folders below it, and by any case of the name's end
        name = f"{index}.png" if index < 4 else f"zoo/{index}.PNG"
        Image.fromarray(image).save(folder / name)
    model = clip_of(tiny_clip)
    assert FID(model, reference_images=folder)(images) == FID(model, reference_images=reference)(images)
    (folder / "7.png").write_bytes(b"no image")
    with pytest.raises(FastFluxError, match=r"7\.png is damaged"):
        FID(model, reference_images=folder)


def test_what_cannot_be_compared_is_refused(tiny_clip: Path, images: ImageSet, tmp_path: Path) -> None:
    model = clip_of(tiny_clip)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FastFluxError, match="0 images are none"):
        FID(model, reference_images=empty)
    with pytest.raises(FastFluxError, match="expected one size"):
        FID(model, reference_images=[*pixels(2, 0), np.zeros((8, 8, 3), dtype=np.uint8)])
    metric = FID(model, reference_images=pixels(4, 0))
    assert "no images" in metric(ImageSet(())).reason
    assert "1 images are none" in metric(ImageSet(images.images[:1])).reason
    images.images[2].file.unlink()
    gone = metric(images)
    assert (gone.status, gone.values, gone.missing) == ("failed", {}, 1)


def test_precision_and_recall_are_given_when_asked_for(tiny_clip: Path, images: ImageSet) -> None:
    model, reference = clip_of(tiny_clip), pixels(50, seed=1, low=60)
    without = FID(model, reference_images=reference)(images)
    found = FID(model, reference_images=reference, precision_recall=True)(images)
    assert sorted(without.values) == ["fid", "kid", "kid_std"]
    assert {name: found.values[name] for name in without.values} == without.values
    assert found.info == without.info
    assert "prc_neighbors" not in without.settings
    metric = FID(model, reference_images=reference)
    one, two = (metric.model.raw_image_features(each).double().numpy() for each in (images, reference))
    assert found.values["precision"] == pytest.approx(share_within(one, two))
    assert found.values["recall"] == pytest.approx(share_within(two, one))


def share_within(points: FloatArray, others: FloatArray) -> float:
    """Share of points nearer to one of the others than that is to its third nearest neighbor (arXiv 1904.06991)."""
    own = np.linalg.norm(others[:, None] - others[None], axis=-1)
    radius = np.sort(own, axis=1)[:, 3]
    distance = np.linalg.norm(points[:, None] - others[None], axis=-1)
    return float((distance <= radius).any(axis=1).mean())


def test_equal_sets_cover_each_other(tiny_clip: Path, images: ImageSet) -> None:
    own = [image.read() for image in images.images]
    found = FID(clip_of(tiny_clip), reference_images=own, precision_recall=True)(images)
    assert (found.values["precision"], found.values["recall"]) == (1, 1)
    assert found.values["fid"] == pytest.approx(0, abs=1e-6)


def test_subsets_and_neighbors_that_do_not_exist_fail(tiny_clip: Path, images: ImageSet) -> None:
    model = clip_of(tiny_clip)
    found = FID(model, reference_images=pixels(30, 0), kid_subset_size=31)(images)
    assert (found.status, found.values) == ("failed", {})
    assert found.reason == "KID's subsets are of 31 images, and there are 30; take smaller ones"
    assert FID(model, reference_images=pixels(30, 0), kid_subset_size=30)(images).settings["kid_subset_size"] == 30
    few = FID(model, reference_images=pixels(3, 0), precision_recall=True)(images)
    assert "3 neighbors, and there are 3 images" in few.reason


def test_features_that_are_not_finite_fail(tiny_clip: Path, images: ImageSet) -> None:
    load_open_clip.cache_clear()  # the weights are broken below
    metric = FID(clip_of(tiny_clip), reference_images=pixels(4, 0))
    metric.model._model.visual.proj.fill_(float("nan"))
    found = metric(images)
    load_open_clip.cache_clear()
    assert (found.status, found.values) == ("failed", {})
    assert "not finite" in found.reason


@pytest.mark.parametrize("damage", ["truncated", "twice"])
def test_damaged_images_fail_with_the_reason(tiny_clip: Path, images: ImageSet, damage: str) -> None:
    first = dataclasses.replace(images.images[0], sha256=None)
    others = images.images[1:]
    if damage == "truncated":
        first.file.write_bytes(first.file.read_bytes()[:2000])
    else:
        others = (*others, first)
    found = FID(clip_of(tiny_clip), reference_images=pixels(4, 0))(ImageSet((first, *others)))
    assert (found.status, found.values) == ("failed", {})
    assert {"truncated": "damaged", "twice": "there twice"}[damage] in found.reason
