"""A grid of generated images: a prompt a row, a variant a column, the same seed along each row."""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fastflux.errors import FastFluxError
from reports.style import DOTS_PER_INCH, new_figure, style

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

DEFAULT_ROWS = 10  # four HPS styles and six GenEval tasks
_PROMPT_WIDTH, _HEADER_HEIGHT, _GAP = 210, 52, 4  # pixels
_CELL = 112


@dataclass(frozen=True)
class Shot:
    """One line of a manifest: the image file, its prompt and the seed it was drawn from."""

    file: Path
    prompt_id: str
    sample: int
    seed: int
    prompt: str
    kind: str  # HPS style or GenEval task: rows are spread over these


def read_manifest(path: Path) -> dict[tuple[str, int], Shot]:
    """A manifest.jsonl's lines by (prompt id, sample); raises FastFluxError naming the file and line of a bad one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FastFluxError(
            f"The manifest {path} cannot be read ({error.strerror}); generate the images of this variant."
        ) from error
    shots = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                entry = json.loads(line)
                kind = entry.get("style") or (entry.get("metadata") or {}).get("tag") or entry["set"]
                shot = Shot(
                    file=path.parent / entry["file"],
                    prompt_id=entry["prompt_id"],
                    sample=int(entry["sample"]),
                    seed=int(entry["seed"]),
                    prompt=entry["prompt"],
                    kind=f"{entry['set']} {kind}",
                )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise FastFluxError(
                    f"Line {number} of {path} is no image entry ({error!r}); generate the images of this variant again."
                ) from error
            shots[shot.prompt_id, shot.sample] = shot
    return shots


def pick_shots(shots: Mapping[tuple[str, int], Shot], count: int = DEFAULT_ROWS) -> list[tuple[str, int]]:
    """`count` images spread evenly over styles and tasks (the first of each, then the second), by kind."""
    kinds: dict[str, list[tuple[str, int]]] = {}
    for key in sorted(shots):
        kinds.setdefault(shots[key].kind, []).append(key)
    turns = max((len(keys) for keys in kinds.values()), default=0)
    order = [kinds[kind][turn] for turn in range(turns) for kind in sorted(kinds) if turn < len(kinds[kind])]
    # A second sample of a prompt shows less than another prompt would: so the first samples come first.
    chosen = sorted(order, key=lambda key: key[1])[:count]
    return sorted(chosen, key=lambda key: (shots[key].kind, key))


def image_grid(
    manifests: Mapping[str, Path],
    *,
    title: str = "",
    rows: int = DEFAULT_ROWS,
    prompts: Sequence[str] | None = None,
    cell: int = _CELL,
) -> Figure:
    """The grid of the variants in `manifests` (column label to manifest.jsonl) for `rows` prompts they all have.

    `prompts` chooses the prompt ids instead; `cell` is the edge of an image in pixels. Raises FastFluxError when the
    variants share no image, an image is unreadable or a row's seeds differ.
    """
    columns = {label: read_manifest(path) for label, path in manifests.items()}
    keys = _shared_keys(columns, rows, prompts)
    width = _PROMPT_WIDTH + len(columns) * (cell + _GAP)
    top = _HEADER_HEIGHT + (24 if title else 0)
    height = top + len(keys) * (cell + _GAP)
    figure = new_figure(width / DOTS_PER_INCH, height / DOTS_PER_INCH)
    with style():
        if title:
            figure.text(0.5, 1 - 6 / height, title, ha="center", va="top", fontsize=9.5)
        for column, (label, shots) in enumerate(columns.items()):
            left = _PROMPT_WIDTH + column * (cell + _GAP)
            centre = (left + cell / 2) / width
            heading = "\n".join(_broken(label, cell // 8))
            figure.text(
                centre, 1 - (top - 5) / height, heading, ha="center", va="bottom", fontsize=8, fontweight="bold"
            )
            for row, key in enumerate(keys):
                low = height - top - row * (cell + _GAP) - cell
                axes = figure.add_axes((left / width, low / height, cell / width, cell / height))
                axes.imshow(_scaled(shots[key].file, cell), interpolation="none")
                axes.set_axis_off()
        for row, key in enumerate(keys):
            shot = next(iter(columns.values()))[key]
            middle = height - top - row * (cell + _GAP) - cell / 2
            text = f"{textwrap.fill(shot.prompt, 30)}\n[{shot.kind}]"
            figure.text(
                (_PROMPT_WIDTH - 8) / width,
                middle / height,
                text,
                ha="right",
                va="center",
                fontsize=7.5,
                parse_math=False,
            )
    return figure


def _shared_keys(
    columns: Mapping[str, Mapping[tuple[str, int], Shot]], rows: int, prompts: Sequence[str] | None
) -> list[tuple[str, int]]:
    first = next(iter(columns.values()), {})
    shared = {key: shot for key, shot in first.items() if all(key in shots for shots in columns.values())}
    if prompts is not None:
        missing = sorted(set(prompts) - {prompt_id for prompt_id, _ in shared})
        if missing:
            raise FastFluxError(
                f"Not every variant has an image of the prompt {missing[0]}; generate it or choose another."
            )
        keys = [min(key for key in shared if key[0] == prompt_id) for prompt_id in prompts]
    else:
        keys = pick_shots(shared, rows)
    if not keys:
        raise FastFluxError(
            f"The variants {', '.join(columns) or '(none)'} share no image; generate them from one prompt set."
        )
    for key in keys:
        seeds = {label: shots[key].seed for label, shots in columns.items()}
        if len(set(seeds.values())) > 1:
            raise FastFluxError(
                f"The image {key[0]} sample {key[1]} has different seeds ({seeds}); "
                "generate all variants with the same ones."
            )
    return keys


def _broken(label: str, width: int) -> list[str]:
    """The label in lines of at most `width` characters, broken after hyphens where it has them."""
    lines = [""]
    for part in re.findall(r"[^-]+-?|-", label):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def _scaled(path: Path, edge: int) -> NDArray[np.uint8]:
    """The image with its longer side at `edge` pixels, (h, w, 3)."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise FastFluxError(f"The image {path} cannot be read ({error}); delete it and generate it again.") from error
    factor = edge / max(picture.size)
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    return np.asarray(picture.resize((size[0], size[1]), Image.Resampling.LANCZOS), dtype=np.uint8)
