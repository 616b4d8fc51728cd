"""open_clip models from a folder: preprocessing, features, and the refusal of weights that would score at random."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.metrics.models.open_clip_model import FeatureError, OpenClipModel, OpenClipSpec, load_open_clip
from bench.samples.image_set import Pixels
from fastflux.errors import FastFluxError


@pytest.fixture(scope="module")
def model(tiny_clip: Path) -> OpenClipModel:
    return OpenClipModel(OpenClipSpec(f"local-dir:{tiny_clip}"), batch_size=3)


def noise(count: int, height: int = 64, width: int = 64) -> list[Pixels]:
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", [None, "shortest", "longest", "squash"])
def test_images_of_the_models_size_pass_unchanged(tiny_clip: Path, mode: str | None) -> None:
    model = OpenClipModel(OpenClipSpec(f"local-dir:{tiny_clip}", resize_mode=mode))
    image = noise(1)[0]
    config = model._model.visual.preprocess_cfg
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    pixels = model.preprocess(image) * std + mean
    assert torch.equal((pixels * 255).round().to(torch.uint8), torch.from_numpy(image.transpose(2, 0, 1)))


def test_the_longest_side_is_fitted_and_the_rest_is_black(tiny_clip: Path) -> None:
    model = OpenClipModel(OpenClipSpec(f"local-dir:{tiny_clip}", resize_mode="longest"))
    pixels = model.preprocess(np.full((32, 128, 3), 255, dtype=np.uint8))
    assert pixels.shape == (3, 64, 64)
    white = pixels[0] > 0
    assert white[24:40].all()
    assert not white[:24].any()
    assert not white[40:].any()


def test_features_have_length_one_and_do_not_depend_on_the_batch(model: OpenClipModel, tiny_clip: Path) -> None:
    images, texts = noise(7), [f"a photo of {i} stars" for i in range(7)]
    other = OpenClipModel(OpenClipSpec(f"local-dir:{tiny_clip}"), batch_size=64)
    for found, again in (
        (model.image_features(images), other.image_features(iter(images))),
        (model.text_features(texts), other.text_features(texts)),
    ):
        assert found.shape == (7, 16)
        assert torch.allclose(found.norm(dim=-1), torch.ones(7))
        assert torch.allclose(found, again, atol=1e-6)


def test_texts_the_model_cannot_read_to_the_end_are_counted(model: OpenClipModel) -> None:
    # 16 places: 14 words between the start and the end mark.
    assert model.too_long(["star " * 14, "star " * 15, "star " * 40, "star"]) == 2
    assert model.too_long([]) == 0


def test_settings_name_the_weights_by_hash_and_hold_no_path(model: OpenClipModel, tiny_clip: Path) -> None:
    settings = model.settings
    assert settings["model"] == f"local-dir:{tiny_clip.name}"
    assert str(tiny_clip) not in json.dumps(settings)
    assert len(str(settings["weights_sha256"])) == 64
    assert settings["image_size"] == [64, 64]
    assert (settings["resize_mode"], settings["interpolation"], settings["antialias"]) == ("shortest", "bicubic", True)


def test_a_model_is_loaded_once(tiny_clip: Path) -> None:
    spec = OpenClipSpec(f"local-dir:{tiny_clip}")
    assert load_open_clip(spec) is load_open_clip(OpenClipSpec(f"local-dir:{tiny_clip}"))


def test_folders_without_weights_and_names_without_a_tag_are_refused(tiny_clip: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_clip / "open_clip_config.json", tmp_path)
    for spec, match in (
        (OpenClipSpec(f"local-dir:{tmp_path}"), "lacks"),
        (OpenClipSpec(f"local-dir:{tmp_path / 'absent'}"), "lacks"),
        (OpenClipSpec(f"local-dir:{tiny_clip}", "openai"), "must be empty"),
        (OpenClipSpec("ViT-B-32"), "at random"),
        (OpenClipSpec("ViT-B-32", "no-such-tag"), "cannot load 'ViT-B-32' with 'no-such-tag'"),
        (OpenClipSpec("no-such-model", "openai"), "cannot load 'no-such-model'"),
    ):
        with pytest.raises(FastFluxError, match=match):
            OpenClipModel(spec)


def test_weights_that_do_not_fit_are_refused(tiny_clip: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_clip / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 3
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    shutil.copy(tiny_clip / "open_clip_model.safetensors", tmp_path)
    with pytest.raises(FastFluxError, match="cannot load"):
        OpenClipModel(OpenClipSpec(f"local-dir:{tmp_path}"))


def test_an_activation_that_is_not_the_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    import open_clip

    def warned(*_: object, **__: object) -> None:
        warnings.warn("QuickGELU mismatch between final model config and pretrained tag.", UserWarning, stacklevel=1)

    monkeypatch.setattr(open_clip, "create_model_and_transforms", warned)
    with pytest.raises(FastFluxError, match="ends in -quickgelu"):
        OpenClipModel(OpenClipSpec("ViT-L-14", "openai"))


def test_features_that_are_not_finite_are_an_error(tiny_clip: Path) -> None:
    model = OpenClipModel(OpenClipSpec(f"local-dir:{tiny_clip}"))
    model._model.visual.conv1.weight.fill_(float("nan"))
    with pytest.raises(FeatureError, match=r"2 of 2 image features .* not finite"):
        model.image_features(noise(2))
    model._model.text_projection.zero_()
    with pytest.raises(FeatureError, match=r"1 text features .* zero"):
        model.text_features(["a star"])
