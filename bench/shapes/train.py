"""`nox -s train_shapes`: train every FLUX-Shapes model and write the folder that `FluxPipeline.from_pretrained` loads.

Stages can be run alone and continue after a kill: vae, latents, shallow, guide, deepen, sd3, detector, clip, hps,
export, contrast, faults, flux2, part. flux2 merges copies, so it comes before part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from cyclopts import App
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FluxPipeline
from safetensors.torch import load_file, save_file

from bench.progress import console, track
from bench.shapes import WEIGHTS
from bench.shapes.clip import build_clip, save_clip, train_clip, tune_preference
from bench.shapes.detector import DetectorNetwork, ShapesDetector, teach_faults, train_detector
from bench.shapes.flux2 import flux2_pipeline, train_flux2, train_text
from bench.shapes.growth import deepen, guide, part
from bench.shapes.sd3 import BLOCKS, build_sd3, deepen_sd3, sd3_pipeline, train_sd3
from bench.shapes.text import TextEncoders
from bench.shapes.training import halved
from bench.shapes.transformer import FULL, GRID, Conditioned, Latents, build_transformer, pack, train_shallow
from bench.shapes.vae import encode, sharpen, train_vae
from bench.shapes.world import TRAINING_TASKS, object_coverage, render, sample_scenes
from fastflux.command_line import run
from fastflux.errors import unknown_name
from fastflux.files import new_folder, write_text
from fastflux.io.pipelines import load_pipeline
from fastflux.threads import usable_cores, use_threads

app = App(name="python -m bench.shapes.train")

STAGES = (
    *("vae", "latents", "shallow", "guide", "deepen", "sd3", "detector", "clip", "hps", "export", "contrast", "faults"),
    *("flux2", "part"),
)
TRAINING_SCENES = 147_456
RUNS = Path("runs/train_shapes")
#: The scheduler's static time shift; few steps go further when more of them are spent at high noise.
SHIFT = 1.5
CARD, CURVE = "README.md", "training_curves.jsonl"
#: Whose curves lie beside which weights; those of the stages after the export are added by these.
CURVES = {
    "pipeline": ("vae", "decoder", "shallow", "guide", "deepen"),
    "sd3": ("sd3", "sd3_deepen"),
    "detector": ("detector",),
    "clip": ("clip",),
    "hps": ("hps",),
}


def _trained_vae(folder: Path, device: str) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(folder / "vae").to(device).eval()


def _latents(folder: Path, device: str) -> None:
    """Render and encode the training set once; half precision keeps it small."""
    vae = _trained_vae(folder, device)
    scenes = sample_scenes(TRAINING_SCENES, 10**7, tasks=TRAINING_TASKS)
    parts, layouts = [], []
    for start in track(range(0, TRAINING_SCENES, 256), "encode", total=TRAINING_SCENES // 256):
        some = scenes[start : start + 256]
        parts.append(pack(encode(vae, render(some, device))).half().cpu())
        layouts.append((255 * pack(object_coverage(some, 2 * GRID, device))).round().to(torch.uint8).cpu())
    t5_ids, clip_ids = TextEncoders().tokenize([*scenes.captions, ""])
    save_file(
        {"tokens": torch.cat(parts), "t5_ids": t5_ids, "clip_ids": clip_ids, "layout": torch.cat(layouts)},
        folder / "latents.safetensors",
    )


def _transformers(stage: str, folder: Path, device: str) -> None:
    """Train one of the transformers; those that it is taught by are loaded where they are trained already."""
    latents = Latents.read(folder / "latents.safetensors", device)
    shallow = train_shallow(latents, folder)
    if stage == "shallow":
        return
    guided = guide(shallow, latents, folder)
    if stage == "deepen":
        deepen(guided, latents, folder)
    elif stage == "sd3":
        deepen_sd3(train_sd3(guided, latents, folder), guided, latents, folder)


def _save_detector(network: DetectorNetwork) -> None:
    target = WEIGHTS / "detector" / "model.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(halved(network.state_dict()), target)


def _export(folder: Path) -> None:
    """Assemble the pipeline folders and say where they are."""
    student = Conditioned(build_transformer(FULL), TextEncoders())
    student.load_state_dict(torch.load(folder / "deepen.pt", weights_only=True)["average"])
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    # bfloat16 keeps three digits, which costs these models nothing measurable and halves what a clone carries. The text
    # encoders stay float32: transformers would load them as bfloat16 beside a float32 transformer.
    student.transformer.to(torch.bfloat16)
    vae.to(torch.bfloat16)
    flux = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=False),
        vae=vae,
        text_encoder=student.text.clip,
        tokenizer=student.text.clip_tokenizer,
        text_encoder_2=student.text.t5,
        tokenizer_2=student.text.t5_tokenizer,
        transformer=student.transformer,
    )
    _save_pipeline(flux, WEIGHTS / "pipeline")
    sd3 = build_sd3(BLOCKS)
    sd3.load_state_dict(torch.load(folder / "sd3_deepen.pt", weights_only=True)["average"])
    _save_pipeline(sd3_pipeline(sd3.to(torch.bfloat16), student.text, vae, SHIFT), WEIGHTS / "sd3")
    for model, stages in CURVES.items():
        (WEIGHTS / model / CURVE).unlink(missing_ok=True)
        for stage in stages:
            _keep_curve(model, stage, folder)
    console.print(f"FLUX-Shapes is in {WEIGHTS / 'pipeline'}, SD3-Shapes in {WEIGHTS / 'sd3'}; curves lie beside them")


def _keep_curve(model: str, stage: str, folder: Path) -> None:
    """Let the curve of a stage stand beside the weights, behind those of the stages before it."""
    path = WEIGHTS / model / CURVE
    kept = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in kept if json.loads(line)["stage"] != stage]
    curve = (folder / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()
    kept += [json.dumps({"stage": stage, **json.loads(line)}) for line in curve]
    write_text(path, "".join(line + "\n" for line in kept))


def _save_pipeline(pipeline: DiffusionPipeline, target: Path) -> None:
    """Write a pipeline folder afresh, without the paths of where its parts came from; its card and curves stay."""
    told = {path: path.read_text(encoding="utf-8") for path in map(target.joinpath, (CARD, CURVE)) if path.exists()}
    with new_folder(target, overwrite=True, foreign=lambda _: ()) as partial:
        pipeline.save_pretrained(partial)
        _without_paths(partial)
        for path, text in told.items():
            write_text(partial / path.name, text)


def _without_paths(folder: Path) -> None:
    for config in folder.rglob("*.json"):
        content = json.loads(config.read_text())
        if content.pop("_name_or_path", None) is not None:
            write_text(config, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _save_part(module: Any, target: Path) -> None:
    """Write one model of a pipeline's folder as `_export` does; a link, to what is written already, stays."""
    if not any(path.is_symlink() for path in target.iterdir()):
        module.to("cpu", torch.bfloat16).save_pretrained(target)
        _without_paths(target)


