"""What the regression checks measure: a small fixed suite of a profile, drawn, scored and timed afresh in every run.

Only pruned models are kept between runs, as long as nothing they come from has changed, fastflux's own code included.
"""

import hashlib
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace
from torch import nn

import fastflux
from bench.metrics.cost.flops import measure_flops, measure_parameters
from bench.metrics.cost.latency import LATENCY, latency_of
from bench.metrics.cost.memory import measure_memory
from bench.metrics.cost.timing import Step, interleave, step_timer
from bench.profiles.profile import load_profile
from bench.profiles.variants import Variant, chosen_variants, require_current_rankings
from bench.records.environment import describe_environment, git_commit, sha256_of_sources
from bench.records.results import JSON, Measurement, RunRecord, digest
from bench.records.variant_id import DENSE, VariantId
from bench.regression import yardstick
from bench.regression.baseline import KINDS, Snapshot
from bench.regression.inputs import VARIANTS, Suite, one_of_each, reduced, require_base, transformer_folder
from bench.regression.yardstick import Yardstick
from bench.run import prune, score
from bench.run.base_model import BaseModel
from bench.run.evaluate import settle_here
from bench.run.evaluation import Evaluation, ModelStep
from bench.run.score import new_record
from bench.samples.generate import jobs_of
from bench.samples.prompts import Prompt
from bench.tables import needed_by
from fastflux.calibration.statistics import Calibration
from fastflux.errors import FastFluxError
from fastflux.methods.registry import PruningConfig
from fastflux.models.sizes import drawing_sizes
from fastflux.models.surgery import hidden_size
from fastflux.pruning import prune_

#: The pruning in closed form whose pictures are hashed beside the dense model's.
FITTED = "brll-10"
_YARDSTICK = "yardstick"
_KEPT_MODELS = 2
_YARDSTICK_LAYERS = 38


