"""A gallery: chosen images of many variants, a sheet of tiles each, kept beside the records they belong to.

What a run draws lies under runs/ and is not kept; a gallery is small enough to be committed, so that grids and the page
can be rebuilt from the repository alone.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import replace
from PIL import Image, features

from bench.records.results import Data, RecordError, json_of, read_data
from bench.records.variant_id import DENSE
from bench.samples.image_set import GeneratedImage, ImageSet
from fastflux.errors import FastFluxError
from fastflux.files import whole_file, write_text
from reports.rows import Row

INDEX = "gallery.json"
MANIFEST = "manifest.jsonl"
#: Folder, below that of a gallery, of the images without one block each (`bench.run.draw`).
SINGLE_REMOVALS = "single_removals"
#: Pixels: no tile is larger, and of tiles up to the second a gallery holds the first number of images, else the second.
LONGEST_EDGE, SMALL_EDGE = 192, 96
SHOTS, SHOTS_OF_LARGE = 80, 40
_COLUMNS = 16
#: Without subsampled colour: at 64 pixels it would smear the very edges that tell a good model from a bad one.
_ENCODING: Mapping[str, Any] = {"format": "AVIF", "quality": 85, "subsampling": "4:4:4"}
_SUFFIX = ".avif"
Key = tuple[str, int]
"""An image by its prompt's id and its sample."""


@dataclass(frozen=True)
class GalleryShot:
    """What the tiles of one place show: prompt, sample, seed, and the HPS style or GenEval task as `kind`."""

    prompt_id: str
    sample: int
    seed: int
    prompt: str
    kind: str


class Gallery(Data, frozen=True):
    """A folder of sheets, one a variant: tile number i of every sheet shows shot i, drawn from the same seed.

    `tile` is width and height in pixels, `columns` tiles a line, `sheets` file names by variant, `records` the key of
    the record whose images a sheet shows, "" where there is no record (single blocks removed).
    """

    folder: Path
    tile: tuple[int, int]
    columns: int
    shots: tuple[GalleryShot, ...]
    sheets: Mapping[str, str]
    records: Mapping[str, str]
    schema_version: Literal[1] = 1

    @classmethod
    def read(cls, folder: Path) -> Gallery:
        """The gallery in a folder; raises FastFluxError when there is none, or of another version, or not whole."""
        path = folder / INDEX
        try:
            index = json_of(path.read_text(encoding="utf-8"), str(path))
            found = read_data(cls, {**index, "folder": folder}, str(path))
        except (OSError, RecordError, TypeError) as error:
            raise FastFluxError(
                f"{path} is no gallery ({error}); make it again by `python -m reports gallery`."
            ) from error
        for variant, name in found.sheets.items():
            if "/" in name or os.sep in name or not (folder / name).is_file():
                raise FastFluxError(f"{path} names the sheet {name!r} of {variant}, which is not beside it; "
                                    "make the gallery again by `python -m reports gallery`.")  # fmt: skip
        return found

    def of(self, rows: Iterable[Row]) -> Gallery:
        """The part that shows the images behind these rows: a sheet of another measurement of a variant is left out.

        Sheets without a record stay while the dense model's does.
        """
        keys = {row.variant: row.record_key for row in rows}
        kept = {variant for variant in self.sheets if self.records.get(variant) and self._is_of(variant, keys)}
        if DENSE in kept:
            kept |= {variant for variant in self.sheets if not self.records.get(variant)}
        return replace(self, sheets={variant: name for variant, name in self.sheets.items() if variant in kept})

    def _is_of(self, variant: str, keys: Mapping[str, str]) -> bool:
        return keys.get(variant) == self.records[variant]

    def tile_box(self, index: int) -> tuple[int, int, int, int]:
        """Left, upper, right and lower pixel of shot `index` in every sheet."""
        width, height = self.tile
        left, upper = index % self.columns * width, index // self.columns * height
        return left, upper, left + width, upper + height

    def sheet_bytes(self, variant: str) -> bytes:
        """A sheet's file as it is."""
        return (self.folder / self.sheets[variant]).read_bytes()

    def sheet(self, variant: str) -> Image.Image:
        """A sheet as an RGB image; raises FastFluxError when it cannot be read or lacks tiles."""
        path = self.folder / self.sheets[variant]
        try:
            with Image.open(path) as image:
                sheet = image.convert("RGB")
        except (OSError, SyntaxError) as error:
            raise FastFluxError(
                f"The sheet {path} cannot be read ({error}); make the gallery again by `python -m reports gallery`."
            ) from error
        if sheet.size != (needed := _sheet_size(self.tile, self.columns, len(self.shots))):
            raise FastFluxError(
                f"The sheet {path} has {sheet.size} pixels, {needed} were expected for {len(self.shots)} tiles; "
                "make the gallery again by `python -m reports gallery`."
            )
        return sheet


