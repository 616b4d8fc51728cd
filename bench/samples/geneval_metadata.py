"""GenEval's metadata: what a prompt asks its pictures to show, read strictly, since whoever asks nothing is right."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bench.records.results import Data
from bench.samples.geneval_vocabulary import COLORS, RELATIONS, TASKS, Color, Relation, Task
from fastflux.errors import FastFluxError, unknown_name


class Objects(Data, frozen=True, rename={"name": "class"}):
    """So many objects of a class."""

    name: Annotated[str, Meta(min_length=1)]
    count: Annotated[int, Meta(ge=1)]


class AskedObjects(Objects, frozen=True):
    """Objects there must be, of a color, or in a relation to those of an earlier entry, by its number."""

    color: Color | msgspec.UnsetType = msgspec.UNSET
    position: tuple[Relation, Annotated[int, Meta(ge=0)]] | msgspec.UnsetType = msgspec.UNSET


class Metadata(Data, frozen=True):
    """A prompt's task, the objects there must be, and those of which there must be fewer."""

    tag: Task
    include: Annotated[tuple[AskedObjects, ...], Meta(min_length=1)]
    exclude: tuple[Objects, ...] = ()

    def __post_init__(self) -> None:
        for index, entry in enumerate(self.include):
            if entry.position and entry.position[1] >= index:
                raise ValueError(
                    f"include[{index}] lies relative to entry {entry.position[1]}, which is none before it"
                )


class MetadataLine(Metadata, frozen=True, kw_only=True):
    """A line of GenEval's metadata file; `id` is ours, carried along by its evaluator."""

    prompt: Annotated[str, Meta(min_length=1)]
    id: Annotated[str, Meta(pattern=r"^[^./][^/]*$")] | msgspec.UnsetType = msgspec.UNSET


def require_geneval(data: object, where: str, kind: type[Metadata] = Metadata) -> None:
    """Raise FastFluxError that names `where`, and the place in `data` that is not as GenEval has it."""
    try:
        msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise FastFluxError(
            f"{where}, metadata of GenEval: {error}; its tasks are {', '.join(TASKS)}, its colors "
            f"{', '.join(COLORS)}, its relations {', '.join(RELATIONS)}."
        ) from error


def require_classes(prompts: Iterable[tuple[str, Any]], classes: Collection[str]) -> None:
    """Raise FastFluxError that names the first class which the detector does not know, and the prompt that asks for it.

    Args:
        prompts: ids with their metadata.
        classes: of the detector.
    """
    for identity, metadata in prompts:
        for entry in (*metadata["include"], *metadata.get("exclude", ())):
            if entry["class"] not in classes:
                raise FastFluxError(f"{identity}: {unknown_name('class of the detector', entry['class'], classes)}")
