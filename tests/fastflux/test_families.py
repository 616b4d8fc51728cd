"""Every family by every method: pruned, saved, loaded with the same bits; its contract against its own forward."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import FirstBlockCacheConfig, ModelMixin
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

import fastflux
from fastflux.calibration.block_runs import forward, leave
from fastflux.calibration.recording import BlockStates, record_inputs
from fastflux.calibration.statistics import collect_recorded, collect_statistics
from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm import largest_ratio
from fastflux.methods.sublayer_replacement import SublayerReplacementConfig
from fastflux.models import pruned
from fastflux.models.architecture import architecture_of, architectures, example_inputs
from fastflux.models.folding import fold_
from fastflux.models.offload import offload_blocks_
from fastflux.models.sublayers import LinearReplacementBlock
from fastflux.models.surgery import get_block
from tests.fastflux.conftest import make_replaced
from tests.fastflux.families import CONFIGS, make
from tests.fastflux.test_sublayers import make_halved

DIVISIBLE = (
    *("Flux2Transformer2DModel", "FluxTransformer2DModel", "QwenImageTransformer2DModel", "SD3Transformer2DModel"),
)
SMALL = {"samples": 4, "steps": 2, "batch": 2}
METHODS: dict[str, Callable[[nn.Module], Any]] = {
    "linear_replacement": lambda _model: fastflux.LinearReplacementConfig(blocks=1),
    "block_removal": lambda _model: fastflux.BlockRemovalConfig(blocks=1),
    "sandwich_training": lambda _model: fastflux.SandwichTrainingConfig(blocks=2, rank=2, **SMALL),
    "l1_norm": lambda model: fastflux.L1NormConfig(min(0.2, largest_ratio(model) / 2), **SMALL),
    "width_pruning": lambda model: fastflux.WidthPruningConfig(min(0.2, largest_ratio(model) / 2), **SMALL),
    "sublayer_replacement": lambda _model: SublayerReplacementConfig(
        flops=0.8, scored=2, trajectories=0, rank=2, **SMALL
    ),
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


#: The first of each class; what differs in the others differs in no method, but for the second attention of medium.
FIRST = {*{kind: name for name, (kind, _) in reversed(CONFIGS.items())}.values(), "SD3.5-medium"}


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name in CONFIGS for method in METHODS if name in FIRST or method == "linear_replacement"],
)
def test_pruned_saved_and_loaded_it_gives_the_same_bits(name: str, method: str, tmp_path: Path) -> None:
    model = make(name)
    inputs = inputs_of(model)
    dense = output(model, inputs)
    if name == "SD3.5-medium" and method in ("l1_norm", "width_pruning"):
        with pytest.raises(FastFluxError, match="has a second attention: use another method"):
            METHODS[method](model)
        return
    if method == "sublayer_replacement" and CONFIGS[name][0] not in DIVISIBLE:
        with pytest.raises(FastFluxError, match="cannot be replaced apart: replace whole blocks"):
            fastflux.prune_(model, METHODS[method](model), lambda: model(**inputs))
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
    assert torch.equal(leave(model, inputs, behind), output(model, inputs))
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


def compiles(model: Any, _name: str) -> None:
    inputs = inputs_of(model)
    expected = output(model, inputs)
    model.compile(fullgraph=True, backend="eager")
    torch.testing.assert_close(output(model, inputs), expected)


def compiles_by_block(model: Any, _name: str) -> None:
    inputs = inputs_of(model)
    expected = output(model, inputs)
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    torch.testing.assert_close(output(model, inputs), expected)


def caches_the_first_block(model: Any, _name: str) -> None:
    inputs = inputs_of(model)
    expected = output(model, inputs)
    model.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    last, calls = get_block(model, architecture_of(model).chain(model)[-1]), list[int]()
    next(layer for layer in last.modules() if isinstance(layer, nn.Linear)).register_forward_hook(
        lambda *_: calls.append(1)
    )
    with model.cache_context("sampling"):
        assert torch.equal(output(model, inputs), expected)
        once = len(calls)
        output(model, inputs)
    assert len(calls) == once > 0


def takes_a_lora(model: Any, name: str) -> None:
    dense, inputs = make(name), inputs_of(model)
    family, before = architecture_of(model), output(model, inputs)
    layers = [f"{block}.{layer}" for block in family.chain(dense) for layer in family.stack(block).sliced.inputs]
    dense.add_adapter(LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
    lora = get_peft_model_state_dict(dense)
    kind = getattr(diffusers, family.pipeline_classes[0])
    parts = {part: None for part, given in signature(kind).parameters.items() if given.default is given.empty}
    pipeline = kind(**parts | {"transformer": model})
    pipeline.load_lora_weights({f"transformer.{key}": value for key, value in lora.items()}, adapter_name="style")
    loaded = get_peft_model_state_dict(model, adapter_name="style")
    left = dict(model.named_modules())
    assert loaded.keys() == {key for key in lora if key.partition(".lora_")[0] in left}
    assert all(torch.equal(value, lora[key]) for key, value in loaded.items())
    assert not torch.equal(output(model, inputs), before)


FEATURES: Mapping[str, Callable[[Any, str], None]] = {
    "`torch.compile(fullgraph=True)`": compiles,
    "`compile_repeated_blocks`": compiles_by_block,
    "FirstBlockCache": caches_the_first_block,
    "LoRA of the base model": takes_a_lora,
}
PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize(
    ("name", "halves"),
    [
        *[(name, False) for name in ("FLUX.2-klein", "Qwen-Image", "Z-Image", "Chroma", "LongCat-Image", "Ovis-Image")],
        ("FLUX.2-klein", True),
    ],
)
def test_a_pruned_model_can_what_the_page_says_and_the_dense_one_can(name: str, halves: bool, feature: str) -> None:
    torch._dynamo.reset()
    dense = partial(make, name)
    pruned = make_halved(dense) if halves else make_replaced(dense, {0, 2}, removed={1})
    works = "yes"
    try:
        FEATURES[feature](pruned, name)
    except Exception as error:  # noqa: BLE001  # whatever it is, the dense model must raise it too
        with pytest.raises(type(error)):
            FEATURES[feature](make(name), name)
        works = "no, nor dense"
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("|")]
    header = next(row for row in rows if feature in row)
    shown = next(row for row in rows[rows.index(header) :] if row[0] == architecture_of(pruned).name)
    assert shown[header.index(feature)] == works
