"""The stages of a run, each skipping what is done with the same inputs: calibrate, prune, generate, score, measure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from msgspec.structs import replace
from torch import nn

from bench.metrics.base import Metric, load_object
from bench.metrics.cost.end_to_end import LATENCY_END_TO_END as CALL
from bench.metrics.cost.end_to_end import PipelineCall, measure_end_to_end
from bench.metrics.cost.flops import FLOPS, PARAMETERS, count_flops, measure_flops, measure_parameters
from bench.metrics.cost.latency import LATENCY, measure_latency
from bench.metrics.cost.latency_search import EqualLatency
from bench.metrics.cost.memory import MEMORY, measure_memory
from bench.metrics.cost.pruning_cost import PRUNING_COST, measure_pruning_cost
from bench.profiles.profile import Profile, Sampling
from bench.profiles.variants import Variant, with_ratio
from bench.progress import Ticks, console, track
from bench.records.environment import describe_environment, device_name
from bench.records.results import JSON, Measurement, RecordError, RunRecord, digest
from bench.run.base_model import BaseModel
from bench.run.equal_latency import solve_equal_latency
from bench.samples.generate import MANIFEST, generate, is_done, jobs_of
from bench.samples.image_set import ImageSet
from bench.samples.prompt_files import read_all_prompts
from bench.samples.prompts import Prompt, limited, prompts_hash
from fastflux.calibration.statistics import Calibration
from fastflux.cost import PruningCost
from fastflux.errors import FastFluxError
from fastflux.files import write_text
from fastflux.io.checkpoint import read_json, revision_of, save_transformer
from fastflux.methods.registry import version_of
from fastflux.pruning import prune_

PRUNING_NOTE = "pruning.json"
COST = "cost.json"
EQUAL = "equal_latency.json"
#: How the latency of a variant is brought to that of the one it is to be as fast as: within 2%, by long measurements.
EQUAL_SEARCH: Mapping[str, Any] = {"tolerance": 0.02, "rounds": 30, "final_rounds": 100, "candidates": 6}
#: Versions of the image metrics, known without loading a scorer.
IMAGE_METRICS = {"hps": "1", "geneval": "1", "clip_score": "1", "fid": "2", "retrieval": "1"}
PAIRED = {"paired": "1"}
STEP_METRICS = {info.name: info.version for info in (FLOPS, PARAMETERS, MEMORY, LATENCY, PRUNING_COST)}


@dataclass
class Evaluation:
    """One profile measured into one folder; every method can be called again at no cost once its work is done."""

    profile: Profile
    folder: Path
    variants: Sequence[Variant]
    limit: int | None = None
    force: bool = False
    device: str = "cpu"
    models: Path | None = None
    """Folder of calibration and pruned models, which runs with fewer images can share; `folder` without one."""
    seconds: dict[str, float] = field(default_factory=dict)
    worked: bool = False
    """Whether anything had to be made or measured."""
    _bases: dict[str, BaseModel] = field(default_factory=dict)
    _paired: dict[str, Metric] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to the stage's."""
        began = monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + monotonic() - began

    @cached_property
    def sampling(self) -> Sampling:
        """The profile's sampling settings."""
        return self.profile.sampling

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts, or the first `limit` of each style and task."""
        return limited(read_all_prompts(self.profile), self.limit)

    @cached_property
    def main(self) -> BaseModel:
        """The profile's own dense model."""
        return self.base("")

    def base(self, name: str) -> BaseModel:
        """A dense model of the profile by name, "" for its own."""
        if name not in self._bases:
            profile = self.profile.of(name)
            self._bases[name] = BaseModel(profile, self._models / name, device=self.device, force=self.force)
        return self._bases[name]

    @cached_property
    def environment(self) -> dict[str, JSON]:
        """The machine and the libraries."""
        return describe_environment(self.device)

    def place(self, variant: Variant) -> Path:
        """Folder of a variant's files."""
        return self.folder / variant.id

    def pruned_place(self, variant: Variant) -> Path:
        """Folder of a variant's transformer and the note of what it was made from."""
        return self._models / variant.id

    @property
    def _models(self) -> Path:
        return self.models or self.folder

    def record_path(self, variant: Variant) -> Path:
        """File of a variant's record."""
        return self.folder / "results" / f"{variant.id}.json"

    # -- prune

    def transformer(self, variant: Variant) -> nn.Module:
        """The variant's transformer, pruned and saved the first time, loaded afterwards."""
        base = self.base(variant.base)
        if variant.is_dense:
            return base.dense()
        if variant.config is None or self.is_pruned(variant):
            return base.load(self.saved(variant))
        self.worked = True
        calibration = base.calibration() if variant.config.needs_statistics else Calibration()
        model = base.dense()
        base.pipeline.transformer = model  # whose forwards the calibration records
        (self.pruned_place(variant) / PRUNING_NOTE).unlink(missing_ok=True)  # it would speak of what is written over
        prune_(model, variant.config, calibration, base_model=base.profile.title, base_revision=base.revision)
        save_transformer(model, self.saved(variant), overwrite=True)
        cost = json.dumps(asdict(calibration.cost), indent=1) + "\n"
        write_text(self.pruned_place(variant) / COST, cost)
        write_text(self.pruned_place(variant) / PRUNING_NOTE, self._pruning_note(variant))
        return model.eval()

    def saved(self, variant: Variant) -> Path:
        """Folder of a pruned variant's transformer."""
        return variant.folder or self.pruned_place(variant) / "transformer"

    def _plan(self, variant: Variant) -> dict[str, JSON] | None:
        """The variant's plan as its saved config holds it; None for the dense model, and where that holds none."""
        if variant.folder is not None:
            own: dict[str, JSON] | None = read_json(self.saved(variant) / "config.json").get("pruning_plan")
            return own
        if variant.config is None:
            return None
        if not self.is_pruned(variant):
            self.transformer(variant)
        plan: dict[str, JSON] = read_json(self.saved(variant) / "config.json")["pruning_plan"]
        return plan

    def _cost(self, variant: Variant) -> PruningCost | None:
        """What pruning the variant took, None for the dense model and for one pruned elsewhere."""
        if variant.config is None:
            return None
        return PruningCost(**read_json(self.pruned_place(variant) / COST))

    def is_pruned(self, variant: Variant) -> bool:
        """Whether the variant's transformer lies there, made from the present inputs."""
        note = self.pruned_place(variant) / PRUNING_NOTE
        files = (self.saved(variant) / "config.json", self.pruned_place(variant) / COST, note)
        there = all(file.exists() for file in files)
        return there and note.read_text(encoding="utf-8") == self._pruning_note(variant)

    def _pruning_note(self, variant: Variant) -> str:
        return json.dumps(self._pruning_inputs(variant), indent=1, sort_keys=True)

    def _pruning_inputs(self, variant: Variant) -> dict[str, JSON]:
        """All that decides the pruned weights."""
        config = variant.config
        return {
            **self.base(variant.base).calibration_inputs,
            "method": "" if config is None else config.method,
            "version": 0 if config is None else version_of(config),
            "cost": PRUNING_COST.version,
            "config": {} if config is None else asdict(config),  # type: ignore[call-overload]  # configs are dataclasses
            **({} if variant.folder is None else {"weights": revision_of(variant.folder)}),
        }

    def prune(self) -> None:
        """Make every pruned variant; those that are to be as fast as another one come after it."""
        self.require_inputs()
        if self.force:  # or the progress of an earlier run would stand for this one
            for name in {variant.base for variant in self.variants}:
                shutil.rmtree(self.base(name).progress, ignore_errors=True)
        pruned = [variant for variant in self.variants if variant.config is not None]
        with self.timed("prune"):
            for variant in track(sorted(pruned, key=lambda item: bool(item.as_fast_as)), "prune", total=len(pruned)):
                if self.force:
                    (self.pruned_place(variant) / PRUNING_NOTE).unlink(missing_ok=True)
                met = self._met(variant)
                if not self.is_pruned(met):
                    self.transformer(met)

    def require_inputs(self) -> None:
        """Read or hash all files that the run will need, before the long work."""
        _ = self.prompts, self.scorers_hash
        if self.profile.scorer_settings:  # files that its user gave, which only the scorers can judge
            _ = self.scorers
        for name in {variant.base for variant in self.variants}:
            base = self.base(name)
            _ = base.folder, base.calibration_prompts

    def _met(self, variant: Variant) -> Variant:
        """The variant with the ratio at which its measured latency meets that of `as_fast_as`, which it keeps."""
        if not variant.as_fast_as:
            return variant
        target = next(item for item in self.variants if item.id == variant.as_fast_as)
        base = self.base(variant.base)
        inputs: dict[str, JSON] = {
            "target": self._pruning_inputs(target),
            "device": device_name(self.device),
            "step": self._step_settings(),
            **EQUAL_SEARCH,
        }
        note = self.pruned_place(variant) / EQUAL
        found = read_json(note) if note.exists() and not self.force else {}
        if found.get("inputs") != json.loads(json.dumps(inputs)):
            self.worked = True
            console.print(f"search the ratio of {variant.id} at the latency of {target.label}")
            fast = self.transformer(target).eval()
            inputs_of_step = base.step_inputs(fast, self.profile.latency.batch)
            equal = solve_equal_latency(
                base.dense(),
                ModelStep(fast, inputs_of_step),
                inputs_of_step,
                **EQUAL_SEARCH,
                device=self.device,
                progress=lambda line: console.print(line, markup=False),
            )
            console.print(str(equal), markup=False)
            found = {"inputs": inputs, "found": json.loads(equal.to_json())}
            note.parent.mkdir(parents=True, exist_ok=True)
            write_text(note, json.dumps(found, indent=1) + "\n")
        equal = EqualLatency.from_json(json.dumps(found["found"]), str(note))
        met = with_ratio(variant, equal.ratio, target)
        self.variants = [met if item.id == variant.id else item for item in self.variants]
        return met

    # -- generate and score

    def generate(self) -> None:
        """Draw the images of every variant."""
        total = len(jobs_of(self.prompts, self.sampling))
        with self.timed("generate"):
            for variant in self.variants:
                revision = self.base(variant.base).revision
                inputs = self._sampling_record(variant) | {
                    "revision": revision,
                    "pruning": self._pruning_inputs(variant),
                }
                if self.force:
                    (self.place(variant) / MANIFEST).unlink(missing_ok=True)
                if not is_done(self.prompts, self.sampling, self.place(variant), inputs):
                    self._draw(variant, inputs, total)

    def _draw(self, variant: Variant, inputs: Mapping[str, JSON], total: int) -> None:
        self.worked = True
        base = self.base(variant.base)
        base.pipeline.transformer = self.transformer(variant)
        ticks = Ticks(total, f"generate {variant.label}")
        generate(base.pipeline, self.prompts, base.profile.sampling, self.place(variant), inputs, ticks.advance)
        ticks.close()

    def _sampling_record(self, variant: Variant) -> dict[str, JSON]:
        """What the record says of the sampling."""
        base = self.base(variant.base)
        settings = asdict(base.profile.sampling)
        return {
            **settings,
            "samples": dict(settings["samples"]),
            "prompts": prompts_hash(self.prompts),
            "components": base.components_hash,
        }

    @cached_property
    def scorers(self) -> tuple[Metric, ...]:
        """The profile's image metrics, loaded once."""
        make = load_object(self.profile.scorers)
        scorers: tuple[Metric, ...] = make(self.device, **self.profile.scorer_settings)
        if absent := sorted(set(self.profile.metrics) - {metric.info.name for metric in scorers}):
            raise FastFluxError(
                f"{self.profile.name} measures {absent[0]}, but its scorers lack it: give its weights by "
                f"--set scorer_settings.{absent[0]}=PATH (see bench/profiles/{self.profile.name}.toml)"
            )
        return tuple(metric for metric in scorers if metric.info.name in self.profile.metrics)

    @cached_property
    def scorers_hash(self) -> str:
        """16 hex digits of the weights that score; raises FastFluxError for a file that is not there."""
        return self.profile.scorers_hash()

    def new_record(self, variant: Variant) -> RunRecord:
        """A record of the variant without measurements."""
        return RunRecord(
            profile=self.profile.name,
            variant=variant.id,
            label=variant.label,
            plan=self._plan(variant),
            base_model=self.base(variant.base).profile.title,
            base_revision=self.base(variant.base).revision,
            environment=self.environment,
            sampling=self._sampling_record(variant),
            measurements=(),
            created=_now(),
            inputs={
                "pruning": digest(self._pruning_inputs(variant)),
                "scorers": self.scorers_hash,
                "device": torch.device(self.device).type,
            },
        )

    def _stamped(self, record: RunRecord) -> RunRecord:
        """The record with the commit, the device and the date of what is about to be added."""
        return replace(record, environment=self.environment, created=_now())

    def record(self, variant: Variant) -> RunRecord:
        """The variant's record as far as it goes; begun anew when anything that determines its numbers has changed."""
        fresh = self.new_record(variant)
        path = self.record_path(variant)
        if not path.exists():
            return fresh
        try:
            earlier = RunRecord.read(path)
        except RecordError as error:
            console.print(f"{error}; it is measured again")
            return fresh
        if earlier.key == fresh.key:
            return earlier
        aside = path.parent / "superseded" / f"{variant.id}-{earlier.key}.json"
        aside.parent.mkdir(parents=True, exist_ok=True)
        path.replace(aside)
        return fresh

    def score(self) -> None:
        """Score the images of every variant with every metric that its record lacks."""
        with self.timed("score"):
            for variant in track(self.variants, "score", total=len(self.variants)):
                record = self.record(variant)
                images: ImageSet | None = None
                for metric in [*self._missing(record), *self._missing_paired(variant, record)]:
                    self.worked = True
                    images = images or self._images(variant)
                    record = self._stamped(record).with_measurement(metric(images))
                    record.write(self.record_path(variant))

    def _images(self, variant: Variant) -> ImageSet:
        """The variant's images, which must be just those that the prompts ask for."""
        expected = {prompt.id: prompt.set for prompt in self.prompts}
        return ImageSet.read(self.place(variant) / MANIFEST).expecting(expected, self.sampling.samples)

    def _missing(self, record: RunRecord) -> list[Metric]:
        """Metrics whose measurement is absent, failed or of another version."""
        if not self.force and _has(record, {name: IMAGE_METRICS[name] for name in self.profile.metrics}):
            return []  # without loading a single scorer
        return [m for m in self.scorers if self.force or not _has(record, {m.info.name: m.info.version})]

    def _missing_paired(self, variant: Variant, record: RunRecord) -> list[Metric]:
        """The metric that pairs a pruned variant's images with the dense model's, unless it is there."""
        if not self.profile.paired or variant.is_dense or (not self.force and _has(record, PAIRED)):
            return []
        if variant.base not in self._paired:
            dense = next(item for item in self.variants if item.is_dense and item.base == variant.base)
            make = load_object(self.profile.paired)
            # One metric serves all variants of a base: it takes the features of the dense images once.
            self._paired[variant.base] = make(self._images(dense), self.device, **self.profile.scorer_settings)
        return [self._paired[variant.base]]

    # -- measure

    def measure(self) -> None:
        """FLOPs, parameters, memory, and the latency of all variants of a dense model interleaved in one run."""
        with self.timed("measure"):
            for name in dict.fromkeys(variant.base for variant in self.variants):
                self._measure(self.base(name), [variant for variant in self.variants if variant.base == name])

    def _step_settings(self) -> dict[str, JSON]:
        """What a step's time and memory depend on besides the model and the machine."""
        return {
            "height": self.sampling.height,
            "width": self.sampling.width,
            "batch": self.profile.latency.batch,
            "threads": torch.get_num_threads(),
            "dtype": self.profile.dtype,
            "compiled": False,
        }

    def _measure(self, base: BaseModel, variants: Sequence[Variant]) -> None:
        """The variants of one dense model, which is among them."""
        records = {variant.id: self.record(variant) for variant in variants}
        settings = self._step_settings()
        latency = self.profile.latency
        asked = {**settings, "warmup": latency.warmup, "rounds": latency.rounds}
        wanted = STEP_METRICS | ({CALL.name: CALL.version} if latency.end_to_end else {})
        whole = all(_has(record, wanted) for record in records.values())
        if whole and _one_latency_run(records.values(), asked) and not self.force:
            return
        self.worked = True
        # Ratios are good within one run only: its time tells it from others.
        run: dict[str, JSON] = {**settings, "run": datetime.now(UTC).isoformat(timespec="seconds")}
        for place, group in enumerate(_groups(variants, latency.together)):
            self._measure_together(base, group, records, run, first=place == 0)

    def _measure_together(
        self,
        base: BaseModel,
        variants: Sequence[Variant],
        records: Mapping[str, RunRecord],
        run: Mapping[str, JSON],
        *,
        first: bool,
    ) -> None:
        """Measure variants of which the first is the dense model, all in memory at once, and write their records.

        The dense model's own record is that of the `first` group.
        """
        baseline = variants[0].id
        models = {variant.id: self.transformer(variant).eval() for variant in variants}
        dense = models[baseline]
        latency = self.profile.latency
        inputs, single = base.step_inputs(dense, latency.batch), base.step_inputs(dense, 1)
        dense_flops = count_flops(dense, single)
        dense_total = sum(p.numel() for p in dense.parameters())
        steps = {name: ModelStep(model, inputs) for name, model in models.items()}
        console.print(f"measure one step of {len(steps)} variants, {latency.rounds} interleaved rounds")
        times = measure_latency(
            steps,
            warmup=latency.warmup,
            rounds=latency.rounds,
            seed=self.sampling.seed,
            baseline=baseline,
            device=self.device,
            settings=run,
        )
        calls = self._time_calls(base, models, run) if latency.end_to_end else {}
        for variant in variants if first else variants[1:]:
            model = models[variant.id]
            record = self._stamped(records[variant.id])
            for measurement in (
                measure_flops(model, single, dense_forward=dense_flops),
                measure_parameters(model, dense_total=dense_total),
                measure_memory(model, steps[variant.id], device=self.device, settings=self._step_settings()),
                times[variant.id],
                measure_pruning_cost(self._cost(variant)),
                *([calls[variant.id]] if calls else []),
            ):
                record = record.with_measurement(measurement)
            record.write(self.record_path(variant))

    def _time_calls(
        self, base: BaseModel, models: Mapping[str, nn.Module], run: Mapping[str, JSON]
    ) -> dict[str, Measurement]:
        """Whole pipeline calls of models in turn, the dense one first, on the first prompts."""
        latency = self.profile.latency
        calls = self.calls(base, models, latency.batch)
        console.print(f"measure one call of {len(calls)} variants, {latency.end_to_end} interleaved rounds")
        return measure_end_to_end(
            calls,
            warmup=1,
            rounds=latency.end_to_end,
            seed=self.sampling.seed,
            baseline=next(iter(models)),
            device=self.device,
            settings={"run": run["run"]},
        )

    def calls(self, base: BaseModel, models: Mapping[str, nn.Module], batch: int) -> dict[str, PipelineCall]:
        """By variant, a pipeline call that draws the first `batch` prompts; alike but for the transformer."""
        sampling = base.profile.sampling
        prompts = tuple(prompt.prompt for prompt in (self.prompts * batch)[:batch])
        return {
            name: PipelineCall(
                base.pipeline, model, prompts, sampling.steps, sampling.guidance, sampling.height, sampling.width
            )
            for name, model in models.items()
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _groups(variants: Sequence[Variant], together: int) -> list[list[Variant]]:
    """The variants in groups of at most `together` (0: all), the dense model first in each."""
    dense = [variant for variant in variants if variant.is_dense]
    pruned = [variant for variant in variants if not variant.is_dense]
    size = together - 1 if together > 1 else max(1, len(pruned))
    return [dense + pruned[start : start + size] for start in range(0, max(1, len(pruned)), size)]


@dataclass(frozen=True)
class ModelStep:
    """One transformer step without gradients."""

    model: nn.Module
    inputs: Mapping[str, Any]

    def __call__(self) -> None:
        """Run it."""
        with torch.inference_mode():
            self.model(**self.inputs)


def _has(record: RunRecord, versions: Mapping[str, str]) -> bool:
    """Whether the record has all these metrics in these versions; failed ones do not count."""
    found = {m.info.name: m.info.version for m in record.measurements if m.status != "failed"}
    return versions.items() <= found.items()


def _one_latency_run(records: Iterable[RunRecord], asked: Mapping[str, JSON]) -> bool:
    """Whether all latencies come from one interleaved run with the settings asked for."""
    runs = set()
    for record in records:
        measurement = record.measurement("latency")
        if (
            measurement is None
            or "run" not in measurement.settings
            or not asked.items() <= measurement.settings.items()
        ):
            return False
        runs.add(measurement.settings["run"])
    return len(runs) == 1
