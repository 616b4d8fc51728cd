"""The prompts of a profile from whatever files hold them: our JSONL, HPDv2's benchmark, GenEval's metadata."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bench.samples.prompts import Prompt, read_prompts
from bench.samples.sampling import Sampling
from fastflux.errors import FastFluxError, unknown_name

KINDS = ("hpdv2", "geneval")


class PromptFiles(Protocol):
    """A profile, as far as its prompts go."""

    @property
    def name(self) -> str:
        """Of the profile, for errors."""

    @property
    def prompts(self) -> Sequence[str]:
        """The files, each with its kind before a colon unless it is of our own."""

    @property
    def sampling(self) -> Sampling:
        """How many images of each set's prompts are drawn."""


def read_all_prompts(profile: PromptFiles) -> tuple[Prompt, ...]:
    """All prompts of the profile in order: "hpdv2:FOLDER", "geneval:FILE", or a JSONL file of our own.

    Raises FastFluxError for files that are not there or faulty, and for an id that two files share.
    """
    prompts = tuple(prompt for text in profile.prompts for prompt in read_prompt_file(text))
    if uncounted := {prompt.set for prompt in prompts} - profile.sampling.samples.keys():
        name = min(uncounted)
        raise FastFluxError(
            f"{profile.name} has prompts of the set {name}, but no number of images: set sampling.samples.{name}."
        )
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise FastFluxError(f"two prompts of {profile.name} have the id {prompt.id!r}: ids name images")
        seen.add(prompt.id)
    return prompts


def read_prompt_file(text: str) -> tuple[Prompt, ...]:
    """The prompts that one entry of a profile's `prompts` names."""
    kind, colon, place = text.partition(":")
    if not colon or Path(text).is_absolute():
        return read_prompts(Path(text))
    if kind == "hpdv2":
        from bench.samples.hps_layout import read_benchmark_prompts

        return read_benchmark_prompts(Path(place))
    if kind == "geneval":
        from bench.samples.geneval_layout import read_metadata

        return read_metadata(Path(place))
    raise unknown_name("kind of prompt file", kind, KINDS)
