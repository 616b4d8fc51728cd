"""GenEval's own files: `evaluation_metadata.jsonl` and the image folders `<00000>/metadata.jsonl` + `samples/*.png`.

Prompts are named by their line's number ("geneval-00000"), which is also their folder's, so that images made elsewhere
and images made here from the same file are paired. Layout: https://github.com/djghosh13/geneval, README at af4902f.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.records.results import read_data
from bench.samples.image_set import UNKNOWN_SEED, GeneratedImage, ImageSet, ImageSetError
from bench.samples.prompts import GenEvalLine, Prompt
from fastflux.calibration.prompts import parse_json, read_lines, read_text
from fastflux.errors import FastFluxError

METADATA = "metadata.jsonl"
SAMPLES = "samples"

_SAMPLE = re.compile(r"(\d+)\.png")


def read_metadata(path: Path) -> tuple[Prompt, ...]:
    """The prompts of an `evaluation_metadata.jsonl`, in order.

    Raises FastFluxError that names file and line for a missing file, bad JSON or metadata of another form.
    """
    prompts = tuple(parse_prompt(line, number, where) for number, (where, line) in enumerate(read_lines(path)))
    if not prompts:
        raise FastFluxError(f"{path} holds no prompts; give GenEval's evaluation_metadata.jsonl.")
    return prompts


def content_of(metadata: Mapping[str, Any], prompt: str) -> str:
    """What a prompt asks for, as one text: equal for equal prompts, whatever they are called."""
    shown = {key: metadata[key] for key in ("tag", "include", "exclude") if key in metadata}
    return json.dumps({**shown, "prompt": prompt}, sort_keys=True)


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
