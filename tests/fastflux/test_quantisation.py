"""Pruned pipelines quantised by torchao and bitsandbytes: drawn, saved, loaded again; skipped without them."""

from pathlib import Path

import numpy as np
import pytest
from diffusers.quantizers.bitsandbytes import BnB4BitDiffusersQuantizer

import experiments.quantisation
from bench.metrics.quality.image_similarity import mean_squared_error, psnr
from experiments.quantisation import draw, load, table
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import load_transformer
from fastflux.io.pipelines import export_pipeline
from fastflux.methods.block_removal import BlockRemovalConfig
from fastflux.models.pruned import plan_of
from fastflux.pruning import prune_
from tests.fastflux.conftest import make_replaced_flux

PROMPTS = ["a red star", "a ring"]
STORED = {"int8": "Int8Tensor", "nf4": "Params4bit"}


@pytest.fixture(params=STORED)
def weights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A format that can be drawn with here: diffusers asks for a GPU that bitsandbytes itself can do without."""
    pytest.importorskip({"int8": "torchao", "nf4": "bitsandbytes"}[request.param])
    monkeypatch.setattr(BnB4BitDiffusersQuantizer, "validate_environment", lambda *_, **__: None)
    monkeypatch.setattr(BnB4BitDiffusersQuantizer, "update_device_map", lambda *_: {"": "cpu"})
    chosen: str = request.param
    return chosen


@pytest.fixture
def pruned(base: Path, tmp_path: Path) -> Path:
    export_pipeline(base, make_replaced_flux({0, 2, 5}, removed={3}), tmp_path / "pruned")
    return tmp_path / "pruned"


def test_what_is_quantised_is_smaller_and_draws_nearly_the_same(base: Path, pruned: Path) -> None:
    pytest.importorskip("torchao")
    lines = table({"dense": base, "pruned": pruned}, PROMPTS, steps=2, guidance=2.0, rounds=1)
    assert [line[:2] for line in lines] == [
        (name, weights) for name in ("dense", "pruned") for weights in ("unquantised", "int8", "float8")
    ]
    for plain, *quantised in (lines[:3], lines[3:]):
        for _, weights, size, _, like in quantised:
            assert int(size.replace(",", "")) < int(plain[2].replace(",", ""))
            assert float(like) > {"int8": 35, "float8": 25}[weights]


def test_the_layers_in_pruned_blocks_are_quantised_and_the_plan_stays(
    weights: str, pruned: Path, tmp_path: Path
) -> None:
    pipeline = load(pruned, weights)
    block = pipeline.transformer.transformer_blocks[0]
    assert {type(layer.weight).__name__ for layer in (block.linear, block.linear_context)} == {STORED[weights]}
    drawn, plain = (draw(each, PROMPTS, 2, 2.0) for each in (pipeline, load(pruned, "unquantised")))
    assert psnr(np.mean([*map(mean_squared_error, drawn, plain)])) > 20
    pipeline.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved", "unquantised")  # which names no format: its folder does
    assert {type(again.transformer.transformer_blocks[0].linear.weight).__name__} == {STORED[weights]}
    assert np.array_equal(draw(again, PROMPTS, 2, 2.0), drawn)
    assert plan_of(again.transformer) == plan_of(load_transformer(pruned / "transformer"))


def test_what_is_quantised_is_not_pruned(weights: str, base: Path, tmp_path: Path) -> None:
    pipeline = load(base, weights)
    with pytest.raises(FastFluxError, match="is quantised: load it without quantization_config"):
        prune_(pipeline.transformer, BlockRemovalConfig(blocks=1, ranking="end2start"))
    pipeline.save_pretrained(tmp_path / "saved")
    with pytest.raises(FastFluxError, match="is quantised: give the original"):
        load_transformer(tmp_path / "saved" / "transformer")


def test_pictures_that_saving_changes_are_an_error(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao")
    shades = iter(range(9))
    monkeypatch.setattr(experiments.quantisation, "draw", lambda *_: np.full((1, 8, 8, 3), next(shades), np.uint8))
    with pytest.raises(FastFluxError, match="draws other pictures"):
        table({"dense": base}, PROMPTS, steps=1, guidance=2.0, rounds=1)
