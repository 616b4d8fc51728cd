"""GenEval's own files: `evaluation_metadata.jsonl` and the image folders `<00000>/metadata.jsonl` + `samples/*.png`.

Prompts are named by their line's number ("geneval-00000"), which is also their folder's, so that images made elsewhere
and images made here from the same file are paired. Layout: https://github.com/djghosh13/geneval, README at af4902f.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from bench.records.results import read_data
from bench.samples.geneval_metadata import GenEvalLine
from bench.samples.image_set import UNKNOWN_SEED, GeneratedImage, ImageSet, ImageSetError
from bench.samples.prompts import Prompt
from fastflux.calibration.prompts import parse_json, read_lines, read_text
from fastflux.errors import FastFluxError
from fastflux.files import new_folder, write_text

METADATA = "metadata.jsonl"
SAMPLES = "samples"

_NUMBERED = re.compile(r"geneval-(\d{5})")
_SAMPLE = re.compile(r"(\d+)\.png")


def read_metadata(path: Path) -> tuple[Prompt, ...]:
    """The prompts of an `evaluation_metadata.jsonl`, in order.

    Raises FastFluxError that names file and line for a missing file, bad JSON or metadata of another form.
    """
    prompts = tuple(parse_prompt(line, number, where) for number, (where, line) in enumerate(read_lines(path)))
    if not prompts:
        raise FastFluxError(f"{path} holds no prompts; give GenEval's evaluation_metadata.jsonl.")
    return prompts


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
    data = parse_json(text, where)
    line = read_data(GenEvalLine, data, where)
    metadata = {key: data[key] for key in ("tag", "include", "exclude") if key in data}
    return Prompt(line.id or f"geneval-{number:05}", "geneval", line.prompt, None, metadata)


def numbered_folders(root: Path) -> list[Path]:
    """The folders 00000, 00001, ... in a folder, with however many digits; none where there is no such folder."""
    return sorted(path for path in root.glob("*") if path.name.isdecimal() and path.is_dir())


def read_geneval_folder(root: Path, prompts: Sequence[Prompt] = ()) -> ImageSet:
    """The images of a folder in GenEval's layout, whoever made them; their seeds are unknown.

    Args:
        prompts: those that images are wanted of. Where the folder's are among them, all of them are expected; where it
            holds another set, its folders must be numbered without a gap.

    Raises:
        ImageSetError: no folders with numbers, one without metadata or images, one prompt in two of them, or a folder
            that lacks prompts.
    """
    if not root.is_dir():
        raise ImageSetError(f"{root} is not a folder; expected one with {'00000'}/{METADATA} and {'00000'}/{SAMPLES}.")
    numbered: dict[int, Path] = {}
    for folder in numbered_folders(root):
        if (other := numbered.setdefault(int(folder.name), folder)) is not folder:
            raise ImageSetError(f"{other} and {folder} have one number; keep one.")
    if not numbered:
        raise ImageSetError(f"{root} has no folders 00000, 00001, ...; give the folder that GenEval's script wrote.")
    wanted = {content_of(prompt.metadata or {}, prompt.prompt): prompt.id for prompt in prompts}
    images: list[GeneratedImage] = []
    seen: dict[str, Path] = {}
    known = 0
    for folder in (numbered[number] for number in sorted(numbered)):
        found = _images_of(folder)
        if (identity := wanted.get(content_of(found[0].metadata or {}, found[0].prompt))) is not None:
            found, known = [replace(image, prompt_id=identity) for image in found], known + 1
        if (other := seen.setdefault(found[0].prompt_id, folder)) is not folder:
            raise ImageSetError(f"{other} and {folder} both hold {found[0].prompt_id!r}; keep one.")
        images += found
    there = ImageSet(tuple(sorted(images, key=lambda image: (image.prompt_id, image.sample))))
    if known:
        samples = max(Counter(image.prompt_id for image in images).values())
        return there.expecting(dict.fromkeys(wanted.values(), "geneval"), {"geneval": samples})
    if prompts and len(numbered) <= max(numbered):
        lacking = min(set(range(max(numbered))) - numbered.keys())
        raise ImageSetError(f"{root} has no folder {lacking:05}, though later ones; draw the whole set.")
    return there


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
        text = read_text(folder / METADATA)
        names = sorted(path.name for path in (folder / SAMPLES).iterdir())
    except (OSError, FastFluxError) as error:
        raise ImageSetError(f"{folder} lacks {METADATA} or {SAMPLES} ({error}); write the folder again.") from error
    prompt = parse_prompt(text, int(folder.name), str(folder / METADATA))
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
