"""The parts that differ on a GPU; skipped where there is none."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.metrics.cost.latency import measure_latency
from bench.metrics.cost.memory import measure_memory
from bench.metrics.cost.timing import other_work
from bench.metrics.models.open_clip_model import OpenClipModel, OpenClipSpec
from bench.records.environment import describe_environment

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def linear_step(dim: int) -> tuple[nn.Module, Callable[[], object]]:
    model = nn.Linear(dim, dim, bias=False, device="cuda")
    x = torch.zeros(dim, dim, device="cuda")

    def step() -> None:
        with torch.no_grad():
            model(x)

    return model, step


def test_the_peak_is_the_allocators() -> None:
    model, step = linear_step(1024)
    found = measure_memory(model, step, device="cuda")
    assert found.settings["method"] == "torch.cuda.max_memory_allocated"
    assert found.values["peak_mib"] == pytest.approx(4 + 4, abs=0.1)


def test_a_step_is_timed_to_its_end() -> None:
    steps = {"dense": linear_step(64)[1], "slow": linear_step(8192)[1]}
    found = measure_latency(steps, warmup=3, rounds=15, seed=0, device="cuda")
    assert found["slow"].intervals["ratio_to_dense"][0] > 2
    assert found["slow"].settings["clock"] == "cuda_events"
    by_wall = measure_latency(steps, warmup=3, rounds=15, seed=0, device="cuda", clock=time.perf_counter)
    assert by_wall["slow"].values["median_ms"] == pytest.approx(found["slow"].values["median_ms"], rel=0.2)


def test_features_are_those_of_the_cpu(tiny_clip: Path) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
    here, there = (OpenClipModel(OpenClipSpec(f"local-dir:{tiny_clip}"), device) for device in ("cuda", "cpu"))
    assert torch.allclose(here.image_features(images), there.image_features(images), atol=1e-3)
    assert torch.allclose(here.text_features(["a star"]), there.text_features(["a star"]), atol=1e-3)


def test_the_gpu_is_named_and_described() -> None:
    assert describe_environment("cuda")["device"] == torch.cuda.get_device_name()
    gpu = describe_environment("cuda")["gpu"]
    assert isinstance(gpu, dict)
    assert {"driver", "power_limit_w", "sm_clock_max_mhz"} <= gpu.keys()
    assert other_work("cuda").text
