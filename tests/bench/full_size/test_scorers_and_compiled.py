"""The stages of scorers and of compiled steps, each on what is quick to build."""

from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from bench.profiles.profile import load_profile
from bench.records.variant_id import DENSE
from bench.run.units import Budget, Store
from bench.studies.full_size import latency, scorers
from bench.studies.full_size.random_weights import Sizes, sizes_of
from bench.studies.full_size.workbench import Workbench
from tests.bench.full_size.tiny import TINY, add_tiny_clip


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    add_tiny_clip(tmp_path)
    profile = load_profile("flux-dev-random", TINY)
    return Workbench(profile, sizes_of(profile), "cpu", torch.float32, Store(tmp_path), Budget(None))


@pytest.mark.parametrize("name", ["hps", "clip_score", "geneval_colors", "inception"])
def test_a_scorers_images_a_second_are_those_of_its_seconds(bench: Workbench, name: str) -> None:
    (piece,) = scorers.pieces(bench, [name])
    (found,) = piece.make()["scorers"]
    assert found.status == "ok"
    seconds = sorted(found.samples["batch1/s"])
    assert found.values["batch1"] == pytest.approx(1 / seconds[1])
    assert found.settings["weights"] == "random"


def test_the_detector_is_mask2former_swin_s() -> None:
    with torch.device("meta"):
        from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

        default = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(num_labels=80))  # the defaults are Swin-S
    ours = scorers.random_detector(Sizes(), "meta").model
    assert {name: value.shape for name, value in ours.named_parameters()} == {
        name: value.shape for name, value in default.named_parameters()
    }


def test_random_scorers_are_the_same_for_the_same_seed(bench: Workbench) -> None:
    def feature(seed: int) -> Any:
        sizes = replace(bench.sizes, seed=seed)
        return scorers.RandomOpenClip(sizes.clip_architecture, sizes, "cpu", 1).text_features(["a star"])

    assert torch.equal(feature(0), feature(0))
    assert not torch.equal(feature(0), feature(1))


def test_compiled_steps_are_timed_beside_the_compiled_dense_one(bench: Workbench) -> None:
    pieces = latency.way_pieces(latency.COMPILED)(bench, ["32/fastflux-20"])
    (piece,) = pieces
    assert piece.names == ("32/fastflux-20",)
    results = piece.make()
    assert set(results) == {"dense", "fastflux-20"}
    for measurements in results.values():
        (found,) = measurements
        assert (found.status, found.info.name) == ("ok", "latency_32x32_compiled")
        assert found.settings["compiled"] is True
        assert found.settings["compile_backend"] == "eager"
    assert bench.dense._compiled_call_impl is None, "the dense model that all share stays eager"


def test_a_step_that_cannot_be_compiled_fails_alone(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    build = latency.build

    def planted(variant: Any, *rest: Any) -> Any:
        model = build(variant, *rest)
        if variant.id != DENSE:
            model.proj_out.register_forward_pre_hook(_out_of_memory)
        return model

    monkeypatch.setattr(latency, "build", planted)
    (piece,) = latency.way_pieces(latency.COMPILED)(bench, ["32/fastflux-20"])
    results = piece.make()
    assert results["dense"][0].status == "ok"
    assert results["fastflux-20"][0].status == "failed"
    assert "OutOfMemoryError" in results["fastflux-20"][0].reason


def _out_of_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.gpu
def test_a_cuda_graph_repeats_the_step(tmp_path: Path) -> None:
    profile = load_profile("flux-dev-random", TINY)
    bench = Workbench(profile, sizes_of(profile), "cuda", torch.float32, Store(tmp_path), Budget(None))
    (piece,) = latency.way_pieces(latency.GRAPHS)(bench, ["32/fastflux-20"])
    assert {name: found[0].status for name, found in piece.make().items()} == {"dense": "ok", "fastflux-20": "ok"}
