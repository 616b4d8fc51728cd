"""Others' files: GenEval's `evaluation_metadata.jsonl` and image folders, HPDv2's benchmark.

GenEval: `<00000>/metadata.jsonl` + `samples/*.png`. Prompts are named by their line's number ("geneval-00000"), which
is also their folder's, so that images made elsewhere and images made here from the same file are paired. Layout:
https://github.com/djghosh13/geneval, README at af4902f.

HPDv2: prompts are ``<style>.json``, a list of texts each (folder ``benchmark`` of zhwang/HPDv2, a data set of
huggingface.co); images are ``<root>/<style>/<index of the prompt, five digits>.jpg``, as `hpsv2.evaluate` reads them.
Source: https://github.com/tgxs002/HPSv2, `hpsv2/evaluation.py`, commit 866735e.
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

STYLES = ("anime", "concept-art", "paintings", "photo")
SET = "hps"


def read_benchmark_prompts(folder: Path, styles: Sequence[str] = STYLES) -> tuple[Prompt, ...]:
    """The prompts of a folder with ``<style>.json`` files, in their order; ids are ``hps-<style>-<index>``.

    Raises:
        FastFluxError: a file is missing or is no list of texts.
    """
    return tuple(
        Prompt(f"{SET}-{style}-{index:05d}", SET, text, style)
        for style in styles
        for index, text in enumerate(_texts(folder / f"{style}.json"))
    )


def read_layout(root: Path, prompts: Sequence[Prompt]) -> ImageSet:
    """The images that `hpsv2.evaluate` would read, one for each prompt of the set "hps", all expected to be there.

    The files do not tell their seeds.

    Raises:
        ImageSetError: there is no such folder, or it holds images that no prompt is for.
    """
    if not root.is_dir():
        raise ImageSetError(f"{root} is no folder; give the one with a folder of images for each style.")
    places = _places(prompts)
    known = {place for _, place in places}
    found = {file.relative_to(root) for file in root.glob("*/*")}
    if surplus := sorted(str(place) for place in found - known):
        raise ImageSetError(
            f"{root} has {len(surplus)} files for which there is no prompt, e.g. {surplus[0]}; expected {len(known)} "
            "images: give the prompts they were made from, or move them away."
        )
    images = tuple(
        GeneratedImage(root / place, prompt.id, 0, UNKNOWN_SEED, SET, prompt.style, None, prompt.prompt)
        for prompt, place in sorted(places, key=lambda item: item[0].id)
    )
    return ImageSet(images).expecting({prompt.id: SET for prompt, _ in places}, {SET: 1})


def _places(prompts: Sequence[Prompt]) -> list[tuple[Prompt, Path]]:
    """Prompts of the set with the place of each one's image below the root."""
    counts: Counter[str] = Counter()
    places = []
    for prompt in prompts:
        if prompt.set == SET:
            style = str(prompt.style)
            places.append((prompt, Path(style, f"{counts[style]:05d}.jpg")))
            counts[style] += 1
    if len({prompt.id for prompt, _ in places}) < len(places):
        twice = next(name for name, count in Counter(prompt.id for prompt, _ in places).items() if count > 1)
        raise FastFluxError(f"The prompts hold the id {twice!r} twice; ids name images, keep one.")
    return places


def _texts(file: Path) -> list[str]:
    if not file.is_file():
        raise FastFluxError(
            f"{file} is not there; download the folder benchmark of the data set zhwang/HPDv2 from "
            "https://huggingface.co/datasets/zhwang/HPDv2."
        )
    texts = parse_json(read_text(file), str(file))
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise FastFluxError(f"{file} is no list of texts; expected a style of HPDv2's benchmark, 800 prompts.")
    return texts


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
            folder / SAMPLES / name, prompt.id, sample, UNKNOWN_SEED, "geneval", None, prompt.metadata, prompt.prompt
        )
        for sample, name in sorted(files.items())
    ]
