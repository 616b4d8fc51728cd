"""GenEval's own files: `evaluation_metadata.jsonl` and the image folders `<00000>/metadata.jsonl` + `samples/*.png`.

Prompts are named by their line's number ("geneval-00000"), which is also their folder's, so that images made elsewhere
and images made here from the same file are paired. Layout: https://github.com/djghosh13/geneval, README at af4902f.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from bench.samples.geneval_vocabulary import COLORS, TASKS
from bench.samples.image_set import UNKNOWN_SEED, GeneratedImage, ImageSet, ImageSetError
from bench.samples.prompts import Prompt
from fastflux.errors import FastFluxError
from fastflux.files import new_folder, write_text

METADATA = "metadata.jsonl"
SAMPLES = "samples"

_RELATIONS = frozenset({"left of", "right of", "above", "below"})
_KEYS = {"tag", "include", "exclude", "prompt", "id"}
_NUMBERED = re.compile(r"geneval-(\d{5})")
_SAMPLE = re.compile(r"(\d+)\.png")


def read_metadata(path: Path) -> tuple[Prompt, ...]:
    """The prompts of an `evaluation_metadata.jsonl`, in order.

    Raises FastFluxError that names file and line for a missing file, bad JSON or metadata of another form.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FastFluxError(f"{path} cannot be read ({error}); give GenEval's evaluation_metadata.jsonl.") from error
    prompts = tuple(
        parse_prompt(line, number, f"{path}, line {number + 1}") for number, line in enumerate(lines) if line.strip()
    )
    if not prompts:
        raise FastFluxError(f"{path} holds no prompts; give GenEval's evaluation_metadata.jsonl.")
    return prompts


def write_metadata(prompts: tuple[Prompt, ...], path: Path) -> None:
    """Write prompts as an `evaluation_metadata.jsonl`, to draw images with GenEval's own script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [metadata_line(prompt.metadata or {}, prompt.prompt) for prompt in prompts]
    write_text(path, "".join(lines))


def metadata_line(metadata: Mapping[str, Any], prompt: str, identity: str | None = None) -> str:
    """GenEval's metadata of a prompt as a line; `identity` adds our id, which GenEval's evaluator carries along."""
    shown = {key: metadata[key] for key in ("tag", "include", "exclude") if key in metadata}
    return json.dumps({**shown, "prompt": prompt, **({"id": identity} if identity else {})}) + "\n"


def content_of(metadata: Mapping[str, Any], prompt: str) -> str:
    """What a prompt asks for, as one text: equal for equal prompts, whatever they are called."""
    return json.dumps(json.loads(metadata_line(metadata, prompt)), sort_keys=True)


def parse_prompt(text: str, number: int, where: str) -> Prompt:
    """One metadata object as a prompt, named by `number` unless it brings an id.

    Raises:
        FastFluxError: `where`, and what is not as GenEval has it.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise FastFluxError(f"{where} is not whole JSON ({error}); take the file anew.") from error
    if fault := next(_faults(data), None):
        raise FastFluxError(f"{where} is not GenEval's metadata: {fault}.")
    metadata = {key: data[key] for key in ("tag", "include", "exclude") if key in data}
    return Prompt(data.get("id") or f"geneval-{number:05}", "geneval", data["prompt"], None, metadata)


def read_geneval_folder(root: Path) -> ImageSet:
    """The images of a folder in GenEval's layout, whoever made them; their seeds are unknown.

    Raises:
        ImageSetError: no folders with numbers, one without metadata or images, or one prompt in two of them.
    """
    if not root.is_dir():
        raise ImageSetError(f"{root} is not a folder; expected one with {'00000'}/{METADATA} and {'00000'}/{SAMPLES}.")
    folders = sorted(
        (folder for folder in root.iterdir() if folder.is_dir() and folder.name.isdigit()),
        key=lambda folder: int(folder.name),
    )
    if not folders:
        raise ImageSetError(f"{root} has no folders 00000, 00001, ...; give the folder that GenEval's script wrote.")
    images: list[GeneratedImage] = []
    seen: dict[str, Path] = {}
    for folder in folders:
        found = _images_of(folder)
        if (other := seen.setdefault(found[0].prompt_id, folder)) is not folder:
            raise ImageSetError(f"{other} and {folder} both hold {found[0].prompt_id!r}; keep one.")
        images += found
    return ImageSet(tuple(sorted(images, key=lambda image: (image.prompt_id, image.sample))))


