"""Whole pipeline calls of tiny pipelines: what is drawn, timed and refused, and the memory of the stages."""

import copy
import mmap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.metrics.cost import memory
from bench.metrics.cost.end_to_end import PipelineCall, measure_end_to_end
from bench.metrics.cost.memory import STAGES, measure_stage_memory, others_bytes, stage_peaks
from bench.records.results import Measurement
from fastflux.errors import FastFluxError
from fastflux.io.pipelines import load_pipeline
from tests.fastflux.conftest import make_replaced_flux, make_tiny_flux
from tests.fastflux.tiny_pipeline import write_tiny_pipeline


@pytest.fixture(scope="module", params=["flux", "sd3"])
def any_pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(tmp_path_factory.mktemp("flux"), "flux")


def loaded(folder: Path, family: str) -> Any:
    write_tiny_pipeline(folder / "tiny", family)
    pipeline: Any = load_pipeline(folder / "tiny")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def call_of(pipeline: Any, transformer: nn.Module | None = None, **changes: Any) -> PipelineCall:
    asked: dict[str, Any] = {"prompts": ("a red star", "a blue ring"), "steps": 2, "guidance": 3.0, **changes}
    return PipelineCall(pipeline, transformer or pipeline.transformer, **asked)


def measured(calls: dict[str, PipelineCall], **options: Any) -> dict[str, Measurement]:
    asked: dict[str, Any] = {"warmup": 1, "rounds": 6, "seed": 0, "clock": time.perf_counter, **options}
    return measure_end_to_end(calls, **asked)


def test_a_call_draws_with_its_own_transformer_and_puts_the_pipelines_back(pipeline: Any) -> None:
    own, pruned = pipeline.transformer, make_replaced_flux([0, 1, 2])
    dense = call_of(pipeline)()
    assert [picture.size for picture in dense] == [(32, 32)] * 2
    other = call_of(pipeline, pruned)()
    assert pipeline.transformer is own
    again = call_of(pipeline)()
    assert all(np.array_equal(a, b) for a, b in zip(dense, again, strict=True)), "seeds are the call's"
    assert not all(np.array_equal(a, b) for a, b in zip(dense, other, strict=True))


def test_calls_of_both_families_are_timed(any_pipeline: Any) -> None:
    found = measured({"dense": call_of(any_pipeline)})["dense"]
    assert (found.info.name, found.status) == ("latency_end_to_end", "ok")
    values = found.values
    assert values["ratio_to_dense"] == 1
    assert values["p50_ms"] <= values["p90_ms"] <= values["p99_ms"]
    assert values["per_image_ms"] == values["median_ms"] / 2
    assert len(found.samples["ms"]) == 6
    settings = {key: found.settings[key] for key in ("batch", "steps", "height", "width", "dtype", "compiled", "clock")}
    assert settings == {
        "batch": 2, "steps": 2, "height": 32, "width": 32, "dtype": "float32", "compiled": False,
        "clock": "perf_counter",
    }  # fmt: skip


def failing() -> nn.Module:
    model: nn.Module = make_tiny_flux()

    def forward(**_: Any) -> None:
        raise RuntimeError("out of memory")

    model.forward = forward  # type: ignore[method-assign]
    return model


def test_a_call_that_raises_fails_alone(pipeline: Any) -> None:
    own = pipeline.transformer
    found = measured({"dense": call_of(pipeline), "broken": call_of(pipeline, failing())}, rounds=2)
    assert found["dense"].status == "ok"
    assert (found["broken"].status, found["broken"].reason) == ("failed", "RuntimeError in round 0: out of memory")
    assert pipeline.transformer is own
    taken = measure_stage_memory(call_of(pipeline, failing()))
    assert (taken.status, taken.reason) == ("failed", "RuntimeError: out of memory")


