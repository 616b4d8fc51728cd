"""Factories of the published scorers: names, settings, and checkpoints refused before an image is looked at."""

import json
import pickle
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bench.metrics.models.open_clip_checkpoint import ClipSettings, clip_spec, require_architecture
from bench.metrics.models.open_clip_model import OpenClipModel, OpenClipSpec
from bench.metrics.quality.clip_score import ClipScore, Retrieval
from bench.metrics.quality.hps import HPS, HPSSettings
from bench.metrics.quality.paired import Paired
from bench.records.environment import sha256_of
from bench.samples.image_set import ImageSet
from bench.samples.layouts import read_layout
from bench.samples.prompts import Prompt
from bench.settings import Place, PlaceOrName
from fastflux.errors import FastFluxError
from tests.bench.conftest import WriteImages
from tests.bench.hpsv2_layout import write_layout

Hps = tuple[str, Path]


def hps_v2(checkpoint: Path, version: Any = "v2.0", *, architecture: str = "ViT-H-14", antialias: bool = True) -> HPS:
    return HPS.load(HPSSettings(PlaceOrName(architecture), Place(checkpoint), version, antialias))


def changed(checkpoint: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, target)
    return target


def test_hps_names_version_weights_and_filter(tiny_hps: Hps, tmp_path: Path) -> None:
    architecture, checkpoint = tiny_hps
    newer = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save(torch.load(checkpoint, weights_only=True), newer)
    old = hps_v2(checkpoint, architecture=architecture)
    new = hps_v2(newer, "v2.1", architecture=architecture, antialias=False)
    assert (old.info.reference, new.info.reference) == ("HPS v2.0", "HPS v2.1")
    assert old.model.settings == {
        "model": "tiny-hps", "pretrained": "HPS_v2_compressed.pt", "weights_sha256": sha256_of(checkpoint),
        "precision": "fp32", "image_size": [56, 56], "resize_mode": "longest", "interpolation": "bicubic",
        "antialias": True, "resized_by": "torch",
    }  # fmt: skip
    assert new.model.settings["antialias"] is False
    assert str(tmp_path) not in json.dumps(new.model.settings)
    assert hps_v2(checkpoint, architecture=architecture).model is old.model  # loaded once


def test_images_made_elsewhere_are_scored_without_generating(
    tiny_hps: Hps, write_images: WriteImages, hps_prompts: list[dict[str, Any]], tmp_path: Path
) -> None:
    architecture, checkpoint = tiny_hps
    prompts = [Prompt(**entry) for entry in hps_prompts]
    write_layout(ImageSet.read(write_images(hps_prompts, samples=1)), prompts, tmp_path / "layout")
    metric = hps_v2(checkpoint, architecture=architecture)
    found = metric(read_layout(tmp_path / "layout", prompts))
    assert (found.status, found.scored) == ("ok", 12)
    file = tmp_path / "layout" / "photo" / "00001.jpg"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    refused = metric(read_layout(tmp_path / "layout", prompts))
    assert (refused.status, refused.values) == ("failed", {})
    assert "damaged" in refused.reason
    assert "photo/00001.jpg" in refused.reason
    Image.open(BytesIO(whole)).convert("L").save(file)  # hpsv2 scores pictures of any mode
    assert metric(read_layout(tmp_path / "layout", prompts)).status == "ok"
    file.unlink()
    gone = metric(read_layout(tmp_path / "layout", prompts))
    assert (gone.status, gone.missing) == ("failed", 1)


def test_a_checkpoint_that_is_not_there_says_where_it_is(tmp_path: Path, tiny_hps: Hps) -> None:
    with pytest.raises(FastFluxError, match=r"HPS_v2_compressed\.pt from https://huggingface\.co/xswu/HPSv2"):
        hps_v2(tmp_path / "absent.pt")
    with pytest.raises(FastFluxError, match=r"HPS_v2\.1_compressed\.pt from"):
        hps_v2(tmp_path / "absent.pt", "v2.1")
    with pytest.raises(FastFluxError, match=r"checkpoint is not set: download .* --set metrics\.hps\.checkpoint=PATH"):
        HPS.load(HPSSettings())
    renamed = tmp_path / "HPS_v2.1_compressed.pt"
    shutil.copy(tiny_hps[1], renamed)  # torch.save keeps the name in the file
    for checkpoint in (tiny_hps[1], renamed):
        with pytest.raises(FastFluxError, match=r"is HPS v2\.0, and v2\.1 was asked for"):
            hps_v2(checkpoint, "v2.1")