def write_gallery(
    manifests: Mapping[str, Path],
    out: Path,
    *,
    records: Mapping[str, str] | None = None,
    shots: int | None = None,
    edge: int = LONGEST_EDGE,
) -> Gallery:
    """Make a gallery of the variants in `manifests` (variant to manifest.jsonl) and return it.

    The first variant's images are chosen from, evenly over styles and tasks: `shots` of them (unasked 80 of small
    images, 40 of large ones) that all other variants have from the same seeds. A variant that shares none is left out:
    other models' images have seeds of their own. Images are scaled down to `edge` pixels, never up.

    Raises FastFluxError when nothing is shared, an image cannot be read, or this Pillow writes no AVIF.
    """
    if not features.check("avif"):
        raise FastFluxError("This Pillow writes no AVIF; install pillow 11.3 or newer from the package index.")
    found = {variant: _by_prompt(ImageSet.read(path)) for variant, path in manifests.items()}
    first = next(iter(found.values()), {})
    if not first:
        raise FastFluxError(f"The manifest of {next(iter(manifests), 'no variant')} holds no image; generate some.")
    alike = {variant: _shared(first, images) for variant, images in found.items()}
    usable = {variant: found[variant] for variant, keys in alike.items() if keys}
    shared = {key: shot for key, shot in first.items() if all(key in alike[variant] for variant in usable)}
    if not usable or not shared:
        raise FastFluxError(
            f"The variants {', '.join(found)} share no image of one seed; generate them from one prompt set."
        )
    size = _tile_size(next(iter(shared.values())).file, edge)
    count = shots or (SHOTS if max(size) <= SMALL_EDGE else SHOTS_OF_LARGE)
    keys = pick_shots(shared, count)
    out.mkdir(parents=True, exist_ok=True)
    sheets = {variant: variant.replace(os.sep, "_") + _SUFFIX for variant in usable}
    for variant, images in usable.items():
        _write_sheet([images[key].file for key in keys], size, out / sheets[variant])
    gallery = Gallery(
        folder=out,
        tile=size,
        columns=_COLUMNS,
        shots=tuple(
            GalleryShot(shot.prompt_id, shot.sample, shot.seed, shot.prompt, kind_of(shot))
            for shot in (shared[key] for key in keys)
        ),
        sheets=sheets,
        records={variant: (records or {}).get(variant, "") for variant in sheets},
    )
    _write_index(gallery)
    for path in out.glob(f"*{_SUFFIX}"):  # of variants that an earlier gallery of this folder had
        if path.name not in sheets.values():
            path.unlink()
    return gallery


def kind_of(image: GeneratedImage) -> str:
    """The HPS style or GenEval task of an image, such as "hps photo"."""
    return f"{image.set} {image.style or (image.metadata or {}).get('tag') or image.set}"


