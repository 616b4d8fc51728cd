"""Images of models that this suite does not prune: drawn with any diffusers pipeline, or made elsewhere, and scored.

`draw` leaves a folder with a manifest; `score` takes such a folder, HPS v2's or GenEval's layout, and writes a record
that the tables show above the dense model.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict, replace

from bench.metrics.base import load_metric
from bench.metrics.catalogue import metric_named
from bench.profiles.profile import load_profile, read_all_prompts
from bench.progress import Ticks, console
from bench.records.environment import describe_environment, sha256_of
from bench.records.results import JSON, Measurement, RunRecord, digest
from bench.records.variant_id import EXTERNAL, VariantId
from bench.run.folders import RUNS, locked
from bench.run.units import Runner, Store, Unit
from bench.samples.generate import MANIFEST, generate, jobs_of
from bench.samples.image_set import ImageSet
from bench.samples.prompts import limited, prompts_hash
from bench.settings import changed
from fastflux.errors import FastFluxError, first_sentence, memory_is_full
from fastflux.files import require_room
from fastflux.io.checkpoint import local_pipeline
from fastflux.models.architecture import is_supported
from fastflux.models.sizes import require_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.metrics.base import Metric
    from bench.profiles.profile import Profile
    from bench.samples.prompts import Prompt, Sampling


def draw(
    model: str,
    out: Path,
    *,
    profile_name: str = "shapes",
    steps: int | None = None,
    guidance: float | None = None,
    size: int | None = None,
    limit: int | None = None,
    device: str | None = None,
    changes: Mapping[str, str] | None = None,
) -> Path:
    """Draw the profile's prompts with a diffusers pipeline, a folder or a hub id; returns the manifest.

    Prompts, seeds, and what is not given are the profile's. Interrupted, the same call continues.

    Raises FastFluxError for a pipeline that is not there or cannot be loaded, before anything is drawn.
    """
    import torch
    from diffusers import DiffusionPipeline

    profile = load_profile(profile_name, changes)
    device = profile.device_for(device)
    sampling = changed(profile.sampling, "sampling", steps=steps, guidance=guidance, height=size, width=size)
    prompts = limited(read_all_prompts(profile), limit)
    require_room(out)
    folder = local_pipeline(Path(model))
    try:
        pipeline: Any = DiffusionPipeline.from_pretrained(
            folder, dtype=getattr(torch, profile.dtype), local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        if memory_is_full(error):
            raise
        raise FastFluxError(f"cannot load the pipeline in {folder}: {first_sentence(error)}.") from error
    if is_supported(getattr(pipeline, "transformer", None)):
        require_sizes(pipeline, sampling.height, sampling.width, None)
    pipeline = pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    ticks = Ticks(len(jobs_of(prompts, sampling)), f"draw {model}")
    identity: dict[str, JSON] = {"model": sha256_of(folder), "prompts": prompts_hash(prompts)}
    inputs = {**identity, "sampling": asdict(sampling)}
    manifest = generate(pipeline, prompts, sampling, out, inputs, ticks.advance)
    ticks.close()
    return manifest


def score(
    images: Path,
    name: str,
    *,
    label: str = "",
    profile_name: str = "shapes",
    metrics: Sequence[str] | None = None,
    device: str | None = None,
    changes: Mapping[str, str] | None = None,
    runs: Path = RUNS,
) -> RunRecord:
    """Score images with the profile's scorers and write the record to runs/<profile>/external/; returns it.

    `images` is a manifest or its folder, a folder in HPS v2's layout (<style>/00000.jpg) or in GenEval's
    (00000/metadata.jsonl, samples/). A metric that finds no images of its own fails and says so, as does one that
    cannot be computed; each is written when it is there. What an earlier call measured by other metrics stays, be it of
    other images: a model's images for HPS and for GenEval lie in two layouts. Of the images that the profile's prompts
    ask for, those that are not there count as missing: tables say so, and show no score of other prompts.

    Raises FastFluxError for images that cannot be read, a metric that the profile lacks, or a name that is no id.
    """
    if not name or not all(character.isalnum() or character == "_" for character in name):
        raise FastFluxError(f"the name {name!r} is no id: use letters, digits and _, such as sd14")
    profile = load_profile(profile_name, changes)
    prompts = read_all_prompts(profile)
    found = read_images(images, prompts)
    device = profile.device_for(device)
    names = [name for name in metrics or profile.metrics if metric_named(name).measures == "images"]
    if other := [name for name in metrics or () if name not in names]:
        raise FastFluxError(f"{other[0]} does not measure images alone: choose other --metrics.")
    chosen: list[Metric] = [load_metric(name, profile.metrics.get(name), device) for name in names]
    # One that is not there is told by each metric, with all others.
    there = [image for image in found.images if image.file.is_file()]
    identity = digest([image.sha256 or sha256_of(image.file) for image in there])
    folder = runs / profile.name / EXTERNAL
    path = folder / f"{VariantId(EXTERNAL, name)}.json"
    with locked(folder):
        record = _claimed(path, profile, label or name, identity, [metric.info.name for metric in chosen])
        environment = describe_environment(device)
        for metric in chosen:
            console.print(f"score {metric.info.name}")
            info = metric.info
            inputs = {**record.inputs, "images": identity, "version": info.version}
            unit = Unit(
                {f"{name},{info.name}": inputs},
                lambda metric=metric: {name: [metric(found)]},  # type: ignore[misc]
                variants=(name,),
                info=info,
            )
            done = Runner(Store(folder), lambda: environment).settle("score", unit)
            for measurement in done.results[name]:
                absent = 0 if measurement.status != "ok" else _absent(found, info.name, prompts, profile.sampling)
                record = record.with_measurement(replace(measurement, missing=absent or measurement.missing))
            record.write(path)
    console.print(f"the record is {path}", markup=False, soft_wrap=True)
    return record


def _absent(images: ImageSet, metric: str, prompts: Sequence[Prompt], sampling: Sampling) -> int:
    """How many of the images that a metric takes are not there, of those that the prompts ask for."""
    kind = metric_named(metric).prompts
    asked = {
        (prompt.id, prompt.prompt, sample)
        for prompt in prompts
        if kind in ("", prompt.set)
        for sample in range(sampling.samples[prompt.set])
    }
    return len(asked - {(image.prompt_id, image.prompt, image.sample) for image in images.images})


def _claimed(path: Path, profile: Profile, label: str, identity: str, metrics: Sequence[str]) -> RunRecord:
    """A record to which `metrics` are added: it keeps what an earlier one of the same scorers holds besides."""
    inputs: dict[str, JSON] = {"scorers": profile.scorers_hash()}
    kept: tuple[Measurement, ...] = ()
    images: dict[str, JSON] = {}
    if path.exists():
        earlier = RunRecord.read(path)
        kept = tuple(found for found in earlier.measurements if found.info.name not in metrics)
        images = dict(earlier.sampling)
        if kept and earlier.inputs != inputs:
            raise FastFluxError(f"{path} holds scores by other weights: give another --name, or delete it first")
    names = [found.info.name for found in kept]
    images = {name: images[name] for name in names if name in images} | dict.fromkeys(metrics, identity)
    return RunRecord(
        profile=profile.name,
        variant=path.stem,
        label=label,
        plan=None,
        base_model=label,
        base_revision=digest(images),
        environment=describe_environment(profile.device),
        sampling=images,
        measurements=kept,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        inputs=inputs,
    )


def shown(record: RunRecord) -> str:
    """The record's values with their intervals, a line each; what could not be measured with its reason."""
    lines = [f"{record.label}:"]
    for found in record.measurements:
        if found.status != "ok":
            lines.append(f"  {found.info.name}: {found.status}, {found.reason}")
            continue
        of = f" of {found.scored + found.missing}" if found.missing else ""
        lines.append(f"  {found.info.name} ({found.info.reference}; {found.scored}{of} scored)")
        for name, value in found.values.items():
            bounds = found.intervals.get(name)
            lines.append(f"    {name:<16} {value:.4g}" + (f"  [{bounds[0]:.4g}, {bounds[1]:.4g}]" if bounds else ""))
    return "\n".join(lines)


def read_images(place: Path, prompts: Sequence[Prompt]) -> ImageSet:
    """Images in any layout known here; raises FastFluxError naming what was looked for when there is none."""
    from bench.samples.layouts import numbered_folders, read_geneval_folder, read_layout

    if place.is_file() or (place / MANIFEST).is_file():
        return ImageSet.read(place if place.is_file() else place / MANIFEST)
    if numbered_folders(place):
        return read_geneval_folder(place, [prompt for prompt in prompts if prompt.set == "geneval"])
    preferred = [prompt for prompt in prompts if prompt.set == "hps"]
    if any((place / str(prompt.style)).is_dir() for prompt in preferred):
        return read_layout(place, preferred)
    raise FastFluxError(
        f"{place} holds neither {MANIFEST}, nor GenEval's 00000/, nor HPS v2's folders of styles: give one of these"
    )
