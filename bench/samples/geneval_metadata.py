"""GenEval's metadata of a prompt, typed: what must be in a picture, in which number, color and place."""

from typing import Annotated

import msgspec

from bench.records.results import Data
from bench.samples.geneval_vocabulary import Color, Relation, Task
from bench.settings import Text


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