def test_another_architecture_is_told_by_what_was_found_and_expected(tiny_hps: Hps) -> None:
    with pytest.raises(
        FastFluxError,
        match=r"holds a CLIP of 2 image layers of width 32 with 16 patches of 14 pixels, 2 text layers of width 32 and "
        r"24 features; expected ViT-H-14, which is a CLIP of 32 image layers of width 1280 with 256 patches of 14 "
        r"pixels, 24 text layers of width 1024 and 1024 features",
    ) as error:
        hps_v2(tiny_hps[1])
    assert "\n" not in str(error.value)


def test_a_single_tensor_of_another_shape_is_named(tiny_hps: Hps, tmp_path: Path) -> None:
    """More positions would be shrunk by open_clip without a word."""
    architecture, checkpoint = tiny_hps

    def more_positions(content: dict[str, Any]) -> None:
        content["state_dict"]["visual.positional_embedding"] = torch.zeros(26, 32)

    other = changed(checkpoint, tmp_path / "other.pt", more_positions)
    OpenClipModel(OpenClipSpec(architecture, str(other)))
    with pytest.raises(FastFluxError, match=r"visual.positional_embedding: 26x32 against 17x32"):
        hps_v2(other, architecture=architecture)
    partial = changed(checkpoint, tmp_path / "partial.pt", lambda content: content["state_dict"].pop("visual.proj"))
    with pytest.raises(FastFluxError, match=r"visual.proj: absent against 32x24"):
        hps_v2(partial, architecture=architecture)


def test_files_that_are_no_checkpoint_of_weights_are_refused(tiny_hps: Hps, tmp_path: Path) -> None:
    architecture, checkpoint = tiny_hps
    file = tmp_path / "file.pt"
    file.write_bytes(checkpoint.read_bytes()[:3000])
    with pytest.raises(FastFluxError, match="no whole checkpoint"):
        hps_v2(file, architecture=architecture)
    torch.save({"state_dict": {}, "run": Path()}, file)
    with pytest.raises(FastFluxError, match="more than tensors"):
        hps_v2(file, architecture=architecture)
    file.write_bytes(pickle.dumps(["no tensor"], protocol=2))
    with pytest.raises(FastFluxError, match=r"no whole checkpoint|more than tensors|no CLIP"):
        hps_v2(file, architecture=architecture)
    torch.save({"state_dict": {"detector.weight": torch.zeros(2)}}, file)
    with pytest.raises(FastFluxError, match=r"no CLIP with two transformers \(1 tensors: detector.weight"):
        hps_v2(file, architecture=architecture)
    with pytest.raises(FastFluxError, match="ViT-B-16-SigLIP is no CLIP with two plain transformers"):
        hps_v2(checkpoint, architecture="ViT-B-16-SigLIP")
    with pytest.raises(FastFluxError, match="no architecture 'tiny'"):
        hps_v2(checkpoint, architecture="tiny")


def test_old_and_safe_formats_are_read_as_well(tiny_hps: Hps, tmp_path: Path) -> None:
    architecture, checkpoint = tiny_hps
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    save_file(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "parallel.pt")
    for name in ("model.safetensors", "old.pt", "parallel.pt"):
        require_architecture(tmp_path / name, architecture)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(FastFluxError, match="no whole checkpoint"):
        require_architecture(tmp_path / "model.safetensors", architecture)