def write_geneval_folder(images: ImageSet, root: Path) -> Path:
    """Copy the images of the set "geneval" into a new folder in GenEval's layout, for its evaluator; returns `root`.

    The folder appears when it is whole. Prompts are numbered as their ids are, or counted where ids have no numbers.

    Raises:
        ImageSetError: nothing to write, an image that is missing or damaged, or `root` is there already.
    """
    images = images.subset("geneval")
    if missing := images.missing():
        raise ImageSetError(f"{len(missing)} images are missing ({missing[0]}, ...); generate them first.")
    if not images.images:
        raise ImageSetError("the image set holds no GenEval images; generate some of the set 'geneval'.")
    if root.exists():
        raise ImageSetError(
            f"{root} is there already; give a new folder, so that no other images are scored with these."
        )
    numbers = _numbers([image.prompt_id for image in images.images])
    with new_folder(root) as partial:
        for image in images.images:
            _write(image, partial / f"{numbers[image.prompt_id]:05}", numbers[image.prompt_id])
    return root


def _write(image: GeneratedImage, folder: Path, number: int) -> None:
    pixels = image.read()  # a damaged image must not reach the evaluator
    target = folder / SAMPLES / f"{image.sample:05}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    if image.file.suffix == ".png":
        shutil.copyfile(image.file, target)
    else:
        Image.fromarray(pixels).save(target)
    identity = None if image.prompt_id == f"geneval-{number:05}" else image.prompt_id
    write_text(folder / METADATA, metadata_line(image.metadata or {}, image.prompt, identity))


def _numbers(ids: list[str]) -> dict[str, int]:
    unique = dict.fromkeys(ids)
    matches = [_NUMBERED.fullmatch(name) for name in unique]
    if all(matches):
        return {name: int(match.group(1)) for name, match in zip(unique, matches, strict=True) if match}
    return {name: number for number, name in enumerate(unique)}


def _images_of(folder: Path) -> list[GeneratedImage]:
    try:
        text = (folder / METADATA).read_text(encoding="utf-8")
        prompt = parse_prompt(text, int(folder.name), str(folder / METADATA))
        names = sorted(path.name for path in (folder / SAMPLES).iterdir())
    except (OSError, UnicodeDecodeError) as error:
        raise ImageSetError(f"{folder} lacks {METADATA} or {SAMPLES} ({error}); write the folder again.") from error
    files = {int(match.group(1)): name for name in names if (match := _SAMPLE.fullmatch(name))}
    if not files:
        raise ImageSetError(f"{folder / SAMPLES} holds no images 00000.png, 00001.png, ...; generate them.")
    return [
        GeneratedImage(
            folder / SAMPLES / name,
            prompt.id,
            sample,
            UNKNOWN_SEED,
            "geneval",
            None,
            prompt.metadata,
            prompt.prompt,
        )
        for sample, name in sorted(files.items())
    ]


def _faults(data: object) -> Iterator[str]:
    """What is not as GenEval has it; only the first one is asked for, later checks build on earlier ones."""
    if not isinstance(data, dict):
        yield "no object"
        return
    if unknown := sorted(data.keys() - _KEYS):
        yield f"unknown keys {unknown}"
    if not isinstance(data.get("prompt"), str) or not data["prompt"]:
        yield f"prompt is {data.get('prompt')!r}"
    if data.get("tag") not in TASKS:
        yield f"tag is {data.get('tag')!r}; expected one of {', '.join(TASKS)}"
    name = data.get("id", "an-id")
    if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
        yield f"id is {name!r}, which cannot name a file"
    include, exclude = data.get("include"), data.get("exclude", [])
    if not isinstance(include, list) or not include or not isinstance(exclude, list):
        yield "include must be a list of objects, and so must exclude"
        return
    for index, entry in enumerate(include):
        yield from (f"include[{index}] {fault}" for fault in _entry_faults(entry, index))
    for index, entry in enumerate(exclude):
        yield from (f"exclude[{index}] {fault}" for fault in _entry_faults(entry, 0))
        if len(entry) > 2:
            yield f"exclude[{index}] has a color"


def _entry_faults(entry: Any, index: int) -> Iterator[str]:
    if not isinstance(entry, dict) or not {"class", "count"} <= entry.keys() <= {"class", "count", "color", "position"}:
        yield f"is {entry!r}; expected class, count, and color or position at most"
        return
    if not isinstance(entry["class"], str) or type(entry["count"]) is not int or entry["count"] < 1:
        yield f"asks for {entry['count']!r} of {entry['class']!r}"
    if entry.get("color", COLORS[0]) not in COLORS:
        yield f"has the color {entry['color']!r}; expected one of {', '.join(COLORS)}"
    if "position" not in entry:
        return
    position = entry["position"]
    if not isinstance(position, list) or len(position) != 2 or position[0] not in _RELATIONS:
        yield f"has the position {position!r}; expected [relation, index]"
    elif type(position[1]) is not int or not 0 <= position[1] < index:
        yield f"lies relative to entry {position[1]!r}, which is none before it"