def _from_finished(stage: str, folder: Path, device: str) -> None:
    """Part the copies in FLUX-Shapes, or teach FLUX.2-Shapes, and write what was made."""
    pipeline: Any = load_pipeline(WEIGHTS / "pipeline")
    if stage == "part":
        _save_part(part(pipeline, folder, device), WEIGHTS / "pipeline" / "transformer")
        _keep_curve("pipeline", stage, folder)
        return
    text, transformer = train_text(pipeline, folder, device), train_flux2(pipeline, folder, device)
    made = flux2_pipeline(pipeline, transformer, text)
    made.to("cpu")
    made.transformer.to(torch.bfloat16)
    made.vae.to(torch.bfloat16)
    _save_pipeline(made, WEIGHTS / "flux2")
    for curve in ("flux2_text", "flux2"):
        _keep_curve("flux2", curve, folder)


def run_stages(stages: Sequence[str], folder: Path, device: str) -> None:
    """Run the stages in order; each reads what the earlier ones left in `folder`."""
    for stage in stages:
        match stage:
            case "vae":
                vae = train_vae(folder, device).to(memory_format=torch.contiguous_format)
                vae.save_pretrained(folder / "vae")
            case "latents":
                _latents(folder, device)
            case "detector":
                _save_detector(train_detector(folder, _trained_vae(folder, device), device))
            case "contrast":
                vae = sharpen(AutoencoderKL.from_pretrained(WEIGHTS / "pipeline" / "vae").float(), folder, device)
                for target in (WEIGHTS / "pipeline" / "vae", WEIGHTS / "sd3" / "vae"):
                    _save_part(vae, target)
                _keep_curve("pipeline", stage, folder)
            case "faults":
                network = ShapesDetector.load(WEIGHTS / "detector").network.train()
                _save_detector(teach_faults(network, folder, load_pipeline(WEIGHTS / "pipeline"), device))
                _keep_curve("detector", stage, folder)
            case "clip":
                save_clip(train_clip(folder, _trained_vae(folder, device), device), WEIGHTS / "clip")
            case "hps":
                model = build_clip()
                model.load_state_dict(load_file(WEIGHTS / "clip" / "open_clip_model.safetensors"))
                save_clip(tune_preference(model.to(device), folder, device), WEIGHTS / "hps")
            case "export":
                _export(folder)
            case "part" | "flux2":
                _from_finished(stage, folder, device)
            case _:
                _transformers(stage, folder, device)


@app.default
def main(*, stages: str = ",".join(STAGES), folder: Path = RUNS, device: str = "") -> None:
    """Train FLUX-Shapes and its scorers. Killed at any moment, the same command continues.

    Example: `python -m bench.shapes.train --stages detector,clip --device cuda`

    Args:
        stages: which stages, comma-separated.
        folder: where states and curves are kept.
        device: cuda where there is one, cpu otherwise.
    """
    chosen = stages.split(",")
    for stage in chosen:
        if stage not in STAGES:
            raise unknown_name("stage", stage, STAGES)
    use_threads(usable_cores())
    folder.mkdir(parents=True, exist_ok=True)
    run_stages(chosen, folder, device or ("cuda" if torch.cuda.is_available() else "cpu"))


if __name__ == "__main__":
    raise SystemExit(run(app))
