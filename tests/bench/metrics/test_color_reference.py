"""Colors as GenEval finds them: clip_benchmark's zero-shot classifier on PIL's crops, against ours."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.metrics.detection import Detection
from bench.metrics.models.open_clip_model import OpenClipModel, OpenClipSpec
from bench.metrics.quality.geneval_judge import ClipColorClassifier, object_crop
from bench.samples.prompts import COLORS

HEIGHT, WIDTH = 40, 50


def pil_crop(image: np.ndarray, found: Detection) -> np.ndarray:
    """The object on #999, cut to its box, by PIL alone."""
    whole = Image.fromarray(image)
    if found.mask is not None:
        whole = Image.composite(whole, Image.new("RGB", whole.size, color="#999"), Image.fromarray(found.mask))
    return np.array(whole.crop(found.box))


@given(
    x=st.floats(0, WIDTH - 2),
    y=st.floats(0, HEIGHT - 2),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    masked=st.booleans(),
)
def test_crops_are_pils(x: float, y: float, share: tuple[float, float], masked: bool) -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask = generator.random((HEIGHT, WIDTH)) > 0.5 if masked else None
    # At least two pixels wide: PIL cuts nothing at all out of less, and CLIP cannot see that.
    box = (x, y, x + 2 + share[0] * (WIDTH - 2 - x), y + 2 + share[1] * (HEIGHT - 2 - y))
    found = Detection("dog", 0.9, box, mask)
    assert np.array_equal(object_crop(image, found), pil_crop(image, found))


@pytest.mark.parametrize("name", ["dog", "traffic light"])
def test_colors_are_those_of_the_references_classifier(tiny_clip: Path, name: str) -> None:
    zero_shot = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
    model = OpenClipModel(OpenClipSpec(f"local-dir:{tiny_clip}"))
    classify = ClipColorClassifier(model)
    weights = zero_shot.zero_shot_classifier(
        model._model,
        model._tokenizer,
        list(COLORS),
        [f"a photo of a {{c}} {name}", f"a photo of a {{c}}-colored {name}", "a photo of a {c} object"],
        "cpu",
        amp=False,
    )  # (dim, colors)
    assert torch.allclose(classify._text_features(name), weights.T, atol=1e-6)
    generator = np.random.default_rng(1)
    image = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    objects = [
        Detection(name, 0.9, tuple(map(float, (x, y, x + 12, y + 20))), generator.random((64, 64)) > 0.3)
        for x, y in generator.integers(0, 40, (24, 2))
    ]
    with torch.no_grad():
        crops = torch.stack([model._preprocess(Image.fromarray(pil_crop(image, one))) for one in objects])
        similarity = torch.nn.functional.normalize(model._model.encode_image(crops), dim=-1) @ weights
    ours = model.image_features(object_crop(image, one) for one in objects) @ classify._text_features(name).T
    assert torch.allclose(ours, similarity, atol=1e-6)
    assert similarity.std(dim=0).min() > 1e-4, "objects must differ for the comparison to mean anything"
    assert classify(image, objects, name) == [COLORS[index] for index in similarity.argmax(dim=1).tolist()]
    assert classify(image, [], name) == []
