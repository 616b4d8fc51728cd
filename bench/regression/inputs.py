"""What a regression suite is made of: its settings, the profile cut to its size, models that were pruned elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from bench.profiles.profile import LatencySettings, Profile
from bench.records.variant_id import DENSE
from bench.regression.verdicts import SCORES
from bench.samples.prompts import Prompt
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import read_json, require_weights
from fastflux.io.pipelines import INDEX

VARIANTS = ("fastflux-10", "fastflux-20", "l1-21")


@dataclass(frozen=True)
class Suite:
    """What to measure: `limit` prompts of each style and task, at most `samples` images of each.

    Latency is timed in `rounds` interleaved rounds, and in as many again, up to `most_rounds`, while that leaves a
    check undecided, on at most `latency_batch` pictures: many short steps in turn part the models better than few long
    ones, since the machine changes between them. A CPU computes with `threads` threads whatever its number of cores:
    the same bits, and room for other work. `models` are transformers that were pruned elsewhere, by name; then no
    `variants` are pruned here.
    """

    profile: str = "shapes"
    variants: tuple[str, ...] = VARIANTS
    models: Mapping[str, Path] = field(default_factory=dict)
    limit: int = 16
    samples: int = 2
    rounds: int = 60
    most_rounds: int = 240
    latency_batch: int = 8
    threads: int = 1

    @classmethod
    def of(
        cls, profile: str, variants: Sequence[str] | None, models: Mapping[str, Path], *, limit: int, rounds: int
    ) -> Suite:
        """The suite that a command line asks for; raises FastFluxError for numbers below 1, and for both kinds."""
        if min(rounds, limit) < 1:
            raise FastFluxError(f"--rounds is {rounds} and --limit {limit}: give at least 1")
        if models and variants:
            raise FastFluxError("give --model or --variants, not both")
        return cls(profile, tuple(variants or VARIANTS), models, limit, rounds=rounds, most_rounds=4 * rounds)

    @property
    def profile_name(self) -> str:
        """The profile's name, also of one that is given as a file."""
        return Path(self.profile).stem if self.profile.endswith(".toml") else self.profile

    @property
    def names(self) -> tuple[str, ...]:
        """What is compared besides the dense model."""
        return tuple(self.models) or self.variants


def named_models(options: Sequence[str]) -> dict[str, Path]:
    """Folders by name, of NAME=DIR or folders that give their own; raises FastFluxError for names that cannot be."""
    found: dict[str, Path] = {}
    for text in options:
        name, equals, folder = text.partition("=")
        if not equals:
            name, folder = Path(text).resolve().name, text
        if not folder or not re.fullmatch(r"[\w.-]+", name) or name in found or name == DENSE:
            raise FastFluxError(
                f"--model {text}: give [NAME=]DIR, each a name of its own of letters, digits, '-', '_' and '.', "
                f"and none {DENSE}"
            )
        found[name] = Path(folder)
    return found


def transformer_folder(path: Path) -> Path:
    """The transformer's folder of an exported pipeline, or the folder itself; checked, as absolute path."""
    folder = path / "transformer" if (path / INDEX).is_file() else path
    read_json(folder / "config.json")
    require_weights(folder)
    return folder.resolve()


def require_base(name: str, folder: Path, revision: str) -> None:
    """Raise FastFluxError for a model whose plan names another dense model than the profile's."""
    plan = read_json(folder / "config.json").get("pruning_plan") or {}
    made_from = plan.get("base_revision") or revision
    if made_from != revision:
        raise FastFluxError(
            f"{name} was pruned from the weights {made_from}, but the profile's dense model is {revision}: "
            "name its base by --set pipeline=FOLDER."
        )


def reduced(profile: Profile, suite: Suite) -> Profile:
    """The profile with the suite's number of images, and the metrics that score every image."""
    samples = {name: min(count, suite.samples) for name, count in profile.sampling.samples.items()}
    scored = {score.name for score in SCORES}
    latency = profile.latency
    return replace(
        profile,
        sampling=replace(profile.sampling, samples=samples),
        metrics={name: settings for name, settings in profile.metrics.items() if name in scored},
        latency=LatencySettings(latency.warmup, suite.rounds, min(latency.batch, suite.latency_batch)),
    )


def one_of_each(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The first prompt of each HPS style, or of each set where there is none."""
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        first.setdefault(prompt.style or prompt.set, prompt)
    return list(first.values())
