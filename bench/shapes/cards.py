"""Model cards beside the weights, from weights/quality.json: data, training, quality against the bars, limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.shapes import WEIGHTS, clip, detector, growth, sd3, transformer, vae
from fastflux.files import write_text

_HEAD = """---
license: apache-2.0
library_name: {library}
tags: [flux-shapes, toy-model, benchmark]
---

# {title}

{what}

**Data.** Pictures rendered by `bench/shapes/world.py`: 8 shapes, 10 colours, 1 to 4 objects, 4 relations,
4 styles, with captions in GenEval's templates.
No outside data. Eight of the 80 colour-shape pairs never occur in training.

**Training.** {training} Made by `nox -s train_shapes`; the curves are in `training_curves.jsonl` beside the weights.

**Limits.** 64x64 pictures of this world only. Scores of FLUX-Shapes models compare variants of this model with each
other; they are no HPS v2, GenEval or CLIP score of FLUX.1-dev.

## Measured

By `python -m bench.shapes.quality` on the evaluation split, which shares no scene with training.

| figure | bar | measured | met |
|---|---|---|---|
{rows}
{more}"""


def _row(name: str, bar: float, value: float) -> str:
    return f"| {name} | >= {bar:.2f} | {value:.4f} | {'yes' if value >= bar else 'no'} |"


def _plain(name: str, value: str) -> str:
    return f"| {name} | | {value} | |"


def _detector(quality: Mapping[str, Any]) -> str:
    figures = quality["detector_and_vae"]
    rows = [
        _row(f"{kind} on {where}", bar, figures[f"detector_{key}"][kind])
        for key, where, bar in (("clean", "clean renders", 0.99), ("reconstructed", "VAE reconstructions", 0.97))
        for kind in ("precision", "recall")
    ]
    rows.append(_plain("all object counts of a picture right", f"{figures['detector_counts_right']:.4f}"))
    return _HEAD.format(
        library="pytorch",
        title="FLUX-Shapes detector",
        what="A one-stage, anchor-free detector of eight shapes with a foreground mask (`bench/shapes/detector.py`); "
        "it is behind GenEval's judge where Mask2Former stands in the benchmark.",
        training=f"{detector.SCHEDULE.steps:,} steps of {detector.BATCH} renders, a third of them mildly spoiled; from step {detector.RECONSTRUCTIONS_FROM:,} on, half of them VAE reconstructions (of the VAE before its decoder's own training up to step 2,400).",
        rows="\n".join(rows),
        more="",
    )


def _clip(quality: Mapping[str, Any]) -> str:
    return _HEAD.format(
        library="open_clip",
        title="FLUX-Shapes CLIP",
        what="A small open_clip model (ResNet image tower); for the CLIP score, GenEval's colours, FID and KID.",
        training=f"{clip.CONTRASTIVE.steps:,} contrastive steps of {clip.CONTRASTIVE_BATCH} pictures; from step {clip.CROPS_FROM:,} on, half of them single objects cut out on grey.",
        rows=_row("top-1 caption retrieval among 100 captions", 0.90, quality["clip"]["top1_of_100"]),
        more="",
    )


def _hps(quality: Mapping[str, Any]) -> str:
    figures = quality["preference"]
    rows = [_row("preference accuracy on unseen pairs", 0.95, figures["accuracy"])]
    rows += [
        _plain(name.replace("_", " "), f"{figures[name]:.4f}")
        for name in ("clean_over_spoiled", "spoiled_over_more", "clean_over_wrong")
    ]
    falls = "yes" if figures["falls_monotonically"] else "no"
    rows.append(f"| mean score falls with every step of degradation, all kinds | yes | {falls} | {falls} |")
    curves = ["| degradation | " + " | ".join(f"{level:.1f}" for level in figures["levels"]) + " |",
              "|---" * (len(figures["levels"]) + 1) + "|"]  # fmt: skip
    curves += [
        f"| {name} | " + " | ".join(f"{value:.2f}" for value in curve) + " |"
        for name, curve in figures["mean_scores"].items()
    ]
    return _HEAD.format(
        library="open_clip",
        title="FLUX-Shapes preference model",
        what="The FLUX-Shapes CLIP tuned on preference pairs; it stands where HPS v2 stands.",
        training=f"{clip.PREFERENCE.steps:,} Bradley-Terry steps of {clip.PREFERENCE_BATCH} captions with four pictures each: clean, spoiled, spoiled more, wrong. These weights began from the CLIP of step 1,600; a run from scratch begins from the finished one.",
        rows="\n".join(rows),
        more="\n## Mean score (100 x cosine) by level of degradation\n\n" + "\n".join(curves) + "\n",
    )


def _removal(removal: Mapping[str, Any]) -> tuple[list[str], str]:
    """Rows and the curve of removing blocks outright."""
    curve = dict(sorted(removal["geneval_after_removal"].items(), key=lambda item: int(item[0].rstrip("%"))))
    low, middle, high = removal["loss_rise_min_median_max"]
    every, alive = removal["blocks"], removal["blocks_whose_removal_raises_the_loss"]
    drop5, drop20 = curve["0%"] - curve["5%"], curve["0%"] - curve["20%"]
    rows = [
        f"| blocks whose removal raises the validation loss (95%) | {every} | {alive} | {'yes' if alive == every else 'no'} |",
        _row("GenEval overall lost when the least important 20% are removed", 0.10, drop20),
        f"| the same for 5%: less | < {drop20:.4f} | {drop5:.4f} | {'yes' if drop5 < drop20 else 'no'} |",
        _plain("validation loss", f"{removal['validation_loss']:.4f}"),
        _plain("loss rise by removing one block: minimum, median, maximum", f"{low:.5f}, {middle:.5f}, {high:.5f}"),
    ]
    more = [
        "",
        "## Removal curve",
        "",
        "Least costly blocks first, removed outright: no linear layer, no training.",
        "",
        "| removed | " + " | ".join(curve) + " |",
        "|---" * (len(curve) + 1) + "|",
        "| GenEval overall | " + " | ".join(f"{value:.3f}" for value in curve.values()) + " |",
        "",
    ]
    return rows, "\n".join(more)


def _pipeline(quality: Mapping[str, Any]) -> str:
    geneval = quality["geneval"]["values"]
    unmeasured = [_plain("removal of blocks", "not measured for these weights")]
    removal, more = _removal(quality["removal"]) if "removal" in quality else (unmeasured, "")
    rows = [
        _row("VAE reconstructions keep the detector's verdict", 0.98, quality["detector_and_vae"]["vae_verdict_kept"]),
        _row("GenEval overall, dense", 0.80, geneval["overall"]),
        _row("GenEval single_object, dense", 0.97, geneval["single_object"]),
        *(
            _plain(f"GenEval {task}", f"{geneval[task]:.4f}")
            for task in ("two_object", "counting", "colors", "position", "color_attr")
        ),
        *(
            _plain(f"{task} with colour-shape pairs never seen", f"{quality['geneval_held_out_pairs'][task]:.4f}")
            for task in ("colors", "color_attr")
        ),
        _plain("VAE mean absolute error on [-1, 1]", f"{quality['detector_and_vae']['vae_l1']:.4f}"),
        *removal,
    ]
    return _HEAD.format(
        library="diffusers",
        title="FLUX-Shapes",
        what="A text-to-image model of FLUX.1-dev's architecture (19 double + 38 single blocks, guidance-distilled) at "
        "width 64, small enough for two CPU cores. `FluxPipeline.from_pretrained(<this folder>)` loads it with plain diffusers; "
        "ask for 64x64 pictures, `max_sequence_length=12` and `guidance_scale=3.0`.",
        training=f"VAE: {vae.SCHEDULE.steps:,} steps of {vae.BATCH} renders, then {vae.DECODER_SCHEDULE.steps:,} of its decoder "
        f"alone. Transformer: 5 + 10 blocks by flow matching for {transformer.SHALLOW_SCHEDULE.steps:,} steps of {transformer.BATCH} "
        "pictures, with T5 and CLIP text encoders and two heads, later dropped: one learns from the image tokens where "
        "things stand, the other from T5's tokens where what a word names stands and what colour it has; "
        f"{growth.GUIDE_SCHEDULE.steps:,} steps that distil classifier-free guidance at scales 1 to 5 into it; then each block "
        f"split into copies with a share of its gates, and {growth.DEEPEN_SCHEDULE.steps:,} steps at 19 + 38 blocks that match the "
        "shallow model behind every group of copies. These weights were not made in one go: the VAE's first 7,200 steps had "
        "other loss and normalisation settings; the transformer's first 2,300 saw the latents of an earlier VAE, its first "
        "4,900 ran down a shorter schedule on a third of the pictures, its first 5,200 had no head, its first 15,500 did not "
        "lean towards noisy times, its first 18,000 saw the world's own mixture of tasks. T5 began at the usual "
        "initialisation and was a bag of words until step 25,600; there it was replaced by one that starts out on word "
        "order, fitted to the words' head and loosely to the old one's outputs, and 500 steps later the transformer knew "
        "relations. From then on the rate was flat, falling over the 3,000 steps up to 31,500. Single objects were then often "
        "missing from their pictures; 4,500 more steps, with more of them and the rate falling again, mended that. A run "
        "from scratch has the schedule without these detours.",
        rows="\n".join(rows),
        more=more,
    )


def _sd3(quality: Mapping[str, Any]) -> str:
    geneval = quality["sd3_geneval"]
    return _HEAD.format(
        library="diffusers",
        title="SD3-Shapes",
        what=f"A text-to-image model of SD3's architecture ({sd3.BLOCKS} joint blocks) at width 64, for the second architecture of "
        "Table 3. `StableDiffusion3Pipeline.from_pretrained(<this folder>)` loads it with plain diffusers; ask for 64x64 pictures, "
        "`max_sequence_length=12` and `guidance_scale=1.0`: guidance is distilled into it. VAE, T5, CLIP and tokenizers are "
        "FLUX-Shapes' own; SD3's second CLIP encoder is the first one again.",
        training=f"{sd3.SHALLOW_BLOCKS} blocks learned the velocity of the guided FLUX-Shapes at scale {sd3.GUIDANCE:g} for "
        f"{sd3.SCHEDULE.steps:,} steps of {transformer.BATCH} pictures, with a head, later dropped, that aligns its image tokens "
        "with the teacher's; then each block but the last was split into copies with a share of its gates, and "
        f"{sd3.DEEPEN_SCHEDULE.steps:,} steps at {sd3.BLOCKS} blocks matched the shallow model behind every group of copies.",
        rows="\n".join(
            _plain(f"GenEval {task}", f"{geneval[task]:.4f}")
            for task in ("overall", "single_object", "two_object", "counting", "colors", "position", "color_attr")
        ),
        more="",
    )


_CARDS = {
    "detector": (_detector, {"detector_and_vae"}),
    "clip": (_clip, {"clip"}),
    "hps": (_hps, {"preference"}),
    "sd3": (_sd3, {"sd3_geneval"}),
    "pipeline": (_pipeline, {"detector_and_vae", "geneval", "geneval_held_out_pairs"}),
}


def write_cards(quality: Mapping[str, Any]) -> None:
    """Write README.md beside each model whose figures are complete."""
    for folder, (card, needed) in _CARDS.items():
        if needed <= quality.keys():
            write_text(WEIGHTS / folder / "README.md", card(quality).rstrip() + "\n")