def test_what_cannot_be_drawn_or_compared_is_refused(pipeline: Any) -> None:
    for nothing in ({"prompts": ()}, {"steps": 0}):
        with pytest.raises(FastFluxError, match="expected at least 1 of each"):
            call_of(pipeline, **nothing)
    with pytest.raises(FastFluxError, match="height is 40"):
        call_of(pipeline, height=40)
    dense = call_of(pipeline)
    with pytest.raises(FastFluxError, match="'other' and 'dense' differ in steps"):
        measured({"dense": dense, "other": replace(dense, steps=3)})
    with pytest.raises(FastFluxError, match="differ in prompts"):
        measured({"dense": dense, "other": replace(dense, prompts=("a red star", "a red ring"))})
    with pytest.raises(FastFluxError, match="rounds is 0"):
        measured({"dense": dense}, rounds=0)
    with pytest.raises(FastFluxError, match="no step of the baseline"):
        measured({"other": dense})


class Meter:
    """Stands in for `PeakMemory`: counts what is drawn in MiB, in the order of the stages."""

    made = 0

    def __init__(self, device: str) -> None:
        type(self).made += 1
        self.number = type(self).made

    def read(self) -> int | None:
        return 2**20 * self.number


def test_each_stage_has_its_peak(any_pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PeakMemory", Meter)
    monkeypatch.setattr(Meter, "made", 0)
    call = call_of(any_pipeline)
    assert stage_peaks(call, "cpu") == {stage: 2**20 * (place + 1) for place, stage in enumerate(STAGES)}
    assert "encode_prompt" not in vars(any_pipeline)
    assert "decode" not in vars(any_pipeline.vae)
    monkeypatch.setattr(Meter, "made", 0)
    found = measure_stage_memory(call, settings={"note": 1})
    assert found.values == {"text_encoding_mib": 1, "denoising_mib": 2, "decoding_mib": 3, "peak_mib": 3}
    assert found.settings["method"] == "peak resident size of the process"
    assert found.settings["note"] == 1


def test_models_of_others_are_no_part_of_a_calls_memory(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    call = call_of(pipeline)
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    own = sum(tensor.nbytes for part in parts for tensor in (*part.parameters(), *part.buffers()))
    assert others_bytes(call, own + 1000, "cpu") == 1000
    assert others_bytes(call, 1000, "cuda") == 1000, "weights elsewhere take nothing of the device"
    twin = replace(call, transformer=copy.deepcopy(pipeline.transformer))
    assert others_bytes(twin, own + 1000, "cpu") == 1000, "its own transformer counts, not the pipeline's"

    # As on a GPU, where the counter has all models of the process.
    monkeypatch.setattr(memory, "PeakMemory", Meter)
    monkeypatch.setattr(Meter, "made", 0)
    monkeypatch.setattr(memory, "stage_peaks", lambda *_: dict.fromkeys(STAGES, 70 * 2**20))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 50 * 2**20)
    found = measure_stage_memory(call, device="cuda")
    assert found.values["peak_mib"] == 20.0, "50 of 70 MiB are no weights of this pipeline, whose own lie on the CPU"


def test_what_the_system_does_not_tell_is_a_failure(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PeakMemory", Meter)
    monkeypatch.setattr(Meter, "read", lambda self: None)
    found = measure_stage_memory(call_of(pipeline))
    assert found.status == "failed"
    assert found.reason == "this system does not tell the peak memory of text_encoding, denoising, decoding"


def test_a_stage_that_takes_memory_shows_it(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = measure_stage_memory(call_of(pipeline))
    if calm.status != "ok":
        pytest.skip(calm.reason)
    decode = pipeline.vae.decode

    def wasteful(*arguments: Any, **options: Any) -> Any:
        with mmap.mmap(-1, 256 * 2**20) as large:  # which the system gets back, whatever malloc is told to keep
            for _ in range(256):
                large.write(b"1" * 2**20)
        return decode(*arguments, **options)

    monkeypatch.setattr(pipeline.vae, "decode", wasteful)
    found = measure_stage_memory(call_of(pipeline)).values
    # The first call, which does not count, has given its memory back before the second begins.
    assert found["decoding_mib"] > found["denoising_mib"] + 200
    assert found["peak_mib"] == found["decoding_mib"]
