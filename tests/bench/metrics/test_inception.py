"""InceptionV3's features and FID against torch-fidelity's own way with the same random weights."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from bench.metrics.models.inception import InceptionFeatures, load_inception
from bench.metrics.models.open_clip_model import FeatureError
from bench.metrics.quality.fid import FID, FIDSettings
from bench.samples.image_set import ImageSet, Pixels
from bench.settings import Place, PlaceOrName
from fastflux.errors import FastFluxError
from tests.bench.conftest import WriteImages


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file as torch-fidelity's, of random numbers."""
    file = tmp_path_factory.mktemp("inception") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        torch.save(FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).state_dict(), file)
    yield file
    load_inception.cache_clear()


def pixels(count: int, seed: int) -> list[Pixels]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 40, 30, 3), dtype=np.uint8))


def test_features_are_those_of_torch_fidelity(weights: Path) -> None:
    extractor = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
    )
    images = pixels(3, seed=0)
    batch = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())
    found = InceptionFeatures(weights, batch_size=2).raw_image_features(images)
    assert found.shape == (3, 2048)
    assert torch.allclose(found, extractor(batch)[0], rtol=1e-4, atol=1e-6)


def test_settings_name_the_weights_by_hash(weights: Path) -> None:
    settings = load_inception(weights).settings
    assert (settings["feature_layer"], settings["image_size"]) == ("2048", [299, 299])
    assert len(str(settings["weights_sha256"])) == 64
    assert load_inception(weights) is load_inception(weights)


def test_distances_are_those_of_torch_fidelity(
    weights: Path, write_images: WriteImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the first pooling layer, whose 64 numbers take a hundredth of the time of the last one's 2048."""
    import torch_fidelity

    load_inception.cache_clear()
    monkeypatch.setattr("bench.metrics.models.inception.LAYER", "64")
    prompts = [{"id": f"p{i}", "set": "hps", "style": "photo", "prompt": "a star"} for i in range(6)]
    images = ImageSet.read(write_images(prompts, samples=1, size=32))
    reference = tmp_path / "reference"
    reference.mkdir()
    for index, image in enumerate(pixels(7, seed=1)):
        Image.fromarray(image[:32, :30]).resize((32, 32)).save(reference / f"{index}.png")
    found = FID.load(
        FIDSettings(checkpoint=Place(weights), reference_images=PlaceOrName(reference), precision_recall=True)
    )(images)
    load_inception.cache_clear()
    assert found.status == "ok"
    assert found.info.reference == "FID and KID, InceptionV3"
    expected = torch_fidelity.calculate_metrics(
        input1=str(images.images[0].file.parent), input2=str(reference), fid=True, kid=True, prc=True,
        kid_subset_size=3, rng_seed=0, feature_extractor="inception-v3-compat", feature_layer_fid="64",
        feature_layer_kid="64", feature_layer_prc="64", feature_extractor_weights_path=str(weights), cuda=False,
        cache=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    assert found.values["fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert found.values["kid"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3, abs=1e-9)
    assert found.values["precision"] == pytest.approx(expected["precision"])
    assert found.values["recall"] == pytest.approx(expected["recall"])


def test_weights_that_are_not_there_or_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match=r"checkpoint is not set: download https://github"):
        FID.load(FIDSettings())
    with pytest.raises(FastFluxError, match=r"absent\.pth is not there: download https://github"):
        InceptionFeatures(tmp_path / "absent.pth")
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(1)}, other)
    with pytest.raises(FastFluxError, match="holds no weights of InceptionV3") as error:
        InceptionFeatures(other)
    assert "\n" not in str(error.value)
    torch.save({"run": Path()}, other)  # which torch-fidelity itself would load, and run
    with pytest.raises(FastFluxError, match="holds no weights of InceptionV3"):
        InceptionFeatures(other)
    other.write_bytes(b"cut off")
    with pytest.raises(FastFluxError, match="holds no weights of InceptionV3"):
        InceptionFeatures(other)


def test_features_that_are_not_finite_fail(weights: Path, write_images: WriteImages, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    state["Conv2d_1a_3x3.conv.weight"][:] = float("nan")
    broken = tmp_path / "broken.pth"
    torch.save(state, broken)
    features = InceptionFeatures(broken)
    with pytest.raises(FeatureError, match="2 of 2 features of InceptionV3"):
        features.raw_image_features(pixels(2, 0))
    with pytest.raises(FeatureError, match="no image"):
        features.raw_image_features([])
    prompts = [{"id": f"p{i}", "set": "hps", "style": "photo", "prompt": "a star"} for i in range(2)]
    images = ImageSet.read(write_images(prompts, samples=1, size=32))
    found = FID(features, reference_images=[image.read() for image in images.images])(images)
    assert (found.status, found.values) == ("failed", {})
    assert "not finite" in found.reason
