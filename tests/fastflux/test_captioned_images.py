"""Calibration on pictures with captions: what the transformer is shown, and what faulty folders get."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fastflux.calibration.images import NoisedImages, read_captioned_images
from fastflux.calibration.statistics import collect_statistics
from fastflux.calibration.trajectories import Trajectories
from fastflux.cli import main
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import load_transformer
from fastflux.io.pipelines import load_pipeline
from fastflux.models.pruned import plan_of
from tests.fastflux.conftest import seen_by

CAPTIONS = ("a red star", "a blue ring", "a photo of a star")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of differing sizes with their captions beside them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number, caption in enumerate(CAPTIONS):
        pixels = torch.randint(256, (40 + 8 * number, 64, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"{caption}\n")
    return folder


def test_each_picture_is_noised_to_the_schedulers_levels(base: Path, pictures: Path) -> None:
    pipeline: Any = load_pipeline(base)
    seen = seen_by(pipeline, NoisedImages(pipeline, read_captioned_images(pictures)[:1], steps=3, guidance=2.0, seed=5))
    levels = [float(kwargs["timestep"][0]) for kwargs in seen]
    assert len(levels) == 3
    assert levels == sorted(levels, reverse=True)
    assert levels[0] == pytest.approx(1.0)
    with Image.open(pictures / "0.png") as image:
        pixels = pipeline.image_processor.preprocess(image.convert("RGB"), height=32, width=32, resize_mode="crop")
    with torch.no_grad():
        latent = pipeline.vae.encode(pixels).latent_dist.mode()  # (1, 2, 4, 4); the tiny VAE's shift is 0, its scale 1
    tokens = latent.view(1, 2, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 4, 8)
    noise = torch.randn(4, 8, generator=torch.Generator().manual_seed(5))
    for level, kwargs in zip(levels, seen, strict=True):
        torch.testing.assert_close(kwargs["hidden_states"], (1 - level) * tokens + level * noise)
        assert kwargs["guidance"].tolist() == [2.0]
    embeds, pooled, _ = pipeline.encode_prompt(prompt=[CAPTIONS[0]], prompt_2=None, max_sequence_length=6)
    torch.testing.assert_close(seen[0]["encoder_hidden_states"], embeds)
    torch.testing.assert_close(seen[0]["pooled_projections"], pooled)


def test_sd3_is_shown_what_guided_sampling_shows_it(pipelines: Callable[[str], Path], pictures: Path) -> None:
    pipeline: Any = load_pipeline(pipelines("sd3"))
    found = read_captioned_images(pictures)[:2]
    seen = seen_by(pipeline, NoisedImages(pipeline, found, steps=2, guidance=5.0, batch_size=2, seed=5))
    sampled = seen_by(pipeline, Trajectories(pipeline, CAPTIONS[:2], steps=2, guidance=5.0, batch_size=2, seed=5))
    for ours, theirs in zip(seen, sampled, strict=True):
        for name in ("encoder_hidden_states", "pooled_projections", "timestep"):
            torch.testing.assert_close(ours[name], theirs[name])
        assert ours["hidden_states"].shape == theirs["hidden_states"].shape == (4, 2, 4, 4)
    torch.testing.assert_close(seen[0]["hidden_states"], sampled[0]["hidden_states"])  # level 1: nothing but noise
    assert not torch.allclose(seen[1]["hidden_states"], sampled[1]["hidden_states"])


def test_the_levels_are_those_of_sampling(pipelines: Callable[[str], Path], family: str, pictures: Path) -> None:
    pipeline: Any = load_pipeline(pipelines(family))
    images = NoisedImages(pipeline, read_captioned_images(pictures)[:1], steps=4)
    sizes = {"height": 32, "width": 32, "max_sequence_length": 6}
    levels, sampled = (
        [float(given["timestep"][0]) for given in seen_by(pipeline, drive)]
        for drive in (images, lambda: pipeline("a star", num_inference_steps=4, output_type="latent", **sizes))
    )
    assert levels == pytest.approx(sampled, abs=1e-5)


def test_batching_does_not_change_what_is_seen(pipelines: Callable[[str], Path], family: str, pictures: Path) -> None:
    pipeline: Any = load_pipeline(pipelines(family))
    found = read_captioned_images(pictures)
    totals = []
    for size in (1, 3):
        statistics = collect_statistics(pipeline.transformer, NoisedImages(pipeline, found, steps=2, batch_size=size))
        totals.append([moments.xx for streams in statistics.values() for moments in streams.values()])
    for alone, together in zip(*totals, strict=True):
        torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-4)


def test_captions_can_stand_in_metadata(pictures: Path) -> None:
    beside = read_captioned_images(pictures)
    assert [caption for _, caption in beside] == list(CAPTIONS)
    lines = [{"file_name": "0.png", "text": "one"}, {"file_name": "1.png", "prompt": "two"}]
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(FastFluxError, match=r"2\.png has no caption in .*metadata\.jsonl"):
        read_captioned_images(pictures)
    (pictures / "2.png").unlink()
    assert [caption for _, caption in read_captioned_images(pictures)] == ["one", "two"]


def test_faulty_folders_are_one_sentence(base: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match="holds no picture"):
        read_captioned_images(tmp_path)
    (pictures / "1.txt").unlink()
    with pytest.raises(FastFluxError, match=r"1\.png has no caption: write one to"):
        read_captioned_images(pictures)
    (pictures / "1.txt").write_text("a ring")
    (pictures / "1.png").write_bytes(b"cut")
    pipeline: Any = load_pipeline(base)
    with pytest.raises(FastFluxError, match=r"1\.png is damaged or no picture"):
        NoisedImages(pipeline, read_captioned_images(pictures), steps=1)()
    with pytest.raises(FastFluxError, match="multiple of 16"):
        NoisedImages(pipeline, [], height=33)


def test_the_command_line_prunes_on_pictures(
    base: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["prune", str(base), "--ratio", "0.34", "--steps", "2", "--device", "cpu", "-o", str(out)]
    assert main([*command, "--images", str(pictures)]) == 0
    assert plan_of(load_transformer(out / "transformer")) is not None
    assert "On 3 pictures with captions: 2 noise levels each" in (out / "README.md").read_text()
    capsys.readouterr()
    assert main([*command, "--overwrite"]) == 1
    assert "--prompts or a folder with --images" in capsys.readouterr().err
