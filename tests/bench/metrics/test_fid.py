"""FID against the Frechet formula in float64, KID's direction, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.image_set import ImageSet, Pixels
from bench.metrics.fid import FID
from fastflux.errors import FastFluxError
from tests.bench.conftest import WriteImages

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
    metric = FID(f"local-dir:{tiny_clip}", reference_images=reference, batch_size=16)
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
    near = FID(f"local-dir:{tiny_clip}", reference_images=pixels(40, seed=2))(images)
    far = FID(f"local-dir:{tiny_clip}", reference_images=pixels(40, seed=2, low=150))(images)
    assert near.values["fid"] < far.values["fid"]
    assert near.values["kid"] < far.values["kid"]
    assert near.settings["reference_sha256"] != far.settings["reference_sha256"]


def test_a_folder_is_read_as_its_pixels(tiny_clip: Path, images: ImageSet, tmp_path: Path) -> None:
    reference = pixels(6, seed=3)
    folder = tmp_path / "reference"
    folder.mkdir()
    for index, image in enumerate(reference):
        Image.fromarray(image).save(folder / f"{index}.png")
    model = f"local-dir:{tiny_clip}"
    assert FID(model, reference_images=folder)(images) == FID(model, reference_images=reference)(images)
    (folder / "7.png").write_bytes(b"no image")
    with pytest.raises(FastFluxError, match=r"7\.png is damaged"):
        FID(model, reference_images=folder)


def test_what_cannot_be_compared_is_refused(tiny_clip: Path, images: ImageSet, tmp_path: Path) -> None:
    model = f"local-dir:{tiny_clip}"
    with pytest.raises(FastFluxError, match="0 images are none"):
        FID(model, reference_images=tmp_path)
    with pytest.raises(FastFluxError, match="expected one size"):
        FID(model, reference_images=[*pixels(2, 0), np.zeros((8, 8, 3), dtype=np.uint8)])
    metric = FID(model, reference_images=pixels(4, 0))
    assert "no images" in metric(ImageSet(())).reason
    assert "1 images are none" in metric(ImageSet(images.images[:1])).reason
    images.images[2].file.unlink()
    gone = metric(images)
    assert (gone.status, gone.values, gone.missing) == ("failed", {}, 1)
