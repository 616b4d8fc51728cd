"""The committed weights: whole, small, loadable with plain diffusers, described by cards that say what was measured."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.shapes import WEIGHTS, growth, train
from bench.shapes.cards import write_cards
from bench.shapes.detector import ShapesDetector
from bench.shapes.pictures import counts_of, pixels_of
from bench.shapes.quality import precision_recall
from bench.shapes.training import Schedule
from bench.shapes.world import sample_scenes
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
    monkeypatch.setattr(growth, "BATCH", 2)
    monkeypatch.setattr(growth, "compile_blocks_", lambda _transformer: None)
    likeness = []
    for steps in (0, 1, 3):  # the last call continues at the second step
        pipeline = load_pipeline(WEIGHTS / "pipeline")
        if steps:
            monkeypatch.setattr(growth, "PARTING_SCHEDULE", Schedule(steps=steps, lr=1e-3, muon=1e-2, warmup=1))
            growth.part(pipeline, tmp_path)
        first, *_ = growth.copies_of(pipeline.transformer)
        likeness.append(float(growth.cosines(growth.weights_of(first).detach()).mean()))
    assert max(likeness[1:]) < min(likeness[0], 0.5)
    assert [json.loads(line)["step"] for line in (tmp_path / "part.jsonl").read_text().splitlines()] == [1, 3]
    written = tmp_path / "pipeline"
    shutil.copytree(WEIGHTS / "pipeline", written)
    monkeypatch.setattr(train, "WEIGHTS", tmp_path)
    train.run_stages(["part"], tmp_path, "cpu")  # which loads the finished training
    before, after = (
        [json.loads(line) for line in (folder / train.CURVE).read_text().splitlines()]
        for folder in (WEIGHTS / "pipeline", written)
    )
    assert [line for line in after if line["stage"] != "part"] == [line for line in before if line["stage"] != "part"]
    assert [line["step"] for line in after if line["stage"] == "part"] == [1, 3]
    assert (written / train.CARD).read_text() == (WEIGHTS / "pipeline" / train.CARD).read_text()


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
