"""Sublayer replacement: the choice keeps its budget and is the best one; each step brings the model nearer."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from bench.metrics.cost.flops import count_flops
from fastflux.calibration.statistics import Calibration
from fastflux.calibration.trajectories import Trajectories
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import load_transformer, save_transformer
from fastflux.io.pipelines import load_pipeline
from fastflux.methods.sublayer_replacement import SublayerReplacementConfig, search
from fastflux.methods.sublayer_replacement.search import Option, choose
from fastflux.models.offload import offload_blocks_
from fastflux.models.pruned import plan_of
from fastflux.plan import REPLACEMENT_KINDS, BlockRef, Replacement
from fastflux.pruning import prune_
from tests.fastflux.conftest import Drive, Make, harm, make_tiny_flux, run, tiny_inputs

SETTINGS: dict[str, Any] = {"flops": 0.8, "samples": 32, "scored": 8, "trajectories": 0, "steps": 0}


def pruned(make: Make, drive: Drive, offload: bool = False, **settings: Any) -> tuple[Any, Calibration]:
    transformer = make()
    if offload:
        offload_blocks_(transformer, "cpu")
    calibration = Calibration(drive(transformer), batch_size=8)
    prune_(transformer, SublayerReplacementConfig(**{**SETTINGS, **settings}), calibration)
    return transformer, calibration


def error(transformer: Any, make: Make = make_tiny_flux) -> float:
    inputs = tiny_inputs(transformer, seed=9, batch=8)
    return float((run(transformer, inputs) - run(make(), inputs)).square().mean())


def test_it_keeps_the_budget_and_goes_through_a_file(make: Make, drive: Drive, folder: Path) -> None:
    transformer, calibration = pruned(make, drive)
    inputs = tiny_inputs(transformer)
    assert 0.7 < count_flops(transformer, inputs) / count_flops(make(), inputs) <= 0.8
    assert calibration.cost.block_forwards > 0
    save_transformer(transformer, folder)
    again: Any = load_transformer(folder)
    assert plan_of(again) == plan_of(transformer)
    assert torch.equal(run(again), run(transformer))


def test_halves_err_less_than_blocks_and_distillation_less_still(drive: Drive) -> None:
    blocks, halves, distilled = (
        error(pruned(make_tiny_flux, drive, **settings)[0])
        for settings in ({"kinds": "linear"}, {}, {"steps": 30, "batch": 16, "linear_lr": 1e-3})
    )
    assert halves < blocks
    assert distilled < 0.95 * halves


def test_training_is_the_same_every_time_and_leaves_no_adapter(drive: Drive) -> None:
    first, second = (pruned(make_tiny_flux, drive, steps=3)[0] for _ in range(2))
    assert torch.equal(run(first), run(second))
    assert not any("lora" in name for name in first.state_dict())
    assert all(parameter.requires_grad for parameter in first.parameters())


def test_offloaded_blocks_give_the_same(drive: Drive) -> None:
    apart, whole = (run(pruned(make_tiny_flux, drive, offload=offload, steps=2)[0]) for offload in (True, False))
    assert torch.equal(apart, whole)


def test_measured_time_can_be_the_budget(drive: Drive) -> None:
    transformer, _ = pruned(make_tiny_flux, drive, flops=None, latency=0.9)
    plan = plan_of(transformer)
    assert plan.replacements


def test_the_choice_is_the_best_of_all() -> None:
    draw = Random(0)  # noqa: S311
    options = [  # savings that the knapsack's units hold exactly
        Option(Replacement(BlockRef("blocks", block), kind), draw.randrange(256) / 256, draw.random())
        for block in range(4)
        for kind in ("linear", "linear_mlp")
    ]
    ways = [[None, *(option for option in options if option.replacement.block.index == block)] for block in range(4)]
    for saving in (0.25, 0.5, 1.0):
        takes = [[o for o in take if o] for take in product(*ways) if sum(o.saved for o in take if o) >= saving]
        best = min(takes, key=lambda take: sum(option.error for option in take))
        assert {*choose(options, saving)} == {option.replacement for option in best}
    assert choose(options, 0.0) == []
    with pytest.raises(FastFluxError, match="all replacements together save"):
        choose(options, 5.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latency": 0.8}, "either flops or latency"),
        ({"flops": 1.5}, "cost to leave is 1.5"),
        ({"kinds": "linear,linear_mpl"}, "linear_mlp"),
        ({"keep": "transformer_blocks.0-x"}, "transformer_blocks.0-x in keep is no block"),
        ({"keep": "nothing"}, "nothing"),
        ({"targets": "dens"}, "dense"),
        ({"scored": 64}, "between 1 and 32"),
        ({"fitted": 4}, "8 samples are to be scored, but it must be between 1 and 4"),
        ({"fitted": -1}, "fitted is -1, but it must be at least 0"),
        ({"trajectories": -1}, "trajectories is -1"),
        ({"lr": 0.0}, "lr is 0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FastFluxError, match=message):
        SublayerReplacementConfig(**{**SETTINGS, **settings})


def test_blocks_that_are_to_be_kept_stay(drive: Drive) -> None:
    free = {item.block for item in plan_of(pruned(make_tiny_flux, drive)[0]).replacements}
    stack, first = min(free).stack, min(free).index
    kept = {item.block for item in plan_of(pruned(make_tiny_flux, drive, keep=f"{stack}.{first}")[0]).replacements}
    assert min(free) not in kept
    every = SublayerReplacementConfig(flops=0.8, keep="transformer_blocks.1-3, single_transformer_blocks.0").kept
    assert every == {
        *(BlockRef("transformer_blocks", index) for index in (1, 2, 3)), BlockRef("single_transformer_blocks", 0)
    }  # fmt: skip
    with pytest.raises(FastFluxError, match=r"transformer_blocks\.99"):
        pruned(make_tiny_flux, drive, keep="transformer_blocks.99")


def test_every_kind_may_be_allowed(drive: Drive) -> None:
    assert pruned(make_tiny_flux, drive, kinds=",".join(REPLACEMENT_KINDS))[0] is not None


@pytest.mark.parametrize("trajectories", [0, 2])
def test_killed_scoring_goes_on_and_serves_every_budget(
    trajectories: int, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[BlockRef] = []
    dies = 0

    def fill(model: Any, item: Replacement, statistics: Any, ridge: float, fill_: Any = search.fill_) -> None:
        tried.append(item.block)
        if len(tried) == dies:
            raise KeyboardInterrupt
        fill_(model, item, statistics, ridge)

    def outcome(folder: Path | None, **changes: Any) -> tuple[Any, Any, int]:
        """The weights, the cost without times, and how many replacements were tried for it."""
        tried.clear()
        pipeline = load_pipeline(base)
        run = Trajectories(pipeline, ("a red star", "a blue ring", "two stars", "a ring"), steps=4, batch_size=2)
        calibration = Calibration(run, batch_size=4, folder=folder, run=run)
        settings = {"samples": 16, "fitted": 12, "trajectories": trajectories, "keep": "transformer_blocks.1"} | changes
        prune_(pipeline.transformer, SublayerReplacementConfig(**{**SETTINGS, **settings}), calibration)
        weights = {name: weight.tolist() for name, weight in pipeline.transformer.state_dict().items()}
        return weights, replace(calibration.cost, seconds=0.0, peak_memory_bytes=None), len(tried)

    monkeypatch.setattr(search, "fill_", fill)
    whole = outcome(None)
    assert whole[2] == 5 * 4  # blocks, kinds
    dies = 4 * 2 + 3
    with pytest.raises(KeyboardInterrupt):
        outcome(tmp_path)
    dies = 0
    assert outcome(tmp_path) == (*whole[:2], 3 * 4), "two blocks were done"
    other = outcome(None, flops=0.7)
    assert other[0] != whole[0]
    assert outcome(tmp_path, flops=0.7, steps=1, rank=2)[2] == 0
    assert outcome(tmp_path, flops=0.7) == (*other[:2], 0)
    for changes, tries in ({"keep": ""}, 4), ({"ridge": 1e-2}, 20), ({"fitted": 11}, 20), ({"kinds": "linear"}, 5):
        assert outcome(tmp_path, **changes)[2] == tries, changes
    for path in tmp_path.rglob("single_transformer_blocks.2.safetensors"):
        harm(path, "last bit")
    assert outcome(tmp_path) == (*whole[:2], 4), "the damaged block alone is tried again"
