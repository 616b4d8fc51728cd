"""Measures the FLUX-Shapes models against the bars they were built to: `python -m bench.shapes.quality`.

Every figure goes to weights/quality.json; `cards` turns it into the model cards beside the weights.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cyclopts import App
from torch import Tensor
from torchvision.ops import box_iou

from bench.metrics.base import load_metric
from bench.metrics.detection import Detection
from bench.metrics.quality.geneval_judge import COUNTING_SCORE_THRESHOLD
from bench.profiles.profile import ROOT, Profile, load_profile
from bench.progress import console, track
from bench.records.results import Measurement
from bench.run.draw import without
from bench.samples.generate import generate
from bench.samples.image_set import ImageSet
from bench.samples.prompts import Prompt, read_prompts
from bench.shapes import WEIGHTS
from bench.shapes.cards import write_cards
from bench.shapes.clip import image_features, preference_images, preference_scores, tokenizer
from bench.shapes.degradation import KINDS, degrade
from bench.shapes.detector import BROKEN, SOUND, ShapesDetector
from bench.shapes.faults import KINDS as FAULT_KINDS
from bench.shapes.faults import drawn_by, fault_of_kind, visible_fit
from bench.shapes.growth import copies_of, cosines, weights_of
from bench.shapes.pictures import counts_of, to_pixels
from bench.shapes.transformer import SHALLOW, pack, velocity_of
from bench.shapes.vae import encode, reconstruct
from bench.shapes.vocabulary import COLOR_NAMES, SHAPES
from bench.shapes.world import Scenes, object_boxes, object_masks, render, sample_scenes
from fastflux.command_line import run
from fastflux.errors import unknown_name
from fastflux.files import write_text
from fastflux.io.pipelines import load_pipeline
from fastflux.methods.registry import make_config
from fastflux.models.architecture import architecture_of
from fastflux.models.surgery import replace_block_
from fastflux.plan import BlockRef, Replacement
from fastflux.pruning import prune_

app = App(name="python -m bench.shapes.quality")

SCENES = 1000
#: GenEval's score threshold, and the overlap that counts as found.
THRESHOLD, OVERLAP = 0.3, 0.5
LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
PARTS = ("detector", "clip", "hps", "geneval", "sd3", "flux2", "removal", "curve", "copies", "faults")
#: Tasks of the prompts with colour-shape pairs that never occur in training.
UNSEEN_TASKS = ("colors", "color_attr")
REMOVED = {"5%": 3, "10%": 5, "15%": 8, "20%": 11}


def _evaluation_scenes() -> Scenes:
    return sample_scenes(SCENES, 100, "evaluation")


def precision_recall(found: Sequence[Sequence[Detection]], scenes: Scenes) -> dict[str, float]:
    """Share of detections (score over 0.3) that match an object of their class at IoU 0.5, and of objects found."""
    boxes = object_boxes(object_masks(scenes))
    hits = detections = objects = 0
    for row, image in enumerate(found):
        kept = [detection for detection in image if detection.score > THRESHOLD]
        free = {slot for slot in range(boxes.shape[1]) if scenes.shapes[row, slot] >= 0}
        detections += len(kept)
        objects += len(free)
        for detection in kept:
            overlaps = box_iou(torch.tensor([detection.box]), boxes[row])[0]
            label = SHAPES.index(detection.label)
            same = [slot for slot in free if scenes.shapes[row, slot] == label and overlaps[slot] >= OVERLAP]
            if same:
                free.remove(max(same, key=lambda slot: float(overlaps[slot])))
                hits += 1
    return {"precision": hits / max(1, detections), "recall": hits / objects}


def _counts(found: Sequence[Detection]) -> Counter[str]:
    return Counter(detection.label for detection in found if detection.score > THRESHOLD)


def measure_detector_and_vae(vae: Any, detector: ShapesDetector) -> dict[str, Any]:
    """Detector on renders and on reconstructions; how often the two verdicts (objects by class) agree."""
    scenes = _evaluation_scenes()
    clean = torch.cat([render(scenes[start : start + 250]) for start in range(0, SCENES, 250)])
    again = reconstruct(vae, clean)
    on_clean, on_again = detector(to_pixels(clean)), detector(to_pixels(again))
    same = [_counts(a) == _counts(b) for a, b in zip(on_clean, on_again, strict=True)]
    right = [_counts(found) == truth for found, truth in zip(on_clean, counts_of(scenes), strict=True)]
    error = (clean.float() - again.float()).abs().mean() / 127.5
    parts = [slice(start, start + 250) for start in range(0, SCENES, 250)]
    sound = torch.cat([visible_fit(again[part], scenes[part]) for part in parts]) >= SOUND
    lost = torch.from_numpy(scenes.shapes >= 0) & ~sound
    return {
        "images": SCENES,
        "detector_clean": precision_recall(on_clean, scenes),
        "detector_reconstructed": precision_recall(on_again, scenes),
        "detector_counts_right": float(np.mean(right)),
        "vae_verdict_kept": float(np.mean(same)),
        "sound_reconstructed_recall": float(accepted(on_again, scenes)[sound].float().mean()),
        "sound_counted": float(accepted(on_again, scenes, COUNTING_SCORE_THRESHOLD)[sound].float().mean()),
        "vae_loses": {
            color: int(lost[torch.from_numpy(scenes.colors == place)].sum()) for place, color in enumerate(COLOR_NAMES)
        },
        "vae_l1": float(error),
    }


@torch.no_grad()
def measure_clip(model: Any) -> dict[str, Any]:
    """Top-1 retrieval of an image's caption among 100 different captions."""
    scenes = _evaluation_scenes()
    images = torch.cat([image_features(model, render(scenes[start : start + 250])) for start in range(0, SCENES, 250)])
    captions = sorted(set(scenes.captions))
    text = torch.nn.functional.normalize(model.encode_text(tokenizer(captions)), dim=-1)
    scores = images @ text.T
    rng = np.random.default_rng(0)
    hits = []
    for row, caption in enumerate(scenes.captions):
        own = captions.index(caption)
        others = rng.choice([i for i in range(len(captions)) if i != own], size=99, replace=False)
        hits.append(bool(scores[row, own] > scores[row, torch.from_numpy(others)].max()))
    return {"images": SCENES, "top1_of_100": float(np.mean(hits))}