@pytest.mark.parametrize(
    ("architecture", "tag", "name"),
    [
        ("ViT-L-14", "openai", "ViT-L-14-quickgelu"),
        ("ViT-L-14-quickgelu", "openai", "ViT-L-14-quickgelu"),
        ("ViT-B-32", "openai", "ViT-B-32-quickgelu"),
        ("ViT-B-32", "laion2b_s34b_b79k", "ViT-B-32"),
    ],
)
def test_the_weights_decide_the_activation(architecture: str, tag: str, name: str) -> None:
    assert clip_spec(architecture, tag, Place()) == OpenClipSpec(name, tag)


def test_quick_gelu_is_no_detail(tiny_hps: Hps, tmp_path: Path) -> None:
    import open_clip

    config = open_clip.get_model_config(tiny_hps[0])
    (tmp_path / "tiny-hps-quickgelu.json").write_text(json.dumps({**config, "quick_gelu": True}))
    open_clip.add_model_config(tmp_path / "tiny-hps-quickgelu.json")
    images = list(np.random.default_rng(0).integers(0, 256, (1, 56, 56, 3), dtype=np.uint8))
    exact, quick = (
        OpenClipModel(OpenClipSpec(name, str(tiny_hps[1]))).image_features(images)
        for name in ("tiny-hps", "tiny-hps-quickgelu")
    )
    assert float((exact - quick).abs().max()) > 1e-4


@pytest.fixture
def known_tag(tiny_hps: Hps, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The small architecture as if open_clip had weights "small" of it; the entry can be changed."""
    import open_clip

    entry: dict[str, Any] = {
        "hf_hub": "someone/small/",
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "resize_mode": "shortest",
    }
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: entry if tag == "small" else {})
    return entry


@pytest.mark.usefixtures("known_tag")
def test_clip_metrics_name_model_tag_and_precision(
    tiny_hps: Hps, write_images: WriteImages, hps_prompts: list[dict[str, Any]]
) -> None:
    architecture, checkpoint = tiny_hps
    images = ImageSet.read(write_images(hps_prompts, samples=1))
    settings = ClipSettings(PlaceOrName(architecture), "small", Place(checkpoint))
    score, retrieval = ClipScore.load(settings), Retrieval.load(settings)
    paired = Paired.load(settings).against(images)
    assert score.info.reference == "CLIP score of tiny-hps small, fp32"
    assert retrieval.info.reference == "clip_benchmark with tiny-hps small, fp32"
    assert paired.info.reference == "paired with the dense model, CLIP similarity by tiny-hps small, fp32"
    assert score.model is retrieval.model is paired.model
    assert [metric(images).status for metric in (score, retrieval, paired)] == ["ok"] * 3
    assert score(images).settings["pretrained"] == checkpoint.name


def test_clip_checkpoints_are_checked_as_well(tiny_hps: Hps, known_tag: dict[str, Any], tmp_path: Path) -> None:
    architecture, checkpoint = tiny_hps
    with pytest.raises(FastFluxError, match=r"open_clip_model\.safetensors from https://huggingface\.co/someone/small"):
        clip_spec(architecture, "small", Place(tmp_path / "absent.pt"))
    with pytest.raises(FastFluxError, match="expected ViT-B-32, which is"):
        clip_spec("ViT-B-32", "small", Place(checkpoint))
    known_tag["mean"] = (0.5, 0.5, 0.5)
    with pytest.raises(FastFluxError, match="prepared in another way"):
        clip_spec(architecture, "small", Place(checkpoint))


def test_unknown_weights_are_refused_with_the_list() -> None:
    with pytest.raises(FastFluxError, match=r"no weights 'opneai' of ViT-L-14; it has openai, laion400m_e31"):
        clip_spec("ViT-L-14", "opneai", Place())
    with pytest.raises(FastFluxError, match="it has none, or no such architecture"):
        clip_spec("ViT-L-15", "openai", Place())


def test_resizings_that_do_not_exist_are_refused(tiny_clip: Path) -> None:
    for resized_by, mode, antialias in (("PIL", "longest", False), ("torch", None, True), ("opencv", "longest", True)):
        spec = OpenClipSpec(f"local-dir:{tiny_clip}", "", mode, resized_by=resized_by, antialias=antialias)
        with pytest.raises(FastFluxError, match=f"resized by '{resized_by}'"):
            OpenClipModel(spec)
