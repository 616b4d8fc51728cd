"""The committed weights: whole, small, loadable with plain diffusers, described by cards that say what was measured."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.shapes import WEIGHTS, growth, train
from bench.shapes.cards import write_cards
from bench.shapes.detector import ShapesDetector
from bench.shapes.pictures import counts_of, pixels_of
from bench.shapes.quality import precision_recall
from bench.shapes.training import Schedule
from bench.shapes.transformer import pack
from bench.shapes.vae import encode
from bench.shapes.world import TRAINING_TASKS, render, sample_scenes
from fastflux.io.pipelines import load_pipeline

PLAIN = """
import sys, diffusers
for name, folder, guidance, blocks in (
    ("FluxPipeline", "pipeline", 3.0, (19, 38, True)),
    ("StableDiffusion3Pipeline", "sd3", 1.0, (24, None, None)),
    ("Flux2KleinPipeline", "flux2", 1.0, (5, 20, False)),
):
    pipeline = getattr(diffusers, name).from_pretrained(f"{sys.argv[1]}/{folder}")
    config = pipeline.transformer.config
    assert (config.num_layers, config.get("num_single_layers"), config.get("guidance_embeds")) == blocks, folder
    drawn = pipeline(prompt=["a photo of a red star"], height=64, width=64, num_inference_steps=2,
                     max_sequence_length=12 + (folder == "flux2"), guidance_scale=guidance, output_type="np").images
    assert drawn.shape == (1, 64, 64, 3) and drawn.std() > 0.02, folder
assert not any(name.split(".")[0] in ("fastflux", "bench") for name in sys.modules)
"""


def test_they_take_at_most_37_mb_and_no_pickle() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 37e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jsonl", ".md", ".txt", ".jinja"}


def test_plain_diffusers_loads_the_pipelines_and_draws(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    command = [sys.executable, str(script), str(WEIGHTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_detector_finds_what_is_there() -> None:
    scenes = sample_scenes(40, 12345, "evaluation")
    found = ShapesDetector.load(WEIGHTS / "detector")(pixels_of(scenes))
    figures = precision_recall(found, scenes)
    assert figures["precision"] >= 0.99
    assert figures["recall"] >= 0.99


def test_precision_and_recall_count_missing_and_surplus_objects() -> None:
    scenes = sample_scenes(10, 3)
    found = ShapesDetector.load(WEIGHTS / "detector")(pixels_of(scenes))
    objects = sum(sum(counts.values()) for counts in counts_of(scenes))
    assert precision_recall([[] for _ in found], scenes) == {"precision": 0, "recall": 0}
    twice = precision_recall([[*image, *image] for image in found], scenes)
    assert twice["precision"] == pytest.approx(0.5, abs=0.03)
    assert precision_recall([found[0], *([] for _ in found[1:])], scenes)["recall"] == pytest.approx(
        sum(counts_of(scenes)[0].values()) / objects
    )


@pytest.mark.slow
def test_parting_makes_copies_less_alike_and_goes_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "PARTING_BATCH", 2)
    monkeypatch.setattr(growth, "PARTING_SCENES", 16)
    monkeypatch.setattr(growth, "ALIKE", 0.0)
    monkeypatch.setattr(growth, "PARTING_WEIGHT", 100.0)
    monkeypatch.setattr(growth, "compile_blocks_", lambda _transformer: None)
    likeness = []
    for steps in (1, 3):  # the second call continues at the second step
        monkeypatch.setattr(growth, "PARTING_SCHEDULE", Schedule(steps=steps, lr=1e-3, muon=1e-2, warmup=1))
        monkeypatch.setattr(growth, "PARTING_GUIDE_SCHEDULE", Schedule(steps=steps, lr=1e-4, warmup=1))
        parted = growth.part(load_pipeline(WEIGHTS / "pipeline"), tmp_path)
        groups = growth.copies_of(parted)
        likeness.append(float(growth.cosines(growth.weights_of(groups[0]).detach()).mean()))
    assert likeness[1] < likeness[0]
    assert [json.loads(line)["step"] for line in (tmp_path / "part.jsonl").read_text().splitlines()] == [1, 3]
    written = tmp_path / "pipeline"
    shutil.copytree(WEIGHTS / "pipeline", written)
    monkeypatch.setattr(train, "WEIGHTS", tmp_path)
    train.run_stages(["part"], tmp_path, "cpu")  # which loads the finished training
    before, after = (
        [json.loads(line) for line in (folder / train.CURVE).read_text().splitlines()]
        for folder in (WEIGHTS / "pipeline", written)
    )
    parts = ("part", "part_guide")
    assert [line for line in after if line["stage"] not in parts] == [
        line for line in before if line["stage"] not in parts
    ]
    assert all([line["step"] for line in after if line["stage"] == stage] == [1, 3] for stage in parts)
    assert (written / train.CARD).read_text() == (WEIGHTS / "pipeline" / train.CARD).read_text()


@torch.no_grad()
def test_known_scenes_are_what_the_pipeline_makes_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load_pipeline(WEIGHTS / "pipeline")
    known = growth.KnownScenes.of(pipeline, 12, seed=5)
    scenes = sample_scenes(12, 5, tasks=TRAINING_TASKS)
    torch.testing.assert_close(known.tokens.float(), pack(encode(pipeline.vae, render(scenes))), rtol=1e-3, atol=2e-3)
    sequences, pooled, _ = pipeline.encode_prompt([*scenes.captions, ""], None, max_sequence_length=12)
    for found, wanted in zip(
        known.text(torch.cat([known.caption, torch.tensor([-1])])), (sequences, pooled), strict=True
    ):
        torch.testing.assert_close(found, wanted)
    monkeypatch.setattr(growth, "PARTING_BATCH", 64)
    noisy, time, velocity, rows = known.batch(3)
    assert all(
        torch.equal(one, other) for one, other in zip(known.batch(3), (noisy, time, velocity, rows), strict=True)
    )
    clean = noisy - time[:, None, None] * velocity
    drawn = torch.cdist(clean.flatten(1), known.tokens.float().flatten(1)).argmin(dim=1)
    assert torch.equal(known.caption[drawn], rows)
    torch.testing.assert_close(clean, known.tokens[drawn].float(), rtol=1e-4, atol=1e-4)


def test_masks_lie_within_their_boxes() -> None:
    for detections in ShapesDetector.load(WEIGHTS / "detector")(pixels_of(sample_scenes(6, 9))):
        for found in detections:
            rows, columns = np.nonzero(found.mask)
            x0, y0, x1, y1 = found.box
            assert rows.min() >= int(y0)
            assert rows.max() < y1 + 1
            assert columns.min() >= int(x0)
            assert columns.max() < x1 + 1


def test_the_cards_are_what_the_measured_figures_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quality = json.loads((WEIGHTS / "quality.json").read_text())
    names = ("pipeline", "sd3", "flux2", "clip", "hps", "detector")
    for name in names:
        (tmp_path / name).mkdir()
    monkeypatch.setattr("bench.shapes.cards.WEIGHTS", tmp_path)
    write_cards(quality)
    for name in names:
        assert (WEIGHTS / name / "README.md").read_text() == (tmp_path / name / "README.md").read_text()
