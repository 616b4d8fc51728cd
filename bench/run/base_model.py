"""A dense pipeline that variants are made of: checked, hashed, loaded once, and run on the calibration prompts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import asdict
from torch import Tensor, nn

from bench.profiles.profile import Profile
from bench.progress import console
from bench.records.environment import sha256_of
from bench.records.results import JSON, digest
from bench.run.units import Results, Runner, Store, Unit
from bench.samples.prompts import Prompt, prompts_hash, read_prompts
from fastflux.calibration.fingerprints import collect_in_parts
from fastflux.calibration.recording import RecordedInputs
from fastflux.calibration.statistics import Calibration, Statistics, load_statistics, save_statistics
from fastflux.calibration.trajectories import Trajectories
from fastflux.io.checkpoint import is_hub_id, load_transformer, local_pipeline, read_json, revision_of
from fastflux.io.pipelines import INDEX, check_pipeline, load_outline, load_pipeline
from fastflux.models.architecture import example_inputs
from fastflux.models.sizes import sequence_length

CALIBRATION = "calibration"
PARTS = 8
"""Of the calibration, each kept when it is done until all are."""


@dataclass
class BaseModel:
    """The dense model of a profile; what is computed from it for all variants is kept below `store`."""

    profile: Profile
    store: Path
    device: str = "cpu"
    _recorded: dict[str, dict[tuple[int, int], RecordedInputs]] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        """The pipeline's folder, checked: missing or truncated weights are an error before the long work."""
        folder = Path(self.profile.pipeline)
        if not folder.exists() and is_hub_id(self.profile.pipeline):
            folder = local_pipeline(Path(self.profile.pipeline))
        check_pipeline(folder)
        return folder

    @cached_property
    def dtype(self) -> torch.dtype:
        """The number format of the models."""
        dtype: torch.dtype = getattr(torch, self.profile.dtype)
        return dtype

    @cached_property
    def revision(self) -> str:
        """Hash of the dense transformer's weights."""
        return revision_of(self.folder / "transformer")

    @cached_property
    def components_hash(self) -> str:
        """Hash of text encoders, VAE, tokenizers and scheduler: they shape the images as the transformer does."""
        parts = [name for name, entry in read_json(self.folder / INDEX).items() if isinstance(entry, list) and entry[0]]
        hashes = [sha256_of(self.folder / name) for name in sorted(parts) if name != "transformer"]
        return digest([*sorted(parts), *hashes])

    @cached_property
    def pipeline(self) -> Any:
        """The dense pipeline, loaded once; variants take its transformer's place."""
        pipeline: Any = load_pipeline(self.folder, dtype=self.dtype, device=self.device)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @cached_property
    def outline(self) -> Any:
        """The pipeline without weights: what its sizes and FLOPs can be told from."""
        return load_outline(self.folder)

    def dense(self) -> nn.Module:
        """The dense transformer, loaded afresh."""
        return self.load(self.folder / "transformer")

    def load(self, folder: Path) -> nn.Module:
        """A transformer, dense or pruned, from its folder."""
        return load_transformer(folder, dtype=self.dtype, device=self.device)

    def step_inputs(self, transformer: nn.Module, batch: int) -> dict[str, Tensor]:
        """Arguments of one step on `batch` pictures of the profile's size."""
        sampling = self.profile.sampling
        return example_inputs(
            transformer,
            batch,
            sampling.height,
            sampling.width,
            sequence_length(self.outline),
            torch.Generator().manual_seed(sampling.seed),
            device=next(transformer.parameters()).device,
            dtype=self.dtype,
        )

    # -- calibration

    @cached_property
    def calibration_prompts(self) -> tuple[Prompt, ...]:
        """The prompts whose trajectories calibrate the pruning methods."""
        return read_prompts(Path(self.profile.calibration_prompts))

    @cached_property
    def method_prompts(self) -> Mapping[str, tuple[Prompt, ...]]:
        """The calibration prompts of the pruning methods that have their own."""
        return {method: read_prompts(Path(path)) for method, path in self.profile.method_prompts.items()}

    @cached_property
    def method_inputs(self) -> Mapping[str, Mapping[str, JSON]]:
        """`calibration_inputs` of the pruning methods that have prompts of their own."""
        return {
            method: {**self.calibration_inputs, "calibration_prompts": prompts_hash(own)}
            for method, own in self.method_prompts.items()
        }

    @cached_property
    def calibration_inputs(self) -> Mapping[str, JSON]:
        """All that decides the calibration data."""
        return {
            "revision": self.revision,
            "components": self.components_hash,
            "calibration": asdict(self.profile.calibration),
            "size": [self.profile.sampling.height, self.profile.sampling.width],
            "calibration_prompts": prompts_hash(self.calibration_prompts),
        }

    @cached_property
    def drive(self) -> Trajectories:
        """Samples the calibration prompts with the pipeline's present transformer."""
        return self.drive_on(self.calibration_prompts)

    def drive_on(self, prompts: Sequence[Prompt]) -> Trajectories:
        """Samples these prompts as it does the calibration's."""
        settings = self.profile.calibration
        return Trajectories(
            self.pipeline,
            [prompt.prompt for prompt in prompts],
            steps=settings.steps,
            guidance=settings.guidance,
            batch_size=settings.batch,
            height=self.profile.sampling.height,
            width=self.profile.sampling.width,
            seed=settings.seed,
        )

    @property
    def weights_bytes(self) -> int:
        """Of all files of weights in the pipeline's folder."""
        return sum(path.stat().st_size for path in self.folder.rglob("*.safetensors"))

    @cached_property
    def statistics(self) -> Statistics:
        """Least-squares statistics of all blocks from one pass over the calibration prompts; kept on disk."""
        self.runner.settle(CALIBRATION, self.calibration_unit)
        return load_statistics(*self.calibration_unit.files)

    @cached_property
    def runner(self) -> Runner:
        """Settles what is computed from the dense model for all variants."""
        return Runner(Store(self.store), dict)

    @cached_property
    def calibration_unit(self) -> Unit:
        """The pass over the calibration prompts."""
        path = self.store / f"calibration-{digest(self.calibration_inputs)}.safetensors"
        return Unit({path.stem: self.calibration_inputs}, partial(self._collect, path), files=(path,))

    def _collect(self, path: Path) -> Results:
        console.print(f"calibrate on {len(self.calibration_prompts)} prompts x {self.profile.calibration.steps} steps")
        dense = self.dense()
        self.pipeline.transformer = dense
        every = -(-len(self.calibration_prompts) // PARTS)
        save_statistics(collect_in_parts(dense, self.drive, self.progress, every=every), path)
        for part in self.progress.glob("statistics-*.safetensors"):
            part.unlink()
        return {}

    def forget(self) -> None:
        """Let the calibration and all pruning begin anew."""
        self.runner.store.forget(CALIBRATION, lambda _: True)
        shutil.rmtree(self.progress, ignore_errors=True)

    @property
    def progress(self) -> Path:
        """Folder of the pruning methods' progress."""
        return self.store / "progress"

    def calibration(self, method: str = "") -> Calibration:
        """What a pruning method may learn of the model, with a folder for its progress."""
        own = self.method_prompts.get(method)
        drive, statistics = (self.drive, self.statistics) if own is None else (self.drive_on(own), None)
        recorded = self._recorded.setdefault("" if own is None else method, {})
        return _Recorded(drive, statistics, self.progress, self.profile.calibration.batch, recorded=recorded)


@dataclass
class _Recorded(Calibration):
    """Calibration whose samples are recorded once for all variants that this process prunes."""

    recorded: dict[tuple[int, int], RecordedInputs] = field(default_factory=dict)

    def inputs(self, transformer: nn.Module, samples: int, seed: int) -> RecordedInputs:
        """Recorded inputs of the dense transformer, which is the same for all."""
        if (key := (samples, seed)) not in self.recorded:
            self.recorded[key] = super().inputs(transformer, samples, seed)
        return self.recorded[key]
