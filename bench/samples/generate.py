"""Images of a variant: per-prompt, per-sample seeds, batched, resumable; PNG files and a manifest."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image

from bench.records.results import JSON
from bench.samples.prompts import Prompt, Sampling
from fastflux.errors import FastFluxError
from fastflux.files import PARTIALS, delete_partials, write_bytes, write_text
from fastflux.models.architecture import is_supported
from fastflux.models.sizes import drawing_sizes

MANIFEST = "manifest.jsonl"
IMAGES = "images"
#: Folder of the manifests of parts, until all are drawn.
_PARTS = "parts"


@dataclass(frozen=True)
class Job:
    """One image to make: sample number `sample` of a prompt, from noise of its own seed."""

    prompt: Prompt
    sample: int
    seed: int

    @property
    def file(self) -> str:
        """Where the image lies below the variant's folder."""
        return f"{IMAGES}/{self.prompt.id}_{self.sample}.png"


def jobs_of(prompts: tuple[Prompt, ...], sampling: Sampling) -> list[Job]:
    """All images of a run in their order. A seed depends on prompt and sample alone, so variants share their noise."""
    jobs = []
    for prompt in prompts:
        for sample in range(sampling.samples[prompt.set]):
            digest = hashlib.sha256(f"{sampling.seed}/{prompt.id}/{sample}".encode()).digest()
            jobs.append(Job(prompt, sample, int.from_bytes(digest[:6], "big")))
    return jobs


def generate(
    pipeline: Any,
    prompts: tuple[Prompt, ...],
    sampling: Sampling,
    folder: Path,
    inputs: Mapping[str, JSON],
    advance: Callable[[int], None] = lambda _count: None,
    part: range | None = None,
) -> Path:
    """Draw what is not there yet and return the manifest; `advance` is told how many images each batch settled.

    With a `part` only the batches that begin at these images are drawn, for a later call without one to find them:
    processes can share the images of a folder.

    `inputs` names all that determines the images; images made from other inputs are moved aside, never mixed in.
    A batch is always drawn whole, in the same composition, so that a run that was interrupted ends with the same files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        _claim(folder, inputs)
        delete_partials(folder.rglob(PARTIALS))
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    manifest = folder / (MANIFEST if part is None else f"{_PARTS}/{part.start}.jsonl")
    jobs = jobs_of(prompts, sampling)
    starts = [start for start in range(0, len(jobs), sampling.batch) if part is None or start in part]
    done = _verified(folder, {job.file for start in starts for job in jobs[start : start + sampling.batch]})
    lines: list[str] = []
    for start in starts:
        batch = jobs[start : start + sampling.batch]
        if all(job.file in done for job in batch):
            lines += [done[job.file] for job in batch]
        else:
            lines += _draw(pipeline, batch, sampling, folder)
            write_text(manifest, "".join(lines + _later(done, jobs[start + sampling.batch :])))
        advance(len(batch))
    write_text(manifest, "".join(lines))
    if part is None:
        shutil.rmtree(folder / _PARTS, ignore_errors=True)
    return manifest


def forget_pictures(folder: Path) -> None:
    """Let all pictures of a folder be drawn anew."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder / _PARTS, ignore_errors=True)


def _note(inputs: Mapping[str, JSON]) -> str:
    return json.dumps(inputs, indent=1, sort_keys=True) + "\n"


def _later(done: Mapping[str, str], jobs: list[Job]) -> list[str]:
    """Manifest lines of later images that are there already."""
    return [done[job.file] for job in jobs if job.file in done]


def _claim(folder: Path, inputs: Mapping[str, JSON]) -> None:
    """Note what the folder's images are made from; move aside what was made from anything else."""
    note = folder / "generation.json"
    text = _note(inputs)
    earlier = note.read_text(encoding="utf-8", errors="replace") if note.exists() else None
    if earlier is not None and earlier != text:
        aside = folder / "superseded" / hashlib.sha256(earlier.encode()).hexdigest()[:12]
        aside.mkdir(parents=True, exist_ok=True)
        for name in (IMAGES, MANIFEST, _PARTS, note.name):
            if (folder / name).exists() and not (aside / name).exists():
                os.replace(folder / name, aside / name)
        # What had been moved aside before stays there, and the same made once more must not be taken for the new.
        shutil.rmtree(folder / IMAGES, ignore_errors=True)
        forget_pictures(folder)
    write_text(note, text)


def _verified(folder: Path, wanted: Collection[str]) -> dict[str, str]:
    """Manifest lines by file, of the wanted images that are whole; a broken line or image is drawn again."""
    found: dict[str, str] = {}
    manifests = [path for path in (folder / MANIFEST, *folder.glob(f"{_PARTS}/*.jsonl")) if path.exists()]
    for line in (line for path in manifests for line in path.read_bytes().splitlines()):
        try:
            entry = json.loads(line)
            if entry["file"] not in wanted:
                continue
            data = (folder / entry["file"]).read_bytes()
        except (ValueError, KeyError, TypeError, OSError):
            continue
        if hashlib.sha256(data).hexdigest() == entry.get("sha256"):
            found[entry["file"]] = line.decode() + "\n"
    return found


def _draw(pipeline: Any, batch: list[Job], sampling: Sampling, folder: Path) -> list[str]:
    """Draw one batch, write its images and return its manifest lines."""
    images = pipeline(
        prompt=[job.prompt.prompt for job in batch],
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        **_sizes(pipeline, sampling),
        generator=[torch.Generator().manual_seed(job.seed) for job in batch],
        output_type="np",
    ).images
    if images.shape[1:3] != (sampling.height, sampling.width):
        drawn, asked = f"{images.shape[2]}x{images.shape[1]}", f"{sampling.width}x{sampling.height}"
        raise FastFluxError(f"The pipeline draws {drawn} pixels where {asked} are asked for: give a size it can draw.")
    faulty = [job for job, image in zip(batch, images, strict=True) if not np.isfinite(image).all()]
    if faulty:
        raise FastFluxError(
            f"{len(faulty)} of {len(batch)} pictures, the first of {faulty[0].prompt.id!r}, hold values that are not "
            "finite: check the model's weights and its number format"
        )
    return [_store(job, image, folder) for job, image in zip(batch, pipeline.numpy_to_pil(images), strict=True)]


def _sizes(pipeline: Any, sampling: Sampling) -> dict[str, int]:
    """Sizes of a call: with the text's length where the pipeline takes it."""
    if is_supported(getattr(pipeline, "transformer", None)):
        return drawing_sizes(pipeline, sampling.height, sampling.width)
    return {"height": sampling.height, "width": sampling.width}


def _store(job: Job, image: Image.Image, folder: Path) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    write_bytes(folder / job.file, buffer.getvalue())
    fields = {key: value for key, value in asdict(job.prompt).items() if value is not None and key != "id"}
    entry = {"file": job.file, "prompt_id": job.prompt.id, "sample": job.sample, "seed": job.seed, **fields}
    return json.dumps({**entry, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}) + "\n"