@torch.no_grad()
def measure_preference(model: Any) -> dict[str, Any]:
    """Accuracy on unseen pairs, and mean scores under growing degradation of each kind."""
    scenes = _evaluation_scenes()
    parts = []
    for start in range(0, SCENES, 125):
        part = scenes[start : start + 125]
        parts.append(preference_scores(model, preference_images(part, 10**8 + start), list(part.captions)))
    clean, spoiled, more, wrong = torch.cat(parts).unbind(dim=1)
    pairs = {
        "clean_over_spoiled": clean > spoiled,
        "spoiled_over_more": spoiled > more,
        "clean_over_wrong": clean > wrong,
    }
    accuracy = {name: float(hit.float().mean()) for name, hit in pairs.items()}
    some = scenes[0:200]
    images, captions = render(some), list(some.captions)
    curves = {}
    for kind, name in enumerate(KINDS):
        kinds = torch.full((len(some),), kind)
        spoilt = [degrade(images, kinds, torch.full((len(some),), level), 1) for level in LEVELS]
        scores = preference_scores(model, torch.stack(spoilt, dim=1), captions)
        curves[name] = [100 * float(value) for value in scores.mean(dim=0)]
    falling = all(a > b for curve in curves.values() for a, b in pairwise(curve))
    return {"pairs": 3 * SCENES, **accuracy, "accuracy": float(np.mean(list(accuracy.values()))),
            "levels": list(LEVELS), "mean_scores": curves, "falls_monotonically": falling}  # fmt: skip


