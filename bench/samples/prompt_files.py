"""The prompts of a profile from whatever files hold them: our JSONL, HPDv2's benchmark, GenEval's metadata."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.samples.prompts import Prompt, read_prompts
from fastflux.errors import FastFluxError, unknown_name

if TYPE_CHECKING:
    from bench.profiles.profile import Profile

KINDS = ("hpdv2", "geneval")


def read_all_prompts(profile: Profile) -> tuple[Prompt, ...]:
    """All prompts of the profile in order: "hpdv2:FOLDER", "geneval:FILE", or a JSONL file of our own.

    Raises FastFluxError for files that are not there or faulty, and for an id that two files share.
    """
    prompts = tuple(prompt for text in profile.prompts for prompt in read_prompt_file(text, profile))
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise FastFluxError(f"two prompts of {profile.name} have the id {prompt.id!r}: ids name images")
        seen.add(prompt.id)
    return prompts


def read_prompt_file(text: str, profile: Profile) -> tuple[Prompt, ...]:
    """The prompts that one entry of `Profile.prompts` names."""
    kind, colon, place = text.partition(":")
    if not colon or Path(text).is_absolute():
        return read_prompts(profile.path(text))
    if kind == "hpdv2":
        from bench.samples.hps_layout import read_benchmark_prompts

        return read_benchmark_prompts(profile.path(place))
    if kind == "geneval":
        from bench.samples.geneval_layout import read_metadata

        return read_metadata(profile.path(place))
    raise unknown_name("kind of prompt file", kind, KINDS)
