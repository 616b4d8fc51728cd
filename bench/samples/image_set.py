"""Generated images as files: a manifest of what was made from which prompt and seed, and the pixels behind it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from bench.records.results import Data, read_data
from fastflux.calibration.prompts import parse_json, read_lines
from fastflux.errors import FastFluxError
from fastflux.pictures import open_picture

Pixels = npt.NDArray[np.uint8]
"""(height, width, 3), RGB."""

UNKNOWN_SEED = -1
"""Seed of images that say nothing of theirs: they cannot be paired with others."""


class ManifestLine(Data, frozen=True, omit_defaults=True):
    """One image of a manifest; `file` lies in the manifest's folder."""

    file: Annotated[str, msgspec.Meta(pattern="^[^\0]+$")]
    prompt_id: Annotated[str, msgspec.Meta(pattern="^[^/]+$")]
    sample: Annotated[int, msgspec.Meta(ge=0)]
    seed: int
    set: str
    prompt: str
    style: Annotated[str, msgspec.Meta(pattern="^[^/]+$")] | None = None
    metadata: dict[str, Any] | None = None
    sha256: str | None = None


class ImageSetError(FastFluxError):
    """A manifest or an image file that is missing, damaged or not what it says."""


@dataclass(frozen=True)
class GeneratedImage:
    """One image: sample number `sample` of a prompt, made with `seed`.

    Args:
        style: HPS style of the prompt, None for other sets.
        metadata: GenEval's metadata of the prompt, None for other sets.
        sha256: of the file, checked on reading; None is not checked.
    """

    file: Path
    prompt_id: str
    sample: int
    seed: int
    set: str
    style: str | None
    metadata: Mapping[str, Any] | None
    prompt: str
    sha256: str | None = None

    def read(self) -> Pixels:
        """The pixels as people see them (`fastflux.pictures.open_picture`), (height, width, 3) uint8.

        Raises:
            ImageSetError: the file is missing, truncated, no image, or not the file the manifest was made with.
        """
        try:
            data = self.file.read_bytes()
        except OSError as error:
            raise ImageSetError(f"{self.file} cannot be read ({error}); generate the image again.") from error
        if self.sha256 is not None and hashlib.sha256(data).hexdigest() != self.sha256:
            raise ImageSetError(f"{self.file} is not the file its manifest was written for; generate the image again.")
        try:
            return np.array(open_picture(self.file, data))
        except FastFluxError as error:
            raise ImageSetError(str(error)) from error


@dataclass(frozen=True)
class ImageSet:
    """Images in a fixed order; iterating gives their pixels, one (height, width, 3) uint8 array each.

    Args:
        expected: (set, prompt id, sample) of images there should be, see `expecting`.
    """

    images: tuple[GeneratedImage, ...]
    expected: tuple[tuple[str, str, int], ...] = ()

    @classmethod
    def read(cls, manifest: Path) -> ImageSet:
        """The images of a ``manifest.jsonl``, sorted by prompt and sample; file names count from its folder.

        Raises:
            ImageSetError: no manifest, a line that is no entry, or two images of one prompt and sample.
        """
        try:
            images = [_parse(line, manifest.parent, where) for where, line in read_lines(manifest)]
        except FastFluxError as error:
            raise ImageSetError(str(error)) from error
        found: dict[tuple[str, int], GeneratedImage] = {}
        for image in images:
            other = found.setdefault((image.prompt_id, image.sample), image)
            if other is not image:
                raise ImageSetError(
                    f"{manifest} has sample {image.sample} of {image.prompt_id!r} twice "
                    f"({other.file.name}, {image.file.name}); keep one."
                )
        return cls(tuple(found[key] for key in sorted(found)))

    def subset(self, name: str) -> ImageSet:
        """The images of one prompt set ("hps", "geneval", ...)."""
        return ImageSet(
            tuple(image for image in self.images if image.set == name),
            tuple(entry for entry in self.expected if entry[0] == name),
        )

    def expecting(self, prompts: Mapping[str, str], samples: Mapping[str, int]) -> ImageSet:
        """A copy that knows what there should be, given prompts as id -> set and images of each prompt by set.

        Generation that was stopped leaves a shorter manifest, which nothing else would show.
        """
        wanted = ((name, prompt, sample) for prompt, name in prompts.items() for sample in range(samples[name]))
        return ImageSet(self.images, tuple(sorted(wanted)))

    def missing(self) -> tuple[str, ...]:
        """What is not there: files by path, expected samples, and samples that other prompts of a set have."""
        absent = [str(image.file) for image in self.images if not image.file.is_file()]
        samples: defaultdict[str, set[int]] = defaultdict(set)
        for image in self.images:
            samples[image.set].add(image.sample)
        wanted = {(image.prompt_id, sample) for image in self.images for sample in samples[image.set]}
        wanted.update((prompt, sample) for _, prompt, sample in self.expected)
        gaps = sorted(wanted - {(image.prompt_id, image.sample) for image in self.images})
        return (*absent, *(f"sample {sample} of {prompt}" for prompt, sample in gaps))

    def surplus(self) -> tuple[str, ...]:
        """What is there once too often: a second image of one prompt and sample, and images that nobody asked for."""
        keys = [(image.set, image.prompt_id, image.sample) for image in self.images]
        twice = [key for key, count in Counter(keys).items() if count > 1]
        unasked = set(keys) - set(self.expected) if self.expected else set()
        return tuple(f"sample {sample} of {prompt}" for _, prompt, sample in sorted({*twice, *unasked}))

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Pixels]:
        return (image.read() for image in self.images)


def _parse(line: str, folder: Path, where: str) -> GeneratedImage:
    entry = read_data(ManifestLine, parse_json(line, where), where)
    file = folder / entry.file
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ImageSetError(
            f"{where} names the file {entry.file!r}, which lies outside of {folder}; expected one in it."
        )
    fields = {**msgspec.structs.asdict(entry), "file": file}
    return GeneratedImage(**fields)
