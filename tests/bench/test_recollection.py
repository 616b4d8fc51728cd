"""Collecting activations our way and as Algorithm 1 reads: the same weights from fewer forwards."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import experiments.recollection
from bench.profiles.profile import ROOT
from experiments.recollection import WholeForwards, compare
from fastflux.calibration.activations import ActivationStore
from fastflux.calibration.recording import BlockStates, record_inputs
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import revision_of
from fastflux.methods.sandwich_training import SandwichTrainingConfig
from fastflux.models.architecture import architecture_of
from tests.fastflux.conftest import make_tiny_flux, run, tiny_inputs
from tests.fastflux.tiny_pipeline import write_tiny_pipeline

SAMPLES = 20
CONFIG = SandwichTrainingConfig(blocks=3, ranking="random", samples=SAMPLES, steps=1, rank=2, batch=4)


def drive_of(transformer: nn.Module) -> Any:
    return lambda: [run(transformer, tiny_inputs(transformer, seed, batch=8)) for seed in range(3)] and None


@pytest.mark.parametrize("activations", ["ram", "disk"])
def test_both_ways_give_the_same_bits_and_the_naive_runs_more(activations: str) -> None:
    found: Any = compare(make_tiny_flux, drive_of, CONFIG, batch_size=8, keep=4, activations=activations)
    assert found["largest_difference"] == 0.0
    assert found["naive"]["full_forwards"] == 2 * SAMPLES * 3, "twice for each block"
    assert found["naive"]["block_forwards"] == 6 * found["naive"]["full_forwards"]
    assert found["ours"]["block_forwards"] < found["naive"]["block_forwards"] / 2
    assert found["ratio"]["block_forwards"] == found["naive"]["block_forwards"] / found["ours"]["block_forwards"]
    assert found["naive"]["activation_bytes"] < found["ours"]["activation_bytes"], "it keeps nothing between blocks"
    assert len(found["settings"]["blocks"]) == 3
    json.dumps(found)


def test_whole_forwards_keep_nothing_and_see_the_same() -> None:
    transformer = make_tiny_flux()
    inputs = record_inputs(transformer, drive_of(transformer), samples=SAMPLES)
    blocks = architecture_of(transformer).blocks(transformer)[2:4]
    with ActivationStore() as store:
        naive = WholeForwards(transformer, inputs, 8, store=store)
        assert store.bytes_held == 0
        ours = BlockStates(transformer, inputs, 8)
        seen: dict[str, list[Any]] = {"ours": [], "naive": []}
        for name, states in (("ours", ours), ("naive", naive)):
            before = states.before(blocks[0])
            after = states.through(before, blocks, lambda *what, name=name: seen[name].append(what))
            seen[name] += [*before, *after]
        assert len(seen["ours"]) == len(seen["naive"]) == 3 * 2 + 3 + 3
        for one, other in zip(seen["ours"], seen["naive"], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(_tensors(one), _tensors(other), strict=True))


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value if isinstance(part, tuple | torch.Tensor) for tensor in _tensors(part)]


def test_a_way_that_collects_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = WholeForwards._forwards

    def wrong(self: WholeForwards, *arguments: Any) -> Any:
        return ((image + 0.1, text) for image, text in plain(self, *arguments))

    monkeypatch.setattr(WholeForwards, "_forwards", wrong)
    found = compare(make_tiny_flux, drive_of, CONFIG, batch_size=8, keep=4)
    assert isinstance(found["largest_difference"], float)
    assert found["largest_difference"] > 0


def test_too_many_blocks_are_refused_before_the_work() -> None:
    with pytest.raises(FastFluxError, match="All 6 blocks would be replaced"):
        compare(make_tiny_flux, None, SandwichTrainingConfig(blocks=6), batch_size=8, keep=4)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_profiles_own_order_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments.recollection, "RUNS", tmp_path / "runs")
    prompts = (ROOT / "prompts/shapes/calibration.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "prompts.jsonl").write_text("".join(prompts[:4]))
    write_tiny_pipeline(tmp_path / "pipeline")
    order = [f"{kind}transformer_blocks.{index}" for kind, count in (("single_", 4), ("", 2)) for index in range(count)]
    inputs = {"revision": revision_of(tmp_path / "pipeline" / "transformer")}
    (tmp_path / "order.json").write_text(json.dumps({"inputs": inputs, "blocks": [{"block": name} for name in order]}))
    short = tmp_path / "shapes.toml"
    short.write_text(
        'extends = "shapes"\npipeline = "pipeline"\ncalibration_prompts = "prompts.jsonl"\n[calibration]\nsteps = 2\n'
        '[methods]\nlinear_replacement.ranking = "order.json"\nblock_removal.ranking = "order.json"\n'
        'sandwich_training = { ranking = "order.json", rank = 2 }\n'
    )
    record: Any = experiments.recollection.recollection(str(short), blocks=2, samples=4)
    assert record["largest_difference"] == 0.0
    assert record["naive"]["full_forwards"] == 2 * 4 * 2
    assert record["settings"]["blocks"] == order[:2]
    json.dumps(record)
