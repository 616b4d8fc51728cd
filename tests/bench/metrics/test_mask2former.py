"""Mask2Former as a detector: mmdet's rules on given logits, and against a second computation in float64."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.metrics.detection import DetectorError
from bench.metrics.models import mask2former
from bench.metrics.models.mask2former import MEAN, STD, Mask2FormerDetector, instances, model_input, resized_size
from bench.samples.image_set import Pixels
from bench.samples.prompts import COCO_CLASSES
from fastflux.errors import FastFluxError
from tests.bench.metrics.tiny_mask2former import DOG, NOTHING, saved, tiny_mask2former

Array = npt.NDArray[np.float64]
NAMES = ("dog", "cat", "kite")


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Edges of a twelfth, for models that are tiny too."""
    monkeypatch.setattr(mask2former, "SHORT_EDGE", 66)
    monkeypatch.setattr(mask2former, "LONG_EDGE", 111)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (800, 800)),
        ((1024, 1024), (800, 800)),
        ((600, 1000), (800, 1333)),
        ((1000, 600), (1333, 800)),
        ((400, 1000), (533, 1333)),  # the long edge decides
        ((480, 640), (800, 1067)),
        ((100, 101), (800, 808)),
    ],
)
def test_images_are_scaled_as_mmdet_scales_them(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size) == expected


def bilinear(values: Array, size: tuple[int, int]) -> Array:
    """Bilinear interpolation of the last two axes, pixel centres at halves, edges held."""
    for axis, new in ((-2, size[0]), (-1, size[1])):
        old = values.shape[axis]
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        part = at - low
        shape = [1] * values.ndim
        shape[axis] = new
        part = part.reshape(shape)
        values = values.take(low, axis) * (1 - part) + values.take(np.minimum(low + 1, old - 1), axis) * part
    return values


@pytest.mark.usefixtures("small")
def test_the_model_sees_the_resized_image_and_grey_padding() -> None:
    image = noise(40, 50)
    pixels, size = model_input(image)
    assert size == (66, 83)
    assert pixels.shape == (1, 3, 96, 96)
    levels = pixels[0].double().numpy() * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None]
    assert np.allclose(levels, np.round(levels), atol=1e-4)
    expected = bilinear(image.transpose(2, 0, 1).astype(np.float64), size)
    assert np.abs(levels[:, :66, :83] - expected).max() <= 0.5 + 1e-4
    assert np.allclose(levels[:, 66:], 128, atol=1e-4)
    assert np.allclose(levels[:, :, 83:], 128, atol=1e-4)


def second(
    classes: Array, masks: Array, padded: tuple[int, int], resized: tuple[int, int], size: tuple[int, int]
) -> dict[tuple[int, int], tuple[float, npt.NDArray[np.bool_]]]:
    """mmdet's `instance_postprocess` and what comes before it, in float64: score and mask by query and class."""
    odds = np.exp(classes - classes.max(axis=1, keepdims=True))
    probabilities = (odds / odds.sum(axis=1, keepdims=True))[:, :-1]
    pairs = [(query, label) for query in range(probabilities.shape[0]) for label in range(probabilities.shape[1])]
    pairs.sort(key=lambda pair: -probabilities[pair])
    whole = bilinear(bilinear(masks, padded)[:, : resized[0], : resized[1]], size)
    found = {}
    for query, label in pairs[:100]:
        inside = whole[query] > 0
        certainty = (1 / (1 + np.exp(-whole[query][inside]))).sum() / (inside.sum() + 1e-6)
        found[query, label] = (probabilities[query, label] * certainty, inside)
    return found


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("size", [(40, 50), (130, 70)])
def test_detections_are_those_of_a_second_computation(size: tuple[int, int]) -> None:
    model = tiny_mask2former()
    image = noise(*size)
    detections = Mask2FormerDetector(model)([image])[0]
    pixels, resized = model_input(image)
    with torch.no_grad():
        output = model(pixel_values=pixels)
    classes, masks = (
        logits[0].double().numpy() for logits in (output.class_queries_logits, output.masks_queries_logits)
    )
    expected = {
        pair: one for pair, one in second(classes, masks, pixels.shape[-2:], resized, size).items() if one[0] > 0.05
    }
    assert len(detections) == len(expected) > 8
    scores = sorted(
        ((score, COCO_CLASSES[label], inside) for (_, label), (score, inside) in expected.items()),
        key=lambda one: -one[0],
    )
    for found, (score, label, inside) in zip(sorted(detections, key=lambda one: -one.score), scores, strict=True):
        assert found.label == label
        assert found.score == pytest.approx(score, rel=1e-4)
        assert found.mask is not None
        assert (found.mask != inside).mean() < 1e-3
        rows, columns = np.nonzero(found.mask)
        assert found.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def logits_of(*queries: tuple[int, float]) -> torch.Tensor:
    """Class logits of queries that see one class (or 3, nothing) by so many logits."""
    logits = torch.zeros(len(queries), 4)
    for row, (label, height) in enumerate(queries):
        logits[row, label] = height
    return logits


def rectangles(*boxes: tuple[int, int, int, int], height: int = 20, width: int = 30) -> torch.Tensor:
    masks = torch.full((len(boxes), height, width), -4.0)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 2.0
    return masks


SIZE = (20, 30)


