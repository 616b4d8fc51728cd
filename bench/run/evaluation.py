"""What the stages of a run share: the profile's models, prompts and scorers, the runners, where files lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from msgspec import structs
from torch import nn

from bench.metrics.base import Metric, load_metric
from bench.metrics.catalogue import metric_named
from bench.metrics.cost.flops import PRUNING_COST
from bench.profiles.profile import Profile, read_all_prompts
from bench.profiles.variants import Variant, dense_of
from bench.records.environment import describe_environment
from bench.records.results import JSON
from bench.run.base_model import BaseModel
from bench.run.units import Runner, Store
from bench.samples.generate import MANIFEST
from bench.samples.image_set import ImageSet
from bench.samples.prompts import Prompt, Sampling, limited, prompts_hash
from fastflux.io.checkpoint import revision_of
from fastflux.methods.registry import settings_of, version_of
from fastflux.models.sizes import require_sizes


@dataclass
class Evaluation:
    """One profile measured into one folder: what the stages (prune, draw, score, measure) share.

    Args:
        models: folder of calibration and pruned models, which runs with fewer images can share; `folder` without one.
    """

    profile: Profile
    folder: Path
    variants: Sequence[Variant]
    limit: int | None = None
    device: str = "cpu"
    models: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    _bases: dict[str, BaseModel] = field(default_factory=dict)
    _paired: dict[tuple[str, str], Metric] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to the stage's."""
        began = monotonic()
        try:
            yield
        finally:
            self.add_seconds(stage, monotonic() - began)

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to what a stage took."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @property
    def on_cpu(self) -> bool:
        """Whether models compute on the cores of the machine."""
        return torch.device(self.device).type == "cpu"

    def variant(self, name: str) -> Variant:
        """The variant of that id."""
        return next(variant for variant in self.variants if variant.id == name)

    def dense(self, base: str) -> Variant:
        """The dense model of that name as a variant."""
        return dense_of(self.variants, base)

    @cached_property
    def runner(self) -> Runner:
        """Settles what belongs to this run alone: images, scores, times."""
        return Runner(Store(self.folder), lambda: self.environment)

    @cached_property
    def pruner(self) -> Runner:
        """Settles what runs with fewer images share: pruned models, and what they are found by."""
        return Runner(Store(self.models or self.folder), lambda: self.environment)

    @cached_property
    def sampling(self) -> Sampling:
        """The profile's sampling settings."""
        return self.profile.sampling

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts, or the first `limit` of each style and task."""
        return limited(read_all_prompts(self.profile), self.limit)

    @cached_property
    def prompts_hash(self) -> str:
        """Of all of them: every record has it."""
        return prompts_hash(self.prompts)

    @cached_property
    def main(self) -> BaseModel:
        """The profile's own dense model."""
        return self.base("")

    def base(self, name: str) -> BaseModel:
        """A dense model of the profile by name, "" for its own."""
        if name not in self._bases:
            store = (self.models or self.folder) / name
            self._bases[name] = BaseModel(self.profile.of(name), store, device=self.device)
        return self._bases[name]

    @cached_property
    def bases(self) -> tuple[str, ...]:
        """The names of the dense models of all variants."""
        return tuple(dict.fromkeys(variant.base for variant in self.variants))

    def require_inputs(self, *, here: bool = True) -> None:
        """Read or hash all files that the run will need, before the long work; `here` or by workers of their own."""
        _ = self.prompts, self.scorers_hashes
        if not all(self.record_path(variant).exists() for variant in self.variants):  # else all may be scored already
            _ = self.scorers if here else self._loaded_scorers("cpu")
        for name in self.bases:
            base = self.base(name)
            _ = base.folder, base.calibration_prompts, base.method_prompts
            require_sizes(base.outline, self.sampling.height, self.sampling.width, None)

    # -- what determines the numbers

    @cached_property
    def environment(self) -> dict[str, JSON]:
        """The machine and the libraries."""
        return describe_environment(self.device)

    def pruning_inputs(self, variant: Variant) -> dict[str, JSON]:
        """All that decides the pruned weights."""
        config, base = variant.config, self.base(variant.base)
        method = "" if config is None else config.method
        return {
            **base.method_inputs.get(method, base.calibration_inputs),
            "method": method,
            "version": 0 if config is None else version_of(config),
            "cost": PRUNING_COST.version,
            "config": {} if config is None else settings_of(config),
            **({} if variant.folder is None else {"weights": revision_of(variant.folder)}),
        }

    def sampling_record(self, variant: Variant) -> dict[str, JSON]:
        """What the record says of the sampling."""
        base = self.base(variant.base)
        settings = structs.asdict(base.profile.sampling)
        return {
            **settings,
            "samples": dict(settings["samples"]),
            "prompts": self.prompts_hash,
            "components": base.components_hash,
        }

    def step_settings(self) -> dict[str, JSON]:
        """What a step's time and memory depend on besides the model and the machine."""
        return {
            "height": self.sampling.height,
            "width": self.sampling.width,
            "batch": self.profile.latency.batch,
            "threads": torch.get_num_threads(),
            "dtype": self.profile.dtype,
            "compiled": False,
        }

    # -- files

    def place(self, variant: Variant) -> Path:
        """Folder of a variant's images."""
        return self.folder / variant.id

    def saved(self, variant: Variant) -> Path:
        """Folder of a pruned variant's transformer."""
        return variant.folder or (self.models or self.folder) / variant.id / "transformer"

    def record_path(self, variant: Variant) -> Path:
        """File of a variant's record."""
        return self.folder / "results" / f"{variant.id}.json"

    def images(self, variant: Variant) -> ImageSet:
        """The variant's images, which must be just those that the prompts ask for."""
        expected = {prompt.id: prompt.set for prompt in self.prompts}
        return ImageSet.read(self.place(variant) / MANIFEST).expecting(expected, self.sampling.samples)

    # -- scorers

    @cached_property
    def scorers(self) -> Mapping[str, Any]:
        """The profile's metrics of images and of pairs, loaded once.

        Raises FastFluxError for a file that is not set, not there or not what it should be.
        """
        return self._loaded_scorers(self.device)

    def _loaded_scorers(self, device: str) -> dict[str, Any]:
        return {name: load_metric(name, settings, device) for name, settings in self.profile.metrics.items()}

    @cached_property
    def scorers_hashes(self) -> Mapping[str, str]:
        """What defines the scores, by each metric and, by the name "", by all."""
        return self.profile.scorers_hashes()

    def scorer(self, variant: Variant, name: str) -> Metric:
        """The metric of that name; one of pairs compares with the images of the variant's dense model."""
        metric: Metric = self.scorers[name]
        if metric_named(name).measures == "images":
            return metric
        if (name, variant.base) not in self._paired:
            # One metric serves all variants of a base: it takes the features of the dense images once.
            self._paired[name, variant.base] = self.scorers[name].against(self.images(self.dense(variant.base)))
        return self._paired[name, variant.base]


@dataclass(frozen=True)
class ModelStep:
    """One transformer step without gradients."""

    model: nn.Module
    inputs: Mapping[str, Any]

    def __call__(self) -> None:
        """Run it."""
        with torch.inference_mode():
            self.model(**self.inputs)
