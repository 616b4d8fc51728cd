"""Retrieval against clip_benchmark run as it is meant to be, on the same model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.metrics.models.open_clip_model import load_open_clip
from bench.metrics.quality.clip_score import Retrieval
from bench.samples.image_set import ImageSet
from tests.bench.conftest import WriteImages, clip_of


@pytest.fixture
def images(write_images: WriteImages, hps_prompts: list[dict[str, Any]]) -> ImageSet:
    return ImageSet.read(write_images(hps_prompts, samples=1))


@pytest.fixture
def metric(tiny_clip: Path) -> Retrieval:
    load_open_clip.cache_clear()  # a test may break the weights
    return Retrieval(clip_of(tiny_clip, 5))


def test_recalls_are_those_of_clip_benchmark(metric: Retrieval, images: ImageSet) -> None:
    from clip_benchmark.metrics import zeroshot_retrieval

    loader = [
        (
            torch.stack([metric.model.preprocess(image.read()) for image in images.images[start : start + 5]]),
            [[image.prompt] for image in images.images[start : start + 5]],
        )
        for start in range(0, 12, 5)
    ]
    expected = zeroshot_retrieval.evaluate(
        metric.model._model, loader, metric.model._tokenizer, "cpu", amp=False, recall_k_list=[1, 5]
    )
    found = metric(images)
    assert found.status == "ok"
    assert found.values == expected
    assert sorted(found.values) == [f"{kind}_retrieval_recall@{k}" for kind in ("image", "text") for k in (1, 5)]
    assert (found.scored, found.settings["images"]) == (12, 12)
    assert all(0 < value < 1 for name, value in found.values.items() if name.endswith("@5"))


def test_right_answers_are_found(tiny_clip: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Retrieval(clip_of(tiny_clip), recall_at=(1, 12))
    monkeypatch.setattr(metric.model, "image_features", lambda each: torch.eye(12))
    monkeypatch.setattr(metric.model, "text_features", lambda each: torch.eye(12).roll(1, 0))
    wrong = metric(images)
    assert (wrong.values["image_retrieval_recall@1"], wrong.values["image_retrieval_recall@12"]) == (0, 1)
    monkeypatch.setattr(metric.model, "text_features", lambda each: torch.eye(12))
    assert set(metric(images).values.values()) == {1}
    load_open_clip.cache_clear()


def test_one_image_of_each_text_is_ranked(metric: Retrieval, write_images: WriteImages) -> None:
    """The same text twice would make a right answer wrong."""
    entries = [{"id": f"p{i}", "set": "hps", "style": "photo", "prompt": f"a star {min(i, 6)}"} for i in range(8)]
    images = ImageSet.read(write_images(entries, samples=2))
    found = metric(images)
    assert (found.scored, found.settings["images_of_prompts_seen_before"]) == (7, 9)
    firsts = [image for image in images.images if image.sample == 0 and image.prompt_id != "p7"]
    assert found.values == metric(ImageSet(tuple(firsts))).values


def test_what_cannot_be_ranked_fails_with_the_reason(metric: Retrieval, images: ImageSet) -> None:
    few = metric(ImageSet(images.images[:4]))
    assert (few.status, few.values) == ("failed", {})
    assert few.reason == "recall among the 5 nearest of 4 images; expected 1 to 4"
    assert "no images" in metric(ImageSet(())).reason
    images.images[0].file.write_bytes(b"")
    assert "is not the file" in metric(images).reason
    images.images[0].file.unlink()
    assert metric(images).missing == 1


def test_features_that_are_not_finite_fail(metric: Retrieval, images: ImageSet) -> None:
    metric.model._model.visual.proj.fill_(float("nan"))
    assert "12 of 12 image features" in metric(images).reason
    load_open_clip.cache_clear()