def test_a_score_is_class_times_mask_and_a_box_goes_round_the_mask() -> None:
    masks = rectangles((3, 5, 9, 12), (0, 0, 30, 20))
    (found,) = instances(logits_of((1, 5.0), (3, 9.0)), masks, SIZE, SIZE, SIZE, NAMES)
    assert found.label == "cat"
    assert found.box == (3, 5, 9, 12)
    assert found.mask is not None
    assert found.mask.dtype == np.bool_
    assert found.mask.sum() == 42
    certainty, of_class = 1 / (1 + np.exp(-2)), np.exp(5) / (np.exp(5) + 3)
    assert found.score == pytest.approx(of_class * certainty, rel=1e-5)


def test_one_query_may_see_several_classes() -> None:
    classes = torch.tensor([[3.0, 2.5, -9.0, 0.0]])
    found = instances(classes, rectangles((3, 5, 9, 12)), SIZE, SIZE, SIZE, NAMES)
    assert [one.label for one in found] == ["dog", "cat"]


def test_100_pairs_are_kept_at_most() -> None:
    classes = torch.zeros(60, 4)
    classes[:, 0] = torch.linspace(5.0, 6.0, 60)
    classes[:, 1] = 4.0
    classes[:, 2:] = -20
    found = instances(classes, rectangles(*[(0, 0, 5, 5)] * 60), SIZE, SIZE, SIZE, NAMES)
    assert [one.label for one in found].count("dog") == 60
    assert len(found) == 100


def test_what_lies_in_the_padding_is_nothing() -> None:
    masks = rectangles((24, 0, 30, 20), (2, 2, 30, 20))
    found = instances(logits_of((0, 9.0), (0, 9.0)), masks, SIZE, (20, 24), (20, 24), NAMES)
    assert [one.box for one in found] == [(2, 2, 24, 20)]


def test_masks_come_to_the_images_own_size() -> None:
    (found,) = instances(logits_of((2, 9.0)), rectangles((10, 5, 20, 15)), (80, 120), (80, 120), (160, 240), NAMES)
    assert found.mask is not None
    assert found.mask.shape == (160, 240)
    assert np.allclose(found.box, (80, 40, 160, 120), atol=8)


def test_logits_that_are_not_finite_are_an_error() -> None:
    model = tiny_mask2former(DOG)
    with torch.no_grad():
        model.class_predictor.bias[3] = float("nan")
    with pytest.raises(DetectorError, match="not finite"):
        Mask2FormerDetector(model)([noise(16, 16)])


@pytest.mark.usefixtures("small")
def test_a_saved_model_detects_the_same_and_is_named_by_its_hash(tmp_path: Path) -> None:
    folder = saved(tmp_path / "mask2former")
    loaded = Mask2FormerDetector.load(folder)
    image = noise(40, 50)
    here, there = Mask2FormerDetector(tiny_mask2former())([image])[0], loaded([image])[0]
    assert [(one.label, one.score, one.box) for one in here] == [(one.label, one.score, one.box) for one in there]
    assert loaded.settings["weights"] == "mask2former"
    assert len(str(loaded.settings["weights_sha256"])) == 64
    assert str(tmp_path) not in json.dumps(loaded.settings)


@pytest.mark.usefixtures("small")
def test_models_that_see_one_thing_or_nothing() -> None:
    assert {one.label for one in Mask2FormerDetector(tiny_mask2former(DOG))([noise(40, 50)])[0]} == {"dog"}
    assert Mask2FormerDetector(tiny_mask2former(NOTHING))([noise(40, 50)]) == [[]]


@pytest.mark.parametrize("weights", ["no/such-model", "absent-folder"])
def test_weights_that_are_not_there_are_one_clear_sentence(weights: str) -> None:
    with pytest.raises(
        FastFluxError, match=f"cannot load a Mask2Former from '{weights}'.*give a folder with"
    ) as caught:
        Mask2FormerDetector.load(weights)
    assert "\n" not in str(caught.value)


def test_an_incomplete_checkpoint_is_not_filled_up_at_random(tmp_path: Path) -> None:
    file = saved(tmp_path / "mask2former") / "model.safetensors"
    weights = load_file(file)
    del weights["class_predictor.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(FastFluxError, match=r"1 weights .* \(e\.g\. class_predictor\.weight\) and would be random"):
        Mask2FormerDetector.load(file.parent)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match="has 20 classes; expected 80"):
        Mask2FormerDetector(tiny_mask2former(labels=20))
    model = tiny_mask2former()
    names = dict(enumerate(COCO_CLASSES))
    model.config.id2label = names
    Mask2FormerDetector(model)
    model.config.id2label = {**names, 16: "cat", 15: "dog"}
    with pytest.raises(FastFluxError, match="class 16 is 'cat'; expected 'dog'"):
        Mask2FormerDetector(model)


@pytest.mark.gpu
def test_a_gpu_detects_what_the_cpu_detects() -> None:
    image = noise(400, 500)
    here, there = (Mask2FormerDetector(tiny_mask2former(), device=device)([image])[0] for device in ("cuda", "cpu"))
    assert [one.label for one in here] == [one.label for one in there]
    assert np.allclose([one.score for one in here], [one.score for one in there], atol=1e-2)


@pytest.mark.usefixtures("small")
def test_the_public_architecture() -> None:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    model = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(num_labels=80))  # the defaults are Swin-S
    with torch.no_grad():
        model.class_predictor.bias[DOG] = 12.0
    found = Mask2FormerDetector(model)([noise(64, 64)])[0]
    assert {one.label for one in found} == {"dog"}
    assert all(one.mask is not None and one.mask.shape == (64, 64) for one in found)
