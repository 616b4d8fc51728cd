"""Grids of generated images: a prompt a row, a variant a column, the same seed along each row."""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from bench.records.variant_id import DENSE, EXTERNAL, FASTFLUX
from bench.tables import BY_LATENCY, RATIO
from fastflux.errors import FastFluxError
from reports.figures.gallery import SINGLE_REMOVALS, Gallery
from reports.figures.ranking import SINGLE, Ranking
from reports.figures.style import DOTS_PER_INCH, GREY, new_figure, style
from reports.grouping import pairs_of
from reports.rows import Row

REMOVALS_SHOWN = 4


@dataclass(frozen=True)
class Columns:
    """Columns that stand together under a heading ("" for none): variant by the label shown above it."""

    heading: str
    variants: Mapping[str, str]


@dataclass(frozen=True)
class Shown:
    """What grids are made from: the rows, the ranking of the blocks where there is one, the tolerance of a group."""

    rows: Sequence[Row]
    ranking: Ranking | None
    tolerance: float


@dataclass(frozen=True)
class Grid:
    """One grid: its title, the columns it finds in a gallery (none: it is not drawn), how many prompts it shows.

    `folder` is that of its gallery below the gallery of the records' variants.
    """

    title: str
    columns: Callable[[Shown, Gallery], tuple[Columns, ...]]
    prompts: int = 10  # four HPS styles and six GenEval tasks
    folder: str = ""


def _ratios(shown: Shown, gallery: Gallery) -> tuple[Columns, ...]:
    """The dense model, FastFLUX at every ratio, other models' images."""
    groups = [_columns("", shown.rows, gallery, (DENSE, FASTFLUX)), _columns("other models", shown.rows, gallery,
                                                                           (EXTERNAL,))]  # fmt: skip
    return _whole(groups) if len(groups[0].variants) > 1 else ()


def _latency_groups(shown: Shown, gallery: Gallery) -> tuple[Columns, ...]:
    """The dense model, then L1-norm pruning beside FastFLUX in each latency group of Table 1."""
    there = {row.variant: row for row in shown.rows if row.variant in gallery.sheets}
    pairs = [(pair.baseline, pair.candidate) for pair in pairs_of(shown.rows, BY_LATENCY, shown.tolerance).pairs]
    groups = [
        Columns(
            f"latency about {there[pair[0]].number(RATIO):.2f} of dense", {there[name].label: name for name in pair}
        )
        for pair in pairs
        if there.keys() >= set(pair)
    ]
    return _whole([_columns("", shown.rows, gallery, (DENSE,)), *groups]) if groups else ()


def _strategies(shown: Shown, gallery: Gallery) -> tuple[Columns, ...]:
    """The dense model, blocks removed, linear layers without training, the whole method; all at 10%."""
    names = {DENSE: "dense", "removal-10": "removed", "brll-10": "linear layer, w/o ST", "fastflux-10": "FastFLUX"}
    recorded = {row.variant for row in shown.rows} & gallery.sheets.keys()
    found = {label: variant for variant, label in names.items() if variant in recorded}
    return (Columns("", found),) if len(found) == len(names) else ()


def _removals(shown: Shown, gallery: Gallery) -> tuple[Columns, ...]:
    """The dense model, then without each of the blocks that matter most and of those that matter least."""
    if shown.ranking is None or not shown.ranking.is_of(shown.rows):
        return ()
    drawn = [str(entry["block"]) for entry in shown.ranking.blocks if str(entry["block"]) in gallery.sheets]
    least, most = drawn[:REMOVALS_SHOWN], drawn[::-1][:REMOVALS_SHOWN]
    if DENSE not in gallery.sheets or set(least) & set(most) or not least:
        return ()
    return (
        Columns("", {"dense": DENSE}),
        Columns("without one of the blocks that matter most", {_short(block): block for block in most}),
        Columns("without one of those that matter least", {_short(block): block for block in least}),
    )


def _short(block: str) -> str:
    stack, _, index = block.rpartition(".")
    return f"{'single' if stack == SINGLE else 'double'} {index}"


def _columns(heading: str, rows: Sequence[Row], gallery: Gallery, families: Sequence[str]) -> Columns:
    chosen = [row for row in rows if row.family in families and row.variant in gallery.sheets]
    return Columns(heading, {row.label: row.variant for row in chosen})


def _whole(groups: Sequence[Columns]) -> tuple[Columns, ...]:
    """The groups that have columns, where there are at least two columns to compare."""
    found = tuple(group for group in groups if group.variants)
    return found if len(list(chain.from_iterable(group.variants for group in found))) > 1 else ()


GRIDS: Mapping[str, Grid] = {
    "image_grid": Grid("same prompts and seeds along each row", _ratios),
    "latency_groups": Grid("FastFLUX beside L1-norm pruning of similar latency", _latency_groups),
    "replacement_strategies": Grid("what replaces the blocks, 10% of them", _strategies, prompts=4),
    "block_removals": Grid("one block removed at a time", _removals, prompts=4, folder=SINGLE_REMOVALS),
}


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
