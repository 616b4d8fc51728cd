"""HPDv2's benchmark on disk: its prompts, and images in the folders that `hpsv2.evaluate` reads.

Prompts are ``<style>.json``, a list of texts each (folder ``benchmark`` of zhwang/HPDv2, a data set of huggingface.co);
images are ``<root>/<style>/<index of the prompt, five digits>.jpg``. So images made elsewhere are scored here.
Source: https://github.com/tgxs002/HPSv2, `hpsv2/evaluation.py`, commit 866735e.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.samples.image_set import UNKNOWN_SEED, GeneratedImage, ImageSet, ImageSetError
from bench.samples.prompts import Prompt
from fastflux.calibration.prompts import parse_json, read_text
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
