"""Grids of generated images: a prompt a row, a variant a column, the same seed along each row."""

import re
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from fastflux.errors import FastFluxError
from reports.figures.gallery import Gallery
from reports.figures.grids import Columns
from reports.figures.style import DOTS_PER_INCH, GREY, new_figure, style

DEFAULT_CELL = 112
_PROMPT_WIDTH, _HEADER_HEIGHT, _HEADING_HEIGHT, _TITLE_HEIGHT, _GAP, _GROUP_GAP = 210, 36, 22, 28, 4, 14  # pixels
_STRIDE = 5  # of the shots of a kind the next row takes one so many further on: neighbours in a prompt set are alike


def grid_rows(gallery: Gallery, count: int = 10) -> list[int]:
    """Places of `count` shots: each kind in turn, picked by a rule that looks at no image.

    Of more kinds than shots some are left out, evenly over their names: styles and tasks both stay.
    """
    kinds: dict[str, list[int]] = {}
    for index, shot in enumerate(gallery.shots):
        kinds.setdefault(shot.kind, []).append(index)
    if 0 < count < len(kinds):
        names = sorted(kinds)
        kinds = {name: kinds[name] for name in (names[place * len(names) // count] for place in range(count))}
    chosen: list[int] = []
    for turn in range(len(gallery.shots)):
        for place, indices in enumerate(kinds.values()):
            if turn < len(indices) and len(chosen) < count:
                rest = [index for index in indices if index not in chosen]
                chosen.append(rest[(_STRIDE * place) % len(rest)])
    return sorted(chosen)


def image_grid(
    gallery: Gallery,
    groups: Sequence[Columns],
    *,
    title: str = "",
    rows: Sequence[int] | None = None,
    cell: int = DEFAULT_CELL,
    native: bool = False,
) -> Figure:
    """The grid of the groups' variants for the shots at `rows` (unasked one of each kind).

    `cell` is the edge of an image in pixels; with `native` the images go in at their own size and the viewer enlarges
    them. Raises FastFluxError when the gallery has no sheet of a variant or no shot.
    """
    sheets = {variant: _sheet(gallery, variant) for group in groups for variant in group.variants.values()}
    indices = grid_rows(gallery) if rows is None else list(rows)
    if not indices or not sheets:
        raise FastFluxError(f"The gallery {gallery.folder} has no image to show; make it again from a whole run.")
    # A group with a heading stands apart from what is before it.
    lefts, left = [], _PROMPT_WIDTH
    for number, group in enumerate(groups):
        left += _GROUP_GAP if number and group.heading else 0
        lefts.append(left)
        left += len(group.variants) * (cell + _GAP)
    width = left
    top = _HEADER_HEIGHT + (_TITLE_HEIGHT if title else 0)
    top += _HEADING_HEIGHT if any(group.heading for group in groups) else 0
    height = top + len(indices) * (cell + _GAP)
    figure = new_figure(width / DOTS_PER_INCH, height / DOTS_PER_INCH)
    with style():
        if title:
            figure.text(0.5, 1 - 6 / height, title, ha="center", va="top", fontsize=9.5)
        for left, group in zip(lefts, groups, strict=True):
            if group.heading:
                span = len(group.variants) * (cell + _GAP) - _GAP
                at = (height - top + _HEADER_HEIGHT + 4) / height
                figure.text((left + span / 2) / width, at, group.heading, ha="center", va="bottom", fontsize=8)
                ends = [left / width, (left + span) / width]
                figure.add_artist(Line2D(ends, [at - 2 / height] * 2, color=GREY, linewidth=0.8))
            for column, (label, variant) in enumerate(group.variants.items()):
                start = left + column * (cell + _GAP)
                heading = "\n".join(_broken(label, cell // 8))
                figure.text((start + cell / 2) / width, (height - top + 5) / height, heading, ha="center", va="bottom",
                            fontsize=8, fontweight="bold", parse_math=False)  # fmt: skip
                for row, index in enumerate(indices):
                    low = height - top - row * (cell + _GAP) - cell
                    axes = figure.add_axes((start / width, low / height, cell / width, cell / height))
                    axes.imshow(_tile(gallery, sheets[variant], index, cell, native=native), interpolation="none")
                    axes.set_axis_off()
        for row, index in enumerate(indices):
            shot = gallery.shots[index]
            middle = height - top - row * (cell + _GAP) - cell / 2
            text = f"{textwrap.fill(_printable(shot.prompt), 30)}\n[{shot.kind}]"
            figure.text((_PROMPT_WIDTH - 8) / width, middle / height, text, ha="right", va="center", fontsize=7.5,
                        parse_math=False)  # fmt: skip
    return figure


def _sheet(gallery: Gallery, variant: str) -> Image.Image:
    if variant not in gallery.sheets:
        raise FastFluxError(f"The gallery {gallery.folder} has no sheet of {variant}; make it again from a whole run.")
    return gallery.sheet(variant)


def _broken(label: str, width: int) -> list[str]:
    """The label in lines of at most `width` characters, broken after hyphens where it has them."""
    lines = [""]
    for part in re.findall(r"[^-]+-?|-", label):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def _printable(prompt: str) -> str:
    """The prompt without control characters, which no font draws."""
    return "".join(character if character.isprintable() else " " for character in prompt)


def _tile(gallery: Gallery, sheet: Image.Image, index: int, edge: int, *, native: bool) -> NDArray[np.uint8]:
    """The shot, its longer side at `edge` pixels unless `native`, (h, w, 3)."""
    picture = sheet.crop(gallery.tile_box(index))
    if not native:
        factor = edge / max(picture.size)
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8)
