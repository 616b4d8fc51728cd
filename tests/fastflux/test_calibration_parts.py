"""Calibration in parts: the same statistics, and a killed run goes on behind its last part."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fastflux.calibration import fingerprints as calibration_parts
from fastflux.calibration.fingerprints import collect_in_parts
from fastflux.calibration.images import NoisedImages, read_captioned_images
from fastflux.calibration.statistics import Statistics, collect_statistics
from fastflux.calibration.trajectories import Trajectories
from fastflux.cli import main
from fastflux.errors import FastFluxError
from fastflux.io.pipelines import load_pipeline
from tests.fastflux.conftest import DAMAGES, harm

PROMPTS = ("a red star", "a blue ring", "a green cross", "two stars", "a ring")


@pytest.fixture
def run(base: Path) -> Trajectories:
    return Trajectories(load_pipeline(base), PROMPTS, steps=1, batch_size=2)


def alike(first: Statistics, second: Statistics) -> bool:
    return all(
        torch.allclose(moments.xy, second[block][name].xy, rtol=1e-9, atol=1e-12)
        and moments.count == second[block][name].count
        for block, streams in first.items()
        for name, moments in streams.items()
    )


def test_parts_give_what_one_pass_gives(run: Trajectories, tmp_path: Path) -> None:
    told: list[int] = []
    transformer: Any = run.pipeline.transformer
    parts = collect_in_parts(transformer, run, tmp_path, every=1, advance=told.append)
    assert alike(collect_statistics(transformer, run), parts)
    assert sum(told) == len(PROMPTS)
    assert [path.name.rpartition("-")[2] for path in tmp_path.iterdir()] == ["5.safetensors"]


def test_a_killed_pass_goes_on_behind_its_last_part(run: Trajectories, tmp_path: Path) -> None:
    def die(done: int) -> None:
        told.append(done)
        if len(told) == 3:
            raise KeyboardInterrupt

    told: list[int] = []
    transformer: Any = run.pipeline.transformer
    with pytest.raises(KeyboardInterrupt):
        collect_in_parts(transformer, run, tmp_path, every=2, advance=die)
    told.clear()
    again = collect_in_parts(transformer, run, tmp_path, every=2, advance=told.append)
    assert told == [2, 2, 1], "the first two prompts were done"
    assert alike(collect_statistics(transformer, run), again)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_collected_again(damage: str, run: Trajectories, tmp_path: Path) -> None:
    transformer: Any = run.pipeline.transformer
    told: list[int] = []
    whole = collect_in_parts(transformer, run, tmp_path, every=9)
    (path,) = tmp_path.iterdir()
    harm(path, damage)
    assert alike(collect_in_parts(transformer, run, tmp_path, every=9, advance=told.append), whole)
    assert told[0] == 0


def test_parts_of_another_precision_are_not_taken(
    run: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer: Any = run.pipeline.transformer
    told: list[int] = []
    collect_in_parts(transformer, run, tmp_path, every=2)
    monkeypatch.setattr(calibration_parts, "exact_by_default", lambda *_: False)
    collect_in_parts(transformer, run, tmp_path, every=2, advance=told.append)
    assert told == [0, 2, 2, 1]


def test_a_method_without_statistics_refuses_to_save_them(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prune", str(base), "--method", "sandwich_training", "--blocks", "1", "--save-every", "2"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 1
    assert "sandwich_training collects none: leave it away" in " ".join(capsys.readouterr().err.split())


def test_parts_of_other_weights_or_prompts_are_not_taken(run: Trajectories, tmp_path: Path) -> None:
    transformer: Any = run.pipeline.transformer
    collect_in_parts(transformer, run, tmp_path, every=2)
    told: list[int] = []
    with torch.no_grad():
        transformer.proj_out.weight.mul_(2.0)
    collect_in_parts(transformer, run, tmp_path, every=2, advance=told.append)
    assert told[0] == 0
    with pytest.raises(FastFluxError, match="every 0 prompts"):
        collect_in_parts(transformer, run, tmp_path, every=0)


def last_bit_(module: Any, at: int = -1) -> None:
    """Change the last bit of one weight."""
    with torch.no_grad():
        value = list(module.parameters())[at].view(-1)[1:2]
        value.view(torch.int32).bitwise_xor_(1)


CHANGES: dict[str, Callable[[Any, Any], object]] = {
    "transformer": lambda pipeline, _: last_bit_(pipeline.transformer),
    "text_encoder": lambda pipeline, _: last_bit_(pipeline.text_encoder),
    "text_encoder_2": lambda pipeline, _: last_bit_(pipeline.text_encoder_2, 0),
    "vae": lambda pipeline, _: last_bit_(pipeline.vae),
    "vae's config": lambda pipeline, _: pipeline.vae.register_to_config(scaling_factor=2.0),
    "transformer's config": lambda pipeline, _: pipeline.transformer.register_to_config(axes_dims_rope=(2, 2, 4)),
    "text encoder's config": lambda pipeline, _: setattr(pipeline.text_encoder.config, "eos_token_id", 2),
    "tokenizer's length": lambda pipeline, _: setattr(pipeline.tokenizer_2, "model_max_length", 5),
    "tokenizer's words": lambda pipeline, _: pipeline.tokenizer_2.add_tokens(["green"]),
    "scheduler": lambda pipeline, _: pipeline.scheduler.register_to_config(shift=3.0),
    "scheduler's shift": lambda pipeline, _: pipeline.scheduler.set_shift(3.0),
    "picture": lambda _, folder: Image.new("RGB", (32, 32), "white").save(folder / "1.png"),
    "caption": lambda _, folder: (folder / "1.txt").write_text("a red ring"),
    "steps": lambda _pipeline, _folder: {"steps": 2},
    "guidance": lambda _pipeline, _folder: {"guidance": 2.0},
    "size": lambda _pipeline, _folder: {"height": 16},
    "text tokens": lambda _pipeline, _folder: {"text_tokens": 5},
    "seed": lambda _pipeline, _folder: {"seed": 1},
    "batch": lambda _pipeline, _folder: {"batch_size": 2},
}


def test_the_key_of_a_run_is_of_all_that_its_statistics_hang_on(base: Path, tmp_path: Path) -> None:
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"a {colour} star")
    whole = load_pipeline(base)

    def key(change: Callable[[Any, Any], object]) -> str:
        pipeline: Any = copy.deepcopy(whole)
        settings = change(pipeline, tmp_path)
        options = settings if isinstance(settings, dict) else {}
        run = NoisedImages(pipeline, read_captioned_images(tmp_path), **{"steps": 1, **options})
        return calibration_parts.key_of_run(pipeline.transformer, run)

    assert key(lambda *_: None) == (first := key(lambda *_: None))
    assert len({first, *map(key, CHANGES.values())}) == 1 + len(CHANGES)


def test_the_command_prunes_to_the_same_weights(base: Path, prompts: Path, tmp_path: Path) -> None:
    common = ["prune", str(base), "--blocks", "1", "--prompts", str(prompts), "--steps", "1", "--device", "cpu"]
    for name, extra in (("plain", []), ("parts", ["--save-every", "1"])):
        assert main([*common, "-o", str(tmp_path / name), *extra]) == 0
    plain, parts = (load_pipeline(tmp_path / name).transformer.state_dict() for name in ("plain", "parts"))
    assert all(torch.equal(plain[name], parts[name]) for name in plain)
    assert not list(tmp_path.rglob("statistics-*"))
