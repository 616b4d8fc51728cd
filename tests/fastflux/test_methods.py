"""The contract of every registered pruning method, and the errors of their configs."""

import copy
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import torch

from fastflux.calibration.statistics import Calibration, Statistics
from fastflux.errors import FastFluxError
from fastflux.methods.registry import make_config, pruning_methods
from fastflux.models.architecture import architecture_of
from fastflux.models.pruned import PrunedTransformer, parameter_count
from fastflux.models.surgery import get_block
from fastflux.plan import PruningPlan
from fastflux.pruning import apply_plan_, prune_
from tests.fastflux.conftest import FAMILIES, Drive, Make, run, tiny_inputs

Pruned = tuple[Any, PruningPlan]
METHODS = sorted(pruning_methods())
SETTINGS: Mapping[str, Any] = {"ratio": 0.34}
#: Small enough for a test.
FURTHER: Mapping[str, Mapping[str, Any]] = {
    "sandwich_training": {"samples": 16, "steps": 2, "rank": 2},
    "width_pruning": {"samples": 16},
    "sublayer_replacement": {"samples": 16, "scored": 4, "trajectories": 0, "steps": 2, "rank": 2},
}


def amount(method: str, ratio: float) -> Mapping[str, Any]:
    """How much to prune, as the method takes it."""
    return {"flops": 1 - ratio} if method == "sublayer_replacement" else {"ratio": ratio}


@pytest.fixture(scope="session")
def pruned_by(statistics_of: Callable[[str], Statistics], drive: Drive) -> Callable[[str, str], Pruned]:
    @cache
    def pruned_once(method: str, family: str) -> Pruned:
        transformer = FAMILIES[family]()
        config = make_config(method, {**amount(method, 0.34), **FURTHER.get(method, {})})
        calibration = Calibration(drive(transformer), statistics_of(family))
        return transformer, prune_(transformer, config, calibration, base_model="tiny", base_revision="r1")

    return pruned_once


@pytest.fixture(params=METHODS)
def pruned(request: pytest.FixtureRequest, family: str, pruned_by: Callable[[str, str], Pruned]) -> Pruned:
    transformer, plan = pruned_by(request.param, family)
    return copy.deepcopy(transformer), plan


def test_keeps_the_models_interface(pruned: Pruned, make: Make) -> None:
    transformer, _ = pruned
    dense = make()
    assert run(transformer).shape == run(dense).shape
    assert isinstance(transformer, PrunedTransformer)
    assert architecture_of(transformer).blocks(transformer) == architecture_of(dense).blocks(dense)
    assert parameter_count(transformer) < parameter_count(dense)


def test_gradients_reach_every_parameter_that_matters(pruned: Pruned) -> None:
    transformer, _ = pruned
    transformer(**tiny_inputs(transformer), return_dict=False)[0].square().sum().backward()
    missing = {name for name, parameter in transformer.named_parameters() if parameter.grad is None}
    assert not missing


@pytest.mark.parametrize("pruned", ["block_removal", "linear_replacement"], indirect=True)
def test_other_blocks_stay_untouched(pruned: Pruned, make: Make) -> None:
    transformer, plan = pruned
    dense = make()
    replaced = {replacement.block for replacement in plan.replacements}
    assert len(replaced) == 2
    for block in set(architecture_of(dense).blocks(dense)) - replaced:
        before, after = get_block(dense, block).state_dict(), get_block(transformer, block).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_refuses_to_prune_twice(pruned: Pruned) -> None:
    transformer, plan = pruned
    with pytest.raises(FastFluxError, match=f"pruned already, by plan {plan.hash}"):
        prune_(transformer, make_config("l1_norm", SETTINGS))
    with pytest.raises(FastFluxError, match="pruned already"):
        apply_plan_(transformer, plan)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_ratio_outside_0_to_1_is_refused(method: str, ratio: float) -> None:
    with pytest.raises(FastFluxError, match="must lie between 0 and 1"):
        make_config(method, amount(method, ratio))


def test_names_nobody_registered_get_a_suggestion() -> None:
    with pytest.raises(FastFluxError, match=r"Unknown pruning method 'l1_nrom'.*did you mean 'l1_norm'\?"):
        make_config("l1_nrom", SETTINGS)
    with pytest.raises(FastFluxError, match=r"Unknown ranking 'random2'.*did you mean 'random'\?"):
        make_config("block_removal", {"ratio": 0.1, "ranking": "random2"})
    with pytest.raises(FastFluxError, match=r"Unknown setting of l1_norm 'ridge'"):
        make_config("l1_norm", {"ratio": 0.1, "ridge": 0.0})


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("linear_replacement", {}, "exactly one"),
        ("linear_replacement", {"ratio": 0.1, "blocks": 2}, "exactly one"),
        ("linear_replacement", {"blocks": -1}, "must not be negative"),
        ("linear_replacement", {"ratio": 0.1, "ridge": -1.0}, "ridge is -1.0"),
        ("l1_norm", {}, "needs ratio"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(method: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FastFluxError, match=message):
        make_config(method, settings)


def test_missing_statistics_are_asked_for(transformer: Any) -> None:
    with pytest.raises(FastFluxError, match="needs calibration"):
        prune_(transformer, make_config("linear_replacement", SETTINGS))


def test_removal_in_a_fixed_order_needs_no_statistics(transformer: Any) -> None:
    plan = prune_(transformer, make_config("block_removal", {"blocks": 2, "ranking": "end2start"}))
    assert [str(r.block) for r in plan.replacements] == ["single_transformer_blocks.3", "single_transformer_blocks.2"]