class SuiteRun:
    """One suite on one machine, measured below `folder`; `changes` to the profile as for `load_profile`.

    Raises FastFluxError for names that there are not, and for a model of another base or that cannot be read.
    """

    def __init__(
        self, suite: Suite, folder: Path, *, device: str | None = None, changes: Mapping[str, str] | None = None
    ) -> None:
        self.suite, self.folder = suite, folder
        whole = load_profile(suite.profile, changes)
        self.device = whole.device_for(device)
        self.profile = reduced(whole, suite)
        self.evaluation = self._evaluation()
        self.yardstick_ms: list[float] = []
        self.times: dict[str, list[float]] = {}
        self.clock = ""

    def _evaluation(self) -> Evaluation:
        models = {name: transformer_folder(path) for name, path in self.suite.models.items()}
        chosen = chosen_variants(self.profile, needed_by(()), [DENSE] if models else self.suite.variants)
        chosen += tuple(Variant(VariantId(name), name, None, folder=path) for name, path in models.items())
        if others := [variant.id for variant in chosen if variant.base or variant.as_fast_as]:
            raise FastFluxError(
                f"{others[0]} is no variant for regression checks: choose such as {', '.join(VARIANTS)}."
            )
        evaluation = Evaluation(
            self.profile, self.folder / "run", chosen, limit=self.suite.limit, device=self.device,
            models=self.folder / f"models-{self._code}",
        )  # fmt: skip
        evaluation.require_inputs()
        for name, path in models.items():
            require_base(name, path, evaluation.main.revision)
        if not models:
            require_current_rankings(self.profile, evaluation.main.revision)
        return evaluation

    @cached_property
    def _code(self) -> str:
        """Of all that decides pruned weights besides what `Evaluation` notes: our code, the libraries, the machine."""
        sources = sha256_of_sources(Path(fastflux.__file__).parent)
        machine = describe_environment(self.device)
        return digest([sources, machine["libraries"], machine["device"], self.suite.threads])[:8]

    @property
    def description(self) -> dict[str, JSON]:
        """The suite as the snapshot holds it."""
        suite = self.suite
        return {
            "profile": suite.profile_name,
            "variants": list(suite.names),
            "limit": suite.limit,
            "samples": suite.samples,
            "threads": suite.threads if self._on_cpu else 0,
            "latency_batch": self.profile.latency.batch,
            "yardstick": yardstick.VERSION,
        }

    @property
    def dense_record(self) -> RunRecord:
        """The dense model's record before anything is measured: what a baseline must agree with."""
        return new_record(self.evaluation, self.evaluation.variants[0])

    @property
    def _on_cpu(self) -> bool:
        return torch.device(self.device).type == "cpu"

    @property
    def is_pruned(self) -> bool:
        """Whether all pruned models are there already."""
        evaluation = self.evaluation
        return all(
            prune.is_pruned(evaluation, variant) for variant in evaluation.variants if variant.config is not None
        )

    # -- stages

    def prune(self, *, force: bool = False) -> None:
        """Prune what is not there yet; with `force` everything."""
        if force:
            shutil.rmtree(self.folder / f"models-{self._code}", ignore_errors=True)
        # Images and figures of an earlier run, perhaps of other code, are no part of this one's.
        shutil.rmtree(self.evaluation.folder, ignore_errors=True)
        settle_here(self.evaluation, "prune")
        # Newest last, so that going back and forth between two states of the code prunes nothing twice.
        earlier = sorted(self.folder.glob("models-*"), key=lambda path: path.stat().st_mtime)
        for path in earlier[:-_KEPT_MODELS]:
            if path.name != f"models-{self._code}":
                shutil.rmtree(path, ignore_errors=True)

    def score(self) -> None:
        """Draw and score all images."""
        settle_here(self.evaluation, "draw", "score")

    @cached_property
    def models(self) -> dict[str, nn.Module]:
        """All models by variant, the dense one first."""
        evaluation = self.evaluation
        if "pipeline" in vars(evaluation.main):  # else the last model drawn with would lie in memory twice
            evaluation.main.pipeline.transformer = None
        return {variant.id: prune.transformer(evaluation, variant).eval() for variant in evaluation.variants}

    def time(self, rounds: int) -> None:
        """Time so many rounds of all models and the yardstick, beside those of earlier calls."""
        base = self.evaluation.main
        dense = self.models[DENSE]
        batch = self.profile.latency.batch
        inputs = base.step_inputs(dense, batch)
        steps: dict[str, Step] = {name: ModelStep(model, inputs) for name, model in self.models.items()}
        tokens = inputs["hidden_states"].shape[1] + inputs["encoder_hidden_states"].shape[1]
        steps[_YARDSTICK] = Yardstick(batch, tokens, hidden_size(dense), _YARDSTICK_LAYERS, self.device, base.dtype)
        # One thread's own time; a GPU's is told by its events.
        clock = OwnTime() if self._on_cpu and self.suite.threads == 1 else None
        self.clock, timer = step_timer(self.device, clock)
        with self.evaluation.timed("latency"):
            measured = interleave(
                steps, timer, warmup=1 if self.times else self.profile.latency.warmup, rounds=rounds,
                seed=self.profile.sampling.seed + len(self.yardstick_ms),
            )  # fmt: skip
        if measured.faults:
            name, fault = next(iter(measured.faults.items()))
            raise FastFluxError(f"{name} cannot be timed: {fault}")
        times = dict(measured.times)
        self.yardstick_ms += times.pop(_YARDSTICK)
        for name, values in times.items():
            self.times.setdefault(name, []).extend(values)

    def snapshot(self, kinds: Collection[str] = KINDS) -> Snapshot:
        """Everything measured, with what the kinds of checks "cost" (FLOPs, parameters, memory) and "render" need."""
        with self.evaluation.timed("cost"):
            records = self._records(cost="cost" in kinds)
        with self.evaluation.timed("render"):
            render = self._render() if "render" in kinds and self._on_cpu else {}
        return Snapshot(
            suite=self.description,
            records=records,
            yardstick_ms=tuple(self.yardstick_ms),
            render=render,
            commit=git_commit(Path.cwd()),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds={stage: round(seconds, 1) for stage, seconds in self.evaluation.seconds.items()},
        )

    def with_times(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with the times as they are now."""
        records = tuple(record.with_measurement(self._latency(record.variant)) for record in snapshot.records)
        return replace(snapshot, records=records, yardstick_ms=tuple(self.yardstick_ms))

    def _latency(self, variant: str) -> Measurement:
        settings: dict[str, JSON] = {
            "batch": self.profile.latency.batch,
            "threads": torch.get_num_threads(),
            "rounds": len(self.yardstick_ms),
            "clock": self.clock,
            "order": "all variants and the yardstick in each round, shuffled",
        }
        return latency_of(LATENCY, self.times[variant], self.times[DENSE], settings)

    def _records(self, *, cost: bool) -> tuple[RunRecord, ...]:
        evaluation, records = self.evaluation, []
        for variant in evaluation.variants:
            scored = [evaluation.runner.find(score.STAGE, unit) for unit in score.units(evaluation, variant)]
            measurements = [
                *(measurement for done in scored if done is not None for measurement in done.results[variant.id]),
                *(self._costs(variant) if cost else ()),
                *((self._latency(variant.id),) if self.times else ()),
            ]
            empty = new_record(evaluation, variant)
            records.append(empty.finished(measurements, empty.environment, empty.created))
        return tuple(records)

    def _costs(self, variant: Variant) -> tuple[Measurement, ...]:
        evaluation, model, dense = self.evaluation, self.models[variant.id], self.models[DENSE]
        inputs = evaluation.main.step_inputs(dense, self.profile.latency.batch)
        single = evaluation.main.step_inputs(dense, 1)
        saved = evaluation.main.folder / "transformer" if variant.is_dense else evaluation.saved(variant)
        return (
            measure_flops(model, single),
            measure_parameters(model, checkpoint=saved),
            measure_memory(model, ModelStep(model, inputs), device=self.device),
        )

    def _render(self) -> dict[str, dict[str, str]]:
        """Of the dense model, and of one pruned in closed form or of the models given."""
        base = self.evaluation.main
        models: dict[str, nn.Module] = {DENSE: self.models[DENSE]}
        if self.suite.models:
            models |= {name: self.models[name] for name in self.suite.models}
        else:
            variant = chosen_variants(self.profile, needed_by(()), [FITTED])[-1]
            if variant.config is not None:
                models[FITTED] = fitted(base, variant.config)
        return render_hashes(base, models, one_of_each(self.evaluation.prompts))


_SCHEDSTAT = Path("/proc/thread-self/schedstat")


class OwnTime:
    """Seconds since some moment, less those that this thread was ready to run and had to wait for a core.

    Waiting for anything else (a sleep, a file) counts, so that no slowness of the code's own is lost. Linux tells the
    waiting of one thread: it fits steps that one thread computes. Where it does not, this is ``time.perf_counter``.
    Source: https://docs.kernel.org/scheduler/sched-stats.html, "/proc/<pid>/schedstat".
    """

    def __init__(self, schedstat: Path = _SCHEDSTAT) -> None:
        self.schedstat = schedstat
        self.__name__ = "perf_counter" if self._waited() is None else "perf_counter less waiting for a core"

    def __call__(self) -> float:
        """Now."""
        return time.perf_counter() - (self._waited() or 0.0)

    def _waited(self) -> float | None:
        try:
            return int(self.schedstat.read_text(encoding="ascii").split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return None


CALIBRATION_PROMPTS = 8
"""A fit on these costs a second; its bits are what counts, not its quality."""


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads: sums come out the same whatever the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fitted(base: BaseModel, config: PruningConfig) -> nn.Module:
    """The dense model pruned in closed form on the first calibration prompts: no training, so exact to the bit."""
    model = base.dense()
    base.pipeline.transformer = model
    prune_(model, config, Calibration(base.drive_on(base.calibration_prompts[:CALIBRATION_PROMPTS])))
    return model.eval()


def render_hashes(
    base: BaseModel, models: Mapping[str, nn.Module], prompts: Sequence[Prompt]
) -> dict[str, dict[str, str]]:
    """SHA-256 of the pixels of one picture of each prompt, by model and prompt id, drawn by one thread."""
    sampling = replace(base.profile.sampling, samples={prompt.set: 1 for prompt in prompts})
    jobs = jobs_of(tuple(prompts), sampling)
    found: dict[str, dict[str, str]] = {}
    for name, model in models.items():
        base.pipeline.transformer = model
        with threads(1):
            drawn: Any = base.pipeline(
                prompt=[job.prompt.prompt for job in jobs],
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                **drawing_sizes(base.pipeline, sampling.height, sampling.width),
                generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
                output_type="pil",
            )
        pixels = [np.asarray(image.convert("RGB")) for image in drawn.images]
        found[name] = {
            job.prompt.id: hashlib.sha256(array.tobytes()).hexdigest() for job, array in zip(jobs, pixels, strict=True)
        }
    return found
