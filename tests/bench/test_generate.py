"""Generation: own seeds for every image, whole batches, nothing lost by a kill and nothing mixed."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from msgspec.structs import replace
from torch import nn

from bench.profiles.profile import Sampling, load_profile
from bench.profiles.variants import chosen_variants
from bench.run import draw
from bench.run.base_model import BaseModel
from bench.run.evaluation import Evaluation
from bench.samples.generate import MANIFEST, generate, jobs_of
from bench.samples.image_set import ImageSet
from bench.samples.prompts import Prompt
from fastflux.errors import FastFluxError

SAMPLING = Sampling(height=8, width=8, steps=1, guidance=1.0, seed=0, batch=4, samples={"hps": 1, "geneval": 2})
PROMPTS = (
    *(Prompt(f"hps-{i}", "hps", f"text {i}", "anime") for i in range(5)),
    *(Prompt(f"geneval-{i}", "geneval", f"text {i}", None, {"tag": "colors", "include": []}) for i in range(3)),
)


class FakePipeline:
    """Draws noise from the generators it is given; counts its batches and can be killed in the middle."""

    tokenizer_2 = SimpleNamespace(model_max_length=12)
    transformer = type("FluxTransformer2DModel", (nn.Module,), {})()
    vae = SimpleNamespace(config=SimpleNamespace(sample_size=8))

    def __init__(self, die_at: int | None = None) -> None:
        self.batches: list[int] = []
        self.die_at = die_at

    def __call__(self, prompt: Sequence[str], *, generator: list[torch.Generator], **_: Any) -> Any:
        if len(self.batches) == self.die_at:
            raise KeyboardInterrupt
        self.batches.append(len(prompt))
        pixels = [torch.randint(256, (8, 8, 3), generator=g, dtype=torch.uint8).numpy() for g in generator]
        return SimpleNamespace(images=np.stack(pixels).astype(np.float32) / 255)

    numpy_to_pil = staticmethod(DiffusionPipeline.numpy_to_pil)


def pixels(folder: Path) -> list[bytes]:
    return [image.tobytes() for image in ImageSet.read(folder / MANIFEST)]


def test_every_image_has_its_own_seed_whatever_the_batch(tmp_path: Path) -> None:
    assert len({job.seed for job in jobs_of(PROMPTS, SAMPLING)}) == 11
    generate(FakePipeline(), PROMPTS, SAMPLING, tmp_path / "a", {})
    generate(FakePipeline(), PROMPTS, replace(SAMPLING, batch=3), tmp_path / "b", {})
    assert pixels(tmp_path / "a") == pixels(tmp_path / "b")


def test_a_killed_run_continues_with_whole_batches_and_ends_the_same(tmp_path: Path) -> None:
    generate(FakePipeline(), PROMPTS, SAMPLING, tmp_path / "whole", {})
    with pytest.raises(KeyboardInterrupt):
        generate(FakePipeline(die_at=2), PROMPTS, SAMPLING, tmp_path / "killed", {})
    again = FakePipeline()
    generate(again, PROMPTS, SAMPLING, tmp_path / "killed", {})
    assert again.batches == [3]
    assert (tmp_path / "killed" / MANIFEST).read_text() == (tmp_path / "whole" / MANIFEST).read_text()


def kill_at(event: int) -> None:
    """End this process before it opens, renames, makes or deletes a file for the `event`-th time."""
    left = event

    def audit(name: str, given: tuple[Any, ...]) -> None:
        nonlocal left
        if name in {"os.rename", "os.mkdir", "os.remove", "os.rmdir"} or (name == "open" and given[2] & os.O_CREAT):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


@pytest.mark.filterwarnings("ignore")  # of forks beside other threads
def test_a_kill_at_any_file_operation_leaves_nothing_behind_and_changes_nothing(tmp_path: Path) -> None:
    def held(name: str) -> dict[str, bytes]:
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        return {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files}

    generate(FakePipeline(), PROMPTS, SAMPLING, tmp_path / "whole", {})
    for event in range(1, 100, 5):
        if not (child := os.fork()):
            try:
                kill_at(event)
                generate(FakePipeline(), PROMPTS, SAMPLING, tmp_path / str(event), {})
            finally:
                os._exit(0)
        if os.waitpid(child, 0)[1] != signal.SIGKILL:
            break
        generate(FakePipeline(), PROMPTS, SAMPLING, tmp_path / str(event), {})
        assert held(str(event)) == held("whole")
    assert 40 < event < 96


def test_a_model_is_loaded_for_pictures_to_draw_and_not_where_parts_have_drawn_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(BaseModel, "pipeline", FakePipeline())
    monkeypatch.setattr(draw, "transformer", lambda _evaluation, variant: loaded.append(variant.id))
    profile = load_profile("shapes")
    profile = replace(profile, sampling=replace(profile.sampling, height=8, width=8))
    [dense] = chosen_variants(profile, lambda _name: False)
    evaluation = Evaluation(profile, tmp_path, [dense], limit=1)
    draw.draw_part(evaluation, dense, 1)
    assert loaded == ["dense"]
    draw.unit(evaluation, dense).make()
    assert loaded == ["dense"]
    assert evaluation.images(dense)
    next(evaluation.place(dense).rglob("*.png")).unlink()
    draw.unit(evaluation, dense).make()
    assert loaded == ["dense", "dense"]


def test_a_damaged_image_and_a_broken_line_are_drawn_again(tmp_path: Path) -> None:
    generate(FakePipeline(), PROMPTS, SAMPLING, tmp_path, {})
    before = pixels(tmp_path)
    (tmp_path / "images" / "hps-1_0.png").write_bytes(b"damaged")
    lines = (tmp_path / MANIFEST).read_text().splitlines()
    (tmp_path / MANIFEST).write_text("\n".join([*lines[:-1], lines[-1][:20]]) + "\n")
    again = FakePipeline()
    generate(again, PROMPTS, SAMPLING, tmp_path, {})
    assert again.batches == [4, 3]
    assert pixels(tmp_path) == before


def test_images_of_other_inputs_are_moved_aside(tmp_path: Path) -> None:
    generate(FakePipeline(), PROMPTS, SAMPLING, tmp_path, {"plan": "a"})
    before = pixels(tmp_path)
    generate(FakePipeline(die_at=0), PROMPTS, SAMPLING, tmp_path, {"plan": "a"})  # a finished run draws nothing
    fresh = FakePipeline()
    generate(fresh, PROMPTS, SAMPLING, tmp_path, {"plan": "b"})
    assert sum(fresh.batches) == 11
    (aside,) = (tmp_path / "superseded").iterdir()
    assert pixels(aside) == before
    assert json.loads((tmp_path / "generation.json").read_text()) == {"plan": "b"}


def test_images_are_what_the_pipeline_drew(tmp_path: Path) -> None:
    generate(FakePipeline(), PROMPTS[:1], SAMPLING, tmp_path, {})
    (image,) = ImageSet.read(tmp_path / MANIFEST)
    generator = torch.Generator().manual_seed(jobs_of(PROMPTS, SAMPLING)[0].seed)
    assert np.array_equal(image, torch.randint(256, (8, 8, 3), generator=generator, dtype=torch.uint8).numpy())


def test_pictures_that_are_not_finite_are_no_pictures(tmp_path: Path) -> None:
    class Broken(FakePipeline):
        def __call__(self, prompt: Sequence[str], **options: Any) -> Any:
            drawn = super().__call__(prompt, **options)
            drawn.images[1, 0, 0, 0] = np.nan
            return drawn

    with pytest.raises(FastFluxError, match="1 of 4 pictures, the first of 'hps-1', hold values that are not finite"):
        generate(Broken(), PROMPTS, SAMPLING, tmp_path, {})
    assert not list((tmp_path / "images").iterdir())


def test_a_manifest_that_is_no_text_is_made_again(tmp_path: Path) -> None:
    generate(FakePipeline(), PROMPTS, SAMPLING, tmp_path, {})
    before = (tmp_path / MANIFEST).read_bytes()
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe" + before)
    generate(FakePipeline(), PROMPTS, SAMPLING, tmp_path, {})
    assert (tmp_path / MANIFEST).read_bytes() == before


def test_pictures_of_another_size_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match="draws 8x8 pixels where 8x16 are asked for"):
        generate(FakePipeline(), PROMPTS, replace(SAMPLING, height=16), tmp_path, {})
    assert not list(tmp_path.glob("images/*"))
