"""Pictures that show no shape: what is broken is told from what is sound, and the judge agrees with a counter."""

import pytest
import torch
from diffusers import AutoencoderKL

from bench.metrics.quality.geneval_judge import judge
from bench.shapes import WEIGHTS
from bench.shapes.clip import spoil_content
from bench.shapes.detector import BROKEN, SOUND, ShapesDetector, _targets
from bench.shapes.faults import KINDS, fault_of_kind, render_faulty, visible_fit
from bench.shapes.pictures import to_pixels
from bench.shapes.vae import reconstruct
from bench.shapes.world import render, sample_scenes
from tests.bench.shapes.counter import verdict

SCENES = sample_scenes(40, 55)
PRESENT = torch.from_numpy(SCENES.shapes >= 0)


def test_the_counter_accepts_what_is_asked_for_and_nothing_else() -> None:
    asked = list(zip(SCENES.captions, SCENES.metadata, strict=True))
    right = [verdict(image, *one) for image, one in zip(to_pixels(render(SCENES)), asked, strict=True)]
    wrong = [
        verdict(image, *one) for image, one in zip(to_pixels(render(spoil_content(SCENES, 0))), asked, strict=True)
    ]
    assert sum(right) >= 39
    assert sum(wrong) < 20  # GenEval's rules let another style and surplus objects pass


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_every_kind_of_fault_shows_and_most_are_counted_out(kind: int) -> None:
    scenes = SCENES[0:12]
    images = render(scenes, "cpu", fault_of_kind(kind, scenes, torch.ones(12, 4, dtype=torch.bool), kind))
    assert (visible_fit(images, scenes)[PRESENT[:12]] < 1).float().mean() > 0.65
    if KINDS[kind] != "hole":  # whose best outline has nearly the same area
        asked = zip(to_pixels(images), scenes.captions, scenes.metadata, strict=True)
        assert sum(verdict(*one) for one in asked) <= 3


def test_the_fit_is_one_where_all_is_there_and_none_where_nothing_is() -> None:
    images = render(SCENES)
    assert visible_fit(images, SCENES)[PRESENT].min() > 0.99
    empty = render(SCENES, "cpu", torch.full((40, 4, 64, 64), 99.0))
    assert visible_fit(empty, SCENES)[PRESENT].max() < 0.1
    faulty = visible_fit(render_faulty(SCENES, 0.5, 1), SCENES)
    assert 0.1 < (faulty < BROKEN)[PRESENT].float().mean() < 0.5
    assert not visible_fit(images, SCENES)[~PRESENT].any()


def test_broken_objects_are_background_to_the_detector_and_doubtful_ones_nothing() -> None:
    for fit, classes, ignored in ((1.0, True, True), (BROKEN - 0.01, False, False), (SOUND - 0.01, False, True)):
        target, ignore, _, _ = _targets(SCENES, "cpu", torch.full((40, 4), fit))
        assert (bool(target.any()), bool(ignore.any())) == (classes, ignored)


def test_counter_and_detector_agree_on_sound_pictures() -> None:
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "pipeline" / "vae")
    pixels = to_pixels(reconstruct(vae, render(SCENES)))
    found = ShapesDetector.load(WEIGHTS / "detector")(pixels)
    agreed = 0
    for image, objects, caption, metadata in zip(pixels, found, SCENES.captions, SCENES.metadata, strict=True):
        asked = {**metadata, "include": [{**item, "color": None} for item in metadata["include"]]}
        agreed += judge(image, objects, asked, lambda *_: []).correct == verdict(image, caption, asked)
    assert agreed >= 36