def pick_shots(shots: Mapping[Key, GeneratedImage], count: int) -> list[Key]:
    """`count` images spread evenly over styles and tasks (the first of each, then the second), by kind."""
    kinds: dict[str, list[Key]] = {}
    # A second sample of a prompt shows less than another prompt would: so the first samples come first.
    for key in sorted(shots, key=lambda key: (key[1], key[0])):
        kinds.setdefault(kind_of(shots[key]), []).append(key)
    turns = max((len(keys) for keys in kinds.values()), default=0)
    order = [kinds[kind][turn] for turn in range(turns) for kind in sorted(kinds) if turn < len(kinds[kind])]
    chosen = sorted(order, key=lambda key: key[1])[:count]
    return sorted(chosen, key=lambda key: (kind_of(shots[key]), key))


def _by_prompt(images: ImageSet) -> dict[Key, GeneratedImage]:
    return {(image.prompt_id, image.sample): image for image in images.images}


def _shared(first: Mapping[Key, GeneratedImage], images: Mapping[Key, GeneratedImage]) -> set[Key]:
    """The images drawn from the same prompt and seed; a negative seed is one that nobody knows."""
    return {
        key
        for key, shot in images.items()
        if key in first and (first[key].seed, first[key].prompt) == (shot.seed, shot.prompt) and shot.seed >= 0
    }


def _write_index(gallery: Gallery) -> None:
    """Last, and whole or not at all: a folder without it is no gallery."""
    index = {"schema_version": 1} | msgspec.to_builtins(gallery, enc_hook=str)
    del index["folder"]
    text = json.dumps(index, indent=1, ensure_ascii=False)
    write_text(gallery.folder / INDEX, f"{text}\n")


def _sheet_size(tile: tuple[int, int], columns: int, count: int) -> tuple[int, int]:
    return tile[0] * columns, tile[1] * math.ceil(count / columns)


def _write_sheet(files: Sequence[Path], size: tuple[int, int], path: Path) -> None:
    sheet = Image.new("RGB", _sheet_size(size, _COLUMNS, len(files)), "white")
    for index, file in enumerate(files):
        tile = _open(file)
        if tile.size != size:
            tile.thumbnail(size, Image.Resampling.LANCZOS)
        corner = (index % _COLUMNS * size[0], index // _COLUMNS * size[1])
        sheet.paste(tile, (corner[0] + (size[0] - tile.width) // 2, corner[1] + (size[1] - tile.height) // 2))
    with whole_file(path) as partial:
        sheet.save(partial, **_ENCODING)


def _tile_size(file: Path, edge: int) -> tuple[int, int]:
    width, height = _open(file).size
    factor = min(1.0, edge / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise FastFluxError(f"The image {path} cannot be read ({error}); delete it and generate it again.") from error


def collect(
    rows: Sequence[Row], images: Path, out: Path, *, shots: int | None = None, edge: int = LONGEST_EDGE
) -> list[Gallery]:
    """Make the galleries from a run's folder of <variant>/manifest.jsonl and single_removals/<block>/manifest.jsonl.

    Repeats with other seeds are left out: their pictures show nothing that those of the first pruning do not.

    Raises FastFluxError for impossible numbers, when the folder has no images of the rows, and as
    `reports.figures.gallery.write_gallery` does.
    """
    if (shots is not None and shots < 1) or edge < 1:
        raise FastFluxError(f"{shots} shots of {edge} pixels are asked for; expected at least 1 of each.")
    keys = {row.variant: row.record_key for row in rows if row.id.repeated is None}
    manifests = {variant: path for variant in keys if (path := images / variant / MANIFEST).is_file()}
    if not manifests:
        raise FastFluxError(
            f"The images folder {images} holds no <variant>/{MANIFEST} of the recorded variants; generate images first."
        )
    made = [write_gallery(manifests, out, records=keys, shots=shots, edge=edge)]
    removals = {path.parent.name: path for path in sorted((images / SINGLE_REMOVALS).glob(f"*/{MANIFEST}"))}
    if removals and DENSE in manifests:
        shown = {DENSE: manifests[DENSE], **removals}
        made.append(write_gallery(shown, out / SINGLE_REMOVALS, records=keys, shots=shots, edge=edge))
    return made
