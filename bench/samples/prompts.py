"""Prompt sets: JSONL files read strictly, a line each, errors naming the line; GenEval's words for what is in them."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from bench.records.results import Data, read_data
from bench.settings import Batch, Guidance, Pixels, Seed, Steps, Text
from fastflux.calibration.prompts import read_json_lines
from fastflux.errors import FastFluxError, unknown_name
from fastflux.files import write_text

#: GenEval names three of them more plainly than COCO does ("computer mouse", "tv remote", "computer keyboard"), so a
#: detector's classes are taken by their number, never by their name.
COCO_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench"),
    *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    *("backpack", "umbrella", "handbag", "tie", "suitcase"),
    *("frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove"),
    *("skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    *("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    *("chair", "couch", "potted plant", "bed", "dining table", "toilet"),
    *("tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator"),
    *("book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)

Color = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"]
Task = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
Relation = Literal["left of", "right of", "above", "below"]
COLORS: tuple[str, ...] = get_args(Color)
TASKS: tuple[str, ...] = get_args(Task)
RELATIONS: tuple[str, ...] = get_args(Relation)


class Unwanted(Data, frozen=True):
    """So many objects of a class."""

    name: Text = msgspec.field(name="class")
    count: Annotated[int, msgspec.Meta(ge=1)]


class Wanted(Unwanted, frozen=True):
    """Objects of a color, or at a place relative to an earlier entry of the list."""

    color: Color | msgspec.UnsetType = msgspec.UNSET
    position: tuple[Relation, Annotated[int, msgspec.Meta(ge=0)]] | msgspec.UnsetType = msgspec.UNSET


class GenEvalMetadata(Data, frozen=True):
    """What a prompt asks for: all of `include`, none of `exclude`."""

    tag: Task
    include: Annotated[tuple[Wanted, ...], msgspec.Meta(min_length=1)]
    exclude: tuple[Unwanted, ...] = ()

    def __post_init__(self) -> None:
        for index, entry in enumerate(self.include):
            if entry.position is not msgspec.UNSET and entry.position[1] >= index:
                raise ValueError(f"include[{index}] lies relative to entry {entry.position[1]}, none before it")


class GenEvalLine(GenEvalMetadata, frozen=True, kw_only=True):
    """A line of GenEval's files; `id` is ours, which its evaluator carries along."""

    prompt: Text
    id: Annotated[str, msgspec.Meta(pattern="^[^./\0][^/\0]{0,99}$")] | msgspec.UnsetType = msgspec.UNSET


FILE_NAME = re.compile(r"[^/.\0][^/\0]{0,99}")
"""What can be an id, which names files."""
MOST_PROMPTS = 10**6
SETS = ("hps", "geneval", "calibration")


@dataclass(frozen=True)
class Prompt:
    """One prompt: `style` for HPS v2's styles, `metadata` in GenEval's scheme."""

    id: str
    set: str
    prompt: str
    style: str | None = None
    metadata: Mapping[str, Any] | None = None

    def line(self) -> str:
        """The prompt as a JSONL line, absent fields left out."""
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None})


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """All prompts of a file, in order.

    Raises FastFluxError that names file and line for a missing file, bad JSON, a missing or unknown field, or an id
    that occurs twice.
    """
    prompts: list[Prompt] = []
    seen: set[str] = set()
    for where, data in read_json_lines(path):
        prompt = _parse(data, where)
        if prompt.id in seen:
            raise FastFluxError(f"{where}: the id {prompt.id!r} occurs twice; ids name images, give another")
        seen.add(prompt.id)
        prompts.append(prompt)
    if not prompts:
        raise FastFluxError(f"{path} holds no prompts; give at least one line")
    return tuple(prompts)


def write_prompts(prompts: Iterable[Prompt], path: Path) -> None:
    """Write a file that `read_prompts` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(prompt.line() + "\n" for prompt in prompts))


def _parse(data: Any, where: str) -> Prompt:
    try:
        prompt = Prompt(**data)
    except TypeError as error:
        raise FastFluxError(f"{where}: not a prompt ({error}); expected {{'id', 'set', 'prompt', ...}}") from error
    if not all(isinstance(value, str) and value for value in (prompt.id, prompt.set, prompt.prompt)):
        raise FastFluxError(f"{where}: id, set and prompt must be non-empty texts")
    if not FILE_NAME.fullmatch(prompt.id):
        raise FastFluxError(f"{where}: the id {prompt.id!r} cannot name a file; use letters, digits, '-' and '_'")
    if prompt.set not in SETS:
        raise FastFluxError(f"{where}: set {prompt.set!r} is none of {', '.join(SETS)}")
    if prompt.set == "hps" and not prompt.style:
        raise FastFluxError(f"{where}: an hps prompt needs a style")
    if prompt.set == "geneval":
        read_data(GenEvalMetadata, prompt.metadata, f"{where}, metadata")
    return prompt


def require_limit(limit: int | None) -> None:
    """Raise FastFluxError for a limit that is no number of prompts of a style or task."""
    if limit is not None and not 1 <= limit <= MOST_PROMPTS:
        raise FastFluxError(
            f"--limit is {limit}, but it is the number of prompts of each style and task: 1 to {MOST_PROMPTS}."
        )


def limited(prompts: tuple[Prompt, ...], limit: int | None) -> tuple[Prompt, ...]:
    """The first `limit` prompts of every style and task, so that each keeps its share; all where `limit` is None."""
    require_limit(limit)
    if limit is None:
        return prompts
    counts: dict[tuple[str, str], int] = {}
    kept = []
    for prompt in prompts:
        group = (prompt.set, prompt.style or str((prompt.metadata or {}).get("tag")))
        counts[group] = counts.get(group, 0) + 1
        if counts[group] <= limit:
            kept.append(prompt)
    return tuple(kept)


def prompts_hash(prompts: tuple[Prompt, ...]) -> str:
    """16 hex digits that change with any prompt."""
    return hashlib.sha256("\n".join(prompt.line() for prompt in prompts).encode()).hexdigest()[:16]


class Sampling(Data, frozen=True):
    """Settings of drawing; `samples` images of each prompt, by prompt set."""

    height: Pixels
    width: Pixels
    steps: Steps
    guidance: Guidance
    seed: Seed
    batch: Batch
    samples: Mapping[str, Annotated[int, msgspec.Meta(ge=1, le=1000)]]

    def __post_init__(self) -> None:
        for name in self.samples:
            if name not in SETS:
                raise ValueError(str(unknown_name("prompt set of samples", name, SETS)))
