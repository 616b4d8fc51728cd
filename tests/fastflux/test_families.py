"""Every family by every method: pruned, saved, loaded with the same bits; its contract against its own forward."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import ModelMixin
from torch import Tensor, nn

import fastflux
from fastflux.calibration.block_runs import forward
from fastflux.calibration.recording import BlockStates, record_inputs
from fastflux.calibration.statistics import collect_recorded, collect_statistics
from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm import largest_ratio
from fastflux.methods.sublayer_replacement import SublayerReplacementConfig
from fastflux.models import pruned
from fastflux.models.architecture import architecture_of, architectures, example_inputs
from fastflux.models.blocks import LinearReplacementBlock
from fastflux.models.folding import fold_
from fastflux.models.offload import offload_blocks_
from fastflux.models.surgery import get_block
from tests.fastflux.families import CONFIGS, make

DIVISIBLE = ("FluxTransformer2DModel", "SD3Transformer2DModel")
SMALL = {"samples": 4, "steps": 2, "batch": 2}
METHODS: dict[str, Callable[[nn.Module], Any]] = {
    "linear_replacement": lambda _model: fastflux.LinearReplacementConfig(blocks=1),
    "block_removal": lambda _model: fastflux.BlockRemovalConfig(blocks=1),
    "sandwich_training": lambda _model: fastflux.SandwichTrainingConfig(blocks=2, rank=2, **SMALL),
    "l1_norm": lambda model: fastflux.L1NormConfig(min(0.2, largest_ratio(model) / 2), **SMALL),
}


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    """Each tiny model in turn."""
    chosen: str = request.param
    return chosen


def inputs_of(model: nn.Module, batch: int = 4) -> dict[str, Any]:
    """Inputs of 16 image and 3 text tokens."""
    return example_inputs(model, batch, 64, 64, 3, torch.Generator().manual_seed(0))


@torch.no_grad()
def output(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    return forward(model, inputs)


def test_every_family_has_a_tiny_model() -> None:
    assert {architecture_of(make(name)).name for name in CONFIGS} == {family.name for family in architectures()}


@pytest.mark.parametrize("method", METHODS)
def test_pruned_saved_and_loaded_it_gives_the_same_bits(name: str, method: str, tmp_path: Any) -> None:
    model = make(name)
    inputs = inputs_of(model)
    dense = output(model, inputs)
    if (name, method) == ("SD3.5-medium", "l1_norm"):
        with pytest.raises(FastFluxError, match="has a second attention: use another method"):
            METHODS[method](model)
        return
    plan = fastflux.prune_(model, METHODS[method](model), lambda: model(**inputs))
    changed = output(model, inputs)
    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, dense)
    fastflux.save_transformer(model, tmp_path / "pruned")
    ours = getattr(pruned, architecture_of(model).pruned_class)
    assert issubclass(ours, ModelMixin)
    loaded = ours.from_pretrained(tmp_path / "pruned")
    assert fastflux.plan_of(loaded) == plan
    assert torch.equal(output(loaded, inputs), changed)


def test_the_contract_is_the_models_own_forward(name: str) -> None:
    """Blocks run one by one on what they are given leave what the model's forward gives to its last layers."""
    model = make(name)
    inputs = inputs_of(model)
    family = architecture_of(model)
    chain = family.chain(model)
    seen: list[Any] = []
    last = get_block(model, chain[-1])
    handle = last.register_forward_hook(lambda _module, _args, result: seen.append(result))
    states = BlockStates(model, record_inputs(model, lambda: model(**inputs), samples=4), batch_size=4)
    handle.remove()
    behind = states.through(states.before(chain[0]), chain)[0]
    contract = family.stack(chain[-1])
    expected = contract.returned(seen[0], behind)
    assert torch.equal(behind[0], expected[0])
    assert len(behind) == len(family.streams)
    hooked = collect_statistics(model, lambda: model(**inputs))
    recorded = collect_recorded(model, states.inputs, 4)
    for block, streams in hooked.items():
        assert streams.keys() == recorded[block].keys() == set(family.streams)
        for stream, moments in streams.items():
            assert moments.count == recorded[block][stream].count
            assert torch.equal(moments.xy, recorded[block][stream].xy)


def test_folding_keeps_the_function(name: str) -> None:
    model = make(name)
    inputs = inputs_of(model)
    fastflux.prune_(model, fastflux.LinearReplacementConfig(blocks=3), lambda: model(**inputs))
    before = output(model, inputs)
    fold_(model)
    chain = architecture_of(model).chain(model)
    assert sum(isinstance(get_block(model, block), LinearReplacementBlock) for block in chain) < 3
    torch.testing.assert_close(output(model, inputs), before, rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_gives_the_same_bits(name: str) -> None:
    model = make(name)
    inputs = inputs_of(model)
    fastflux.prune_(model, fastflux.LinearReplacementConfig(blocks=1), lambda: model(**inputs))
    expected = forward(model, inputs)
    model.enable_gradient_checkpointing()
    assert torch.equal(forward(model, inputs), expected)


def test_all_but_the_blocks_is_on_the_device_while_those_are_offloaded(name: str) -> None:
    model = make(name)
    offload_blocks_(model, "meta")
    chain = architecture_of(model).chain(model)
    inside = {id(parameter) for block in chain for parameter in get_block(model, block).parameters()}
    assert all(parameter.is_meta != (id(parameter) in inside) for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name, (kind, _) in CONFIGS.items() if kind not in DIVISIBLE])
def test_halves_are_refused_where_there_are_none(name: str) -> None:
    with pytest.raises(FastFluxError, match="cannot be replaced apart: replace whole blocks"):
        SublayerReplacementConfig(flops=0.9).require_fits(make(name))