def _geneval(pipeline: Any, prompts: tuple[Prompt, ...], profile: Profile, scorer: Any) -> Measurement:
    """GenEval of the pipeline as it stands, images in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = generate(pipeline, prompts, profile.sampling, Path(folder), {})
        measured: Measurement = scorer(ImageSet.read(manifest))
    return measured


@torch.no_grad()
def validation_losses(pipeline: Any, count: int = 1024) -> Tensor:
    """Flow-matching loss (count,) on evaluation scenes at guidance 1, of fixed noise and times: paired."""
    scenes = sample_scenes(count, 101, "evaluation")
    clean = pack(encode(pipeline.vae, render(scenes)))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(clean.shape, generator=generator)
    time = torch.sigmoid(torch.randn(count, generator=generator))
    sequence, pooled, _ = pipeline.encode_prompt(list(scenes.captions), None, max_sequence_length=12)
    losses = []
    for rows in torch.arange(count).split(128):
        at, ones = time[rows][:, None, None], torch.ones(len(rows))
        noisy, text = (1 - at) * clean[rows] + at * noise[rows], (sequence[rows], pooled[rows])
        velocity = velocity_of(pipeline.transformer, (noisy, time[rows], ones), text)
        losses.append((velocity - (noise - clean)[rows]).square().mean(dim=(1, 2)))
    return torch.cat(losses)


def measure_removal(pipeline: Any) -> dict[str, Any]:
    """What removing each single block costs in loss."""
    transformer = pipeline.transformer
    blocks = architecture_of(transformer).blocks(transformer)
    base = validation_losses(pipeline)
    rise: dict[BlockRef, tuple[float, float]] = {}
    for block in track(blocks, "remove each block", total=len(blocks)):
        with without(transformer, block):
            change = validation_losses(pipeline) - base
        rise[block] = (float(change.mean()), float(change.std() / len(change) ** 0.5))
    figures = [rise[block][0] for block in blocks]
    return {
        "validation_loss": float(base.mean()),
        "loss_rise": {str(block): rise[block][0] for block in blocks},
        "loss_rise_error": {str(block): rise[block][1] for block in blocks},
        "loss_rise_min_median_max": [min(figures), float(np.median(figures)), max(figures)],
        "blocks_whose_removal_raises_the_loss": sum(mean > 1.96 * error for mean, error in rise.values()),
        "blocks": len(blocks),
    }


def measure_curve(
    pipeline: Any, prompts: tuple[Prompt, ...], profile: Profile, scorer: Any, quality: Mapping[str, Any]
) -> dict[str, float]:
    """What removing the least costly 5 to 20% of the blocks costs in GenEval."""
    rise = quality["removal"]["loss_rise"]
    order = sorted(rise, key=lambda block: float(rise[block]))
    curve, removed = {"0%": float(quality["geneval"]["values"]["overall"])}, 0
    for share, count in REMOVED.items():
        for block in order[removed:count]:
            replace_block_(pipeline.transformer, Replacement(BlockRef.parse(block), "removed"))
        removed = count
        curve[share] = _geneval(pipeline, prompts, profile, scorer).values["overall"]
        console.print(f"GenEval overall without the least important {share}: {curve[share]:.3f}")
    return curve


def accepted(found: Sequence[Sequence[Detection]], scenes: Scenes, threshold: float = THRESHOLD) -> Tensor:
    """Which objects of the scenes (n, 4) the detector reports as what they are, at IoU 0.5 and a score over 0.3."""
    boxes = object_boxes(object_masks(scenes))
    hits = torch.zeros(scenes.shapes.shape, dtype=torch.bool)
    for row, image in enumerate(found):
        for detection in image:
            if detection.score > threshold:
                same = torch.from_numpy(scenes.shapes[row] == SHAPES.index(detection.label))
                hits[row] |= same & (box_iou(torch.tensor([detection.box]), boxes[row])[0] >= OVERLAP)
    return hits


def measure_faults(pipeline: Any, detector: ShapesDetector) -> dict[str, Any]:
    """How many broken objects the detector accepts and how many sound ones it rejects, by what drew them.

    Known scenes, which no training saw, are rendered with faults of each kind, and drawn to their end by models whose
    pruning none of the detector's training pictures came from; `visible_fit` says what is sound and what is broken.
    """
    scenes, dense = sample_scenes(192, 103, "evaluation"), pipeline.transformer
    every = torch.ones(scenes.shapes.shape, dtype=torch.bool)
    drawn = {
        name: render(scenes, "cpu", fault_of_kind(kind, scenes, every, 103)) for kind, name in enumerate(FAULT_KINDS)
    }
    for ratio in (0.0, 0.12, 0.27):
        pipeline.transformer = copy.deepcopy(dense)
        if ratio:
            prune_(pipeline.transformer, make_config("l1_norm", {"ratio": ratio}))
        drawn[f"L1-norm {ratio:.0%}, not trained" if ratio else "dense"] = drawn_by(pipeline, scenes, 0.5, 103)
    figures: dict[str, Any] = {}
    for name, images in track(drawn.items(), "judge faults", total=len(drawn)):
        fit, hits = visible_fit(images, scenes), accepted(detector(to_pixels(images)), scenes)
        broken, sound = fit < BROKEN, fit >= SOUND
        broken &= torch.from_numpy(scenes.shapes >= 0)
        figures[name] = {
            "broken": int(broken.sum()), "accepted": int((hits & broken).sum()),
            "sound": int(sound.sum()), "rejected": int((~hits & sound).sum()),
        }  # fmt: skip
    return figures


@torch.no_grad()
def measure_copies(pipeline: Any) -> dict[str, Any]:
    """How alike the copies of each shallow block still are: cosines of their matrices, and of what they add.

    All copies of a block are given the input of the first of them; beside it, blocks of one stack that are no copies.
    """
    groups = copies_of(pipeline.transformer)
    seen: list[dict[str, Any]] = []
    hooks = [
        group[0].register_forward_pre_hook(lambda _block, _args, given: seen.append(given), with_kwargs=True)
        for group in groups
    ]
    validation_losses(pipeline, 128)
    for hook in hooks:
        hook.remove()
    added = []
    for given, group in zip(seen, groups, strict=True):
        before = torch.cat([given["encoder_hidden_states"], given["hidden_states"]], dim=1)
        added.append(torch.stack([(torch.cat([*block(**given)], dim=1) - before).flatten() for block in group]))
    stacks = groups[: SHALLOW.double], groups[SHALLOW.double :]
    strangers = torch.cat([cosines(weights_of([group[0] for group in stack])) for stack in stacks])
    by_group = {
        name: [float(cosines(vectors).mean()) for vectors in found]
        for name, found in (("weights", map(weights_of, groups)), ("added", added))
    }
    return {"copies": [len(group) for group in groups], **by_group, "strangers_weights": float(strangers.mean())}


def measure(parts: Sequence[str]) -> dict[str, Any]:
    """The chosen parts, merged into weights/quality.json after each; then the cards."""
    path = WEIGHTS / "quality.json"
    quality: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    profile, scorer = load_profile("shapes"), _judge()
    pipeline: Any = load_pipeline(WEIGHTS / "pipeline")
    prompts = read_prompts(ROOT / "prompts/shapes/geneval.jsonl")
    for part in parts:
        match part:
            case "detector":
                detector = ShapesDetector.load(WEIGHTS / "detector")
                quality["detector_and_vae"] = measure_detector_and_vae(pipeline.vae, detector)
            case "clip":
                quality["clip"] = measure_clip(_open_clip("clip"))
            case "hps":
                quality["preference"] = measure_preference(_open_clip("hps"))
            case "geneval":
                dense = _geneval(pipeline, prompts, profile, scorer)
                intervals = {key: list(pair) for key, pair in dense.intervals.items()}
                quality["geneval"] = {"values": dict(dense.values), "intervals": intervals}
                # The judge scores sets of all tasks only.
                unseen = read_prompts(ROOT / "prompts/shapes/geneval_held_out.jsonl")
                others = (prompt for prompt in prompts if (prompt.metadata or {}).get("tag") not in UNSEEN_TASKS)
                values = _geneval(pipeline, (*others, *unseen), profile, scorer).values
                quality["geneval_held_out_pairs"] = {task: values[task] for task in UNSEEN_TASKS}
            case "sd3" | "flux2":
                drawn = _geneval(load_pipeline(WEIGHTS / part), prompts, profile.of(part), scorer)
                quality[f"{part}_geneval"] = dict(drawn.values)
            case "faults":
                detector = ShapesDetector.load(WEIGHTS / "detector")
                quality["faults"] = measure_faults(load_pipeline(WEIGHTS / "pipeline"), detector)
            case "copies":
                quality["copies"] = measure_copies(pipeline)
            case "removal":
                quality["removal"] = measure_removal(pipeline)
            case "curve":
                curve = measure_curve(load_pipeline(WEIGHTS / "pipeline"), prompts, profile, scorer, quality)
                quality["geneval_after_removal"] = curve
            case _:
                raise unknown_name("part", part, PARTS)
        write_text(path, json.dumps(quality, indent=1, sort_keys=True) + "\n")
    write_cards(json.loads(path.read_text()))
    return quality


def _judge() -> Any:
    return load_metric("geneval", load_profile("shapes").metrics["geneval"], "cpu")


def _open_clip(name: str) -> Any:
    import open_clip

    return open_clip.create_model(f"local-dir:{WEIGHTS / name}").eval()


@app.default
def main(*, parts: str = ",".join(PARTS)) -> None:
    """Measure the FLUX-Shapes models against the bars they were built to, and print the figures.

    Args:
        parts: comma-separated.
    """
    sys.stdout.write(json.dumps(measure(parts.split(",")), indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(run(app))
