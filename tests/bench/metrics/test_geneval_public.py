"""GenEval from public models end to end, with tiny ones of the same architectures; known images; the sanity check."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.metrics.detection import read_known_images
from bench.metrics.models import mask2former
from bench.metrics.models.open_clip_checkpoint import ClipSettings
from bench.metrics.quality.geneval import PUBLIC_CLIP, GenEval, GenEvalSettings, OfficialGenEval
from bench.metrics.quality.geneval_judge import GENEVAL_TEMPLATES
from bench.samples.image_set import ImageSet
from bench.samples.layouts import read_geneval_folder
from bench.samples.prompts import COCO_CLASSES, COLORS, TASKS
from bench.settings import Place, PlaceOrName, read_settings
from fastflux.errors import FastFluxError
from tests.bench.conftest import WriteImages
from tests.bench.geneval_folder import write_geneval_folder
from tests.bench.metrics.tiny_mask2former import DOG, NOTHING, saved


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask2former, "SHORT_EDGE", 64)
    monkeypatch.setattr(mask2former, "LONG_EDGE", 107)


@pytest.fixture
def clip(tiny_clip: Path) -> ClipSettings:
    return ClipSettings(PlaceOrName(tiny_clip))


def public_geneval(weights: Path | str, clip: ClipSettings, known_images: Path | str = "") -> Any:
    return GenEval.load(GenEvalSettings("mask2former", Place(weights), clip, known_images=PlaceOrName(known_images)))


@pytest.fixture
def images(write_images: WriteImages) -> ImageSet:
    """A dog is asked for in all tasks but one: there it is a cat."""
    prompts: list[dict[str, Any]] = []
    for task in TASKS:
        include: list[dict[str, Any]] = [{"class": "cat" if task == "position" else "dog", "count": 1}]
        if task == "colors":
            include[0]["color"] = "red"
        metadata = {"tag": task, "include": include}
        prompts += [
            {"id": f"geneval-{task}-{i}", "set": "geneval", "prompt": "x", "metadata": metadata} for i in range(2)
        ]
    return ImageSet.read(write_images(prompts, samples=2, size=24))


def known_folder(root: Path, counts: Any) -> Path:
    root.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((24, 24, 3), dtype=np.uint8)).save(root / "yard.jpg")
    (root / "counts.json").write_text(json.dumps(counts))
    return root


def test_images_are_judged_by_tiny_models_of_the_public_architectures(
    images: ImageSet, clip: ClipSettings, tmp_path: Path
) -> None:
    metric = public_geneval(weights=saved(tmp_path / "mask2former", DOG), clip=clip)
    found = metric(images)
    assert found.status == "ok", found.reason
    assert list(found.values) == [*TASKS, "overall", "single_object_found"]
    assert found.values["single_object"] == found.values["two_object"] == 1
    assert found.values["position"] == 0
    assert found.values["overall"] == pytest.approx(np.mean([found.values[task] for task in TASKS]))
    assert found.values["single_object_found"] == 1
    assert found.info.name == "geneval"
    assert found.info.reference.startswith(
        "GenEval, variant: objects by Mask2Former (transformers) mask2former, colors"
    )
    assert found.settings["color_templates"] == list(GENEVAL_TEMPLATES)
    assert found.settings["color_colors"] == list(COLORS)
    assert found.settings["known_images"] == 0
    assert str(tmp_path) not in json.dumps(dict(found.settings))


def test_the_same_images_in_genevals_folders_score_the_same(
    images: ImageSet, clip: ClipSettings, tmp_path: Path
) -> None:
    metric = public_geneval(weights=saved(tmp_path / "mask2former", DOG), clip=clip)
    elsewhere = read_geneval_folder(write_geneval_folder(images, tmp_path / "out"))
    assert metric(elsewhere) == metric(images)


def test_a_detector_that_finds_nothing_at_all_fails(images: ImageSet, clip: ClipSettings, tmp_path: Path) -> None:
    found = public_geneval(weights=saved(tmp_path / "blind", NOTHING), clip=clip)(images)
    assert found.status == "failed"
    assert "finds no object in any of 24 images" in found.reason
    assert found.values == {}
    assert found.missing == 24


@pytest.mark.parametrize(("counts", "fault"), [({"cat": 0}, ""), ({"cat": 1}, "shows {'cat': 1}, found {'cat': 0}")])
def test_known_images_come_first(
    images: ImageSet, clip: ClipSettings, tmp_path: Path, counts: dict[str, int], fault: str
) -> None:
    # The detector sees dogs everywhere; how many the file does not say, so that they are not counted.
    known = known_folder(tmp_path / "known", {"yard.jpg": {**counts, "dog": dogs_in_black(tmp_path)}})
    found = public_geneval(weights=saved(tmp_path / "mask2former", DOG), clip=clip, known_images=known)(images)
    if fault:
        assert found.status == "failed"
        assert "fails on known images" in found.reason
    else:
        assert found.status == "ok"
        assert "single_object_found" not in found.values
        assert found.settings["known_images"] == 1


def dogs_in_black(tmp_path: Path) -> int:
    detector = mask2former.Mask2FormerDetector.load(saved(tmp_path / "mask2former", DOG))
    with Image.open(known_folder(tmp_path / "known", {}) / "yard.jpg") as image:
        pixels = np.array(image)
    return sum(found.score > 0.3 for found in detector([pixels])[0])


@pytest.mark.parametrize(
    ("counts", "what"),
    [
        ([], "not of the form"),
        ({}, "not of the form"),
        ({"yard.jpg": 3}, "not of the form"),
        ({"yard.jpg": {"wolf": 1}}, r"counts \['wolf'\]"),
        ({"yard.jpg": {"dog": 1.5}}, "expected whole ones"),
        ({"yard.jpg": {"dog": 0}}, "at least one above 0"),
        ({"absent.jpg": {"dog": 1}}, r"absent\.jpg is damaged or no picture"),
    ],
)
def test_known_images_of_another_form_are_errors(tmp_path: Path, counts: Any, what: str) -> None:
    with pytest.raises(FastFluxError, match=what):
        read_known_images(known_folder(tmp_path / "known", counts), COCO_CLASSES)


def test_known_images_are_read_with_their_counts(tmp_path: Path) -> None:
    ((pixels, counts),) = read_known_images(known_folder(tmp_path / "a", {"yard.jpg": {"dog": 2}}), COCO_CLASSES)
    assert (pixels.shape, counts) == ((24, 24, 3), {"dog": 2})
    with pytest.raises(FastFluxError, match=r"counts\.json cannot be read"):
        read_known_images(tmp_path / "absent", COCO_CLASSES)


def test_the_public_clip_has_the_activation_it_was_trained_with() -> None:
    assert (PUBLIC_CLIP.spec().model, PUBLIC_CLIP.spec().pretrained) == ("ViT-L-14-quickgelu", "openai")


def test_what_is_missing_is_said_before_anything_is_scored(clip: ClipSettings) -> None:
    with pytest.raises(FastFluxError, match=r"Unknown metrics\.geneval\.detector 'yolo': .* mask2former, shapes"):
        read_settings(GenEvalSettings, {"detector": "yolo"}, "metrics.geneval")
    with pytest.raises(FastFluxError, match=r"facebook/mask2former-swin-small-coco-instance.*give a folder"):
        GenEval.load(GenEvalSettings(clip=clip))


def test_official_results_are_a_metric_too(tmp_path: Path) -> None:
    metadata = {"tag": "colors", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
    line = {"filename": "out/00000/samples/0000.png", "tag": "colors", "prompt": "a photo of a dog", "correct": True}
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({**line, "reason": "", "metadata": json.dumps(metadata), "details": "{}"}) + "\n")
    metric = GenEval.load(GenEvalSettings(results=Place(path)))
    assert isinstance(metric, OfficialGenEval)
    assert len(metric.verdicts) == 1
