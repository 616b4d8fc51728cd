"""Input that cannot be pruned is one sentence before the long work; input that only looks odd is pruned rightly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastflux.calibration.least_squares import LinearStatistics
from fastflux.calibration.recording import record_inputs
from fastflux.calibration.statistics import Calibration, Statistics, collect_statistics
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import load_transformer, save_transformer
from fastflux.methods.block_removal import BlockRemovalConfig
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.methods.linear_replacement import LinearReplacementConfig
from fastflux.methods.sandwich_training import SandwichTrainingConfig
from fastflux.methods.sandwich_training import method as sandwich_training
from fastflux.models.architecture import STREAMS, architecture_of
from fastflux.models.sublayers import LinearReplacementBlock
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef, PruningPlan, Replacement
from fastflux.pruning import apply_plan_, prune_
from tests.fastflux.conftest import Drive, make_tiny_flux, run, tiny_inputs
from tests.fastflux.test_sandwich_training import equal

ST: dict[str, Any] = {"samples": 8, "steps": 2, "rank": 2, "batch": 4, "ranking": "start2end"}


def poisoned(value: float = float("nan")) -> Any:
    """The tiny model, one weight of whose third block is not a number."""
    transformer = make_tiny_flux()
    with torch.no_grad():
        transformer.single_transformer_blocks[0].proj_out.weight[0] = value
    return transformer


def dies(*_: object, **__: object) -> None:
    raise AssertionError("the long work has begun")


def test_nan_activations_end_the_calibration_at_their_block(drive: Drive) -> None:
    transformer = poisoned()
    with pytest.raises(FastFluxError, match=r"not finite in the hidden_states of single_transformer_blocks\.0"):
        collect_statistics(transformer, drive(transformer))
    assert not any(block._forward_hooks for block in transformer.modules()), "and leave no hook behind"


@pytest.mark.parametrize("exact", [True, False])
def test_the_first_forward_and_the_first_block_of_it_are_what_ends(exact: bool) -> None:
    transformer = poisoned()
    blocks = architecture_of(transformer).blocks(transformer)[::-1]
    ended: list[int] = []

    def twice() -> None:
        for turn in range(2):
            run(transformer)
            ended.append(turn)

    with pytest.raises(FastFluxError, match=r"not finite in the hidden_states of single_transformer_blocks\.0"):
        collect_statistics(transformer, twice, blocks=blocks, exact=exact)
    assert not ended


def test_nan_activations_of_a_block_that_runs_alone_end_the_calibration() -> None:
    transformer = poisoned()
    given: list[Any] = []
    block = transformer.single_transformer_blocks[0]
    keep = block.register_forward_pre_hook(lambda _, args, kwargs: given.append((args, kwargs)), with_kwargs=True)
    run(transformer)
    keep.remove()
    with pytest.raises(FastFluxError, match=r"not finite in the hidden_states of single_transformer_blocks\.0"):
        collect_statistics(
            transformer,
            lambda: (block(*given[0][0], **given[0][1]), None)[1],
            blocks=[BlockRef("single_transformer_blocks", 0)],
        )


@pytest.mark.parametrize("replacement", ["linear", "removed"])
def test_nan_activations_end_sandwich_training_before_its_first_step(
    drive: Drive, replacement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastflux.methods.sandwich_training.method.descend", dies)
    transformer = poisoned(3e38)  # finite, but what it gives is not
    config = SandwichTrainingConfig(blocks=1, replacement=replacement, **{**ST, "ranking": "end2start"})
    with pytest.raises(FastFluxError, match=r"not finite.*: check the model's weights and dtype"):
        prune_(transformer, config, Calibration(drive(transformer)))


def test_nan_outputs_end_finetuning_before_a_weight_is_cut(drive: Drive) -> None:
    transformer = poisoned(3e38)
    shapes = [parameter.shape for parameter in transformer.parameters()]
    with pytest.raises(FastFluxError, match="outputs are not finite"):
        prune_(transformer, L1NormConfig(ratio=0.2, samples=8, steps=1), Calibration(drive(transformer)))
    assert [parameter.shape for parameter in transformer.parameters()] == shapes


@pytest.mark.parametrize("name", ["hidden_states", "encoder_hidden_states", "timestep"])
def test_nan_inputs_are_named(name: str) -> None:
    transformer = make_tiny_flux()
    inputs = tiny_inputs(transformer)
    inputs[name].view(-1)[0] = float("inf")
    with pytest.raises(FastFluxError, match=f"on {name} that are not finite"):
        record_inputs(transformer, lambda: (run(transformer, inputs), None)[1], samples=2)


def made_up(transformer: nn.Module, tokens: Callable[[int], torch.Tensor]) -> Statistics:
    """Statistics of the tokens ``tokens(width)``, each block adding 3 to what it gets."""
    blocks = architecture_of(transformer).blocks(transformer)
    found: Statistics = {}
    for block in blocks:
        for stream in STREAMS:
            x = tokens(16).double()
            moments = LinearStatistics.empty(16, 16)
            moments.update(x, torch.full_like(x, 3.0))
            found.setdefault(block, {})[stream] = moments
    return found


@pytest.mark.parametrize("tokens", [lambda width: torch.full((9, width), 7.0), lambda width: torch.randn(1, width)])
def test_constant_activations_leave_the_mean_to_the_bias(tokens: Callable[[int], torch.Tensor]) -> None:
    transformer = make_tiny_flux()
    plan = prune_(transformer, LinearReplacementConfig(blocks=2), made_up(transformer, tokens))
    for replacement in plan.replacements:
        block = get_block(transformer, replacement.block)
        assert isinstance(block, LinearReplacementBlock)
        assert torch.count_nonzero(block.linear.weight) == 0
        torch.testing.assert_close(block.linear.bias, torch.full_like(block.linear.bias, 3.0))
    assert torch.isfinite(run(transformer)).all()


def test_fewer_tokens_than_features_are_fitted_with_the_ridge_and_refused_without() -> None:
    transformer = make_tiny_flux()
    inputs = tiny_inputs(transformer, batch=1)  # 4 + 3 tokens, 16 features
    statistics = collect_statistics(transformer, lambda: (run(transformer, inputs), None)[1])
    first = LinearReplacementConfig(blocks=1, ranking="start2end")
    pruned = make_tiny_flux()
    prune_(pruned, first, statistics)
    torch.testing.assert_close(run(pruned, inputs), run(transformer, inputs), rtol=1e-2, atol=1e-2)
    untouched = make_tiny_flux()
    with pytest.raises(FastFluxError, match=r"in 16 dimensions are singular at ridge 0\.0: raise the ridge"):
        prune_(untouched, LinearReplacementConfig(blocks=1, ranking="start2end", ridge=0.0), statistics)
    assert equal(untouched, make_tiny_flux())


def test_statistics_of_a_wider_model_change_nothing(drive: Drive) -> None:
    wider = make_tiny_flux(num_attention_heads=3)
    statistics = collect_statistics(wider, drive(wider))
    transformer = make_tiny_flux()
    with pytest.raises(FastFluxError, match="have 24 features, but the transformer's width is 16"):
        prune_(transformer, LinearReplacementConfig(blocks=1), statistics)
    assert equal(transformer, make_tiny_flux())


def test_statistics_that_lack_blocks_change_nothing(statistics: Statistics) -> None:
    transformer = make_tiny_flux()
    part = {block: streams for block, streams in statistics.items() if block.stack == "transformer_blocks"}
    with pytest.raises(FastFluxError, match=r"no calibration statistics of single_transformer_blocks\.3"):
        prune_(transformer, LinearReplacementConfig(blocks=1, ranking="end2start"), part)
    assert equal(transformer, make_tiny_flux())


@pytest.mark.parametrize("config", [SandwichTrainingConfig, LinearReplacementConfig, BlockRemovalConfig])
@pytest.mark.parametrize("name", ["single_transformer_blocks.4", "proj_out.0"])
def test_a_block_that_cannot_be_pruned_is_refused_before_any_is(
    config: Callable[..., Any], name: str, statistics: Statistics
) -> None:
    transformer = make_tiny_flux()
    names = [str(block) for block in architecture_of(transformer).blocks(transformer)]
    ranking = ",".join([name, *names[1:]])
    calibration = Calibration(lambda: [run(transformer) for _ in range(300)] and None, statistics)
    with pytest.raises(FastFluxError, match=r"the transformer has 6; they differ in"):
        prune_(transformer, config(blocks=1, ranking=ranking), calibration)
    assert equal(transformer, make_tiny_flux())


@pytest.mark.parametrize(("ranking", "count"), [("start2end", 2), ("end2start", 4)])
@pytest.mark.parametrize("method", ["linear", "trained", "removed"])
def test_all_blocks_of_a_kind_can_go(
    ranking: str, count: int, method: str, drive: Drive, statistics: Statistics, folder: Path
) -> None:
    transformer = make_tiny_flux()
    config: Any = {
        "linear": LinearReplacementConfig(blocks=count, ranking=ranking),
        "trained": SandwichTrainingConfig(blocks=count, **{**ST, "ranking": ranking}),
        "removed": BlockRemovalConfig(blocks=count, ranking=ranking),
    }[method]
    plan = prune_(transformer, config, Calibration(drive(transformer), statistics))
    assert len({replacement.block.stack for replacement in plan.replacements}) == 1
    assert torch.isfinite(run(transformer)).all()
    save_transformer(transformer, folder)
    assert torch.equal(run(load_transformer(folder)), run(transformer))


@pytest.mark.parametrize(
    "settings", [{"ratio": 1.0}, {"blocks": 6}, {"ratio": 0.5, "reuse_from": 1.0}, {"blocks": 6, "layers": 5}]
)
def test_no_neighbour_left_is_told_before_the_work(settings: dict[str, Any]) -> None:
    transformer = make_tiny_flux()
    with pytest.raises(FastFluxError, match="All 6 blocks would be replaced, so that none is left to adapt"):
        prune_(transformer, SandwichTrainingConfig(**{**ST, **settings}), dies)


def test_sandwiches_of_one_layer_need_no_neighbour(drive: Drive) -> None:
    transformer = make_tiny_flux()
    plan = prune_(transformer, SandwichTrainingConfig(blocks=6, layers=1, **ST), drive(transformer))
    assert len(plan.replacements) == 6
    assert torch.isfinite(run(transformer)).all()


@pytest.mark.parametrize("rank", [0, 17])
def test_a_rank_that_no_layer_has_is_told_before_the_work(rank: int) -> None:
    with pytest.raises(FastFluxError, match=f"LoRA rank is {rank}, but it must lie between 1 and the width, 16"):
        prune_(make_tiny_flux(), SandwichTrainingConfig(blocks=1, **{**ST, "rank": rank}), dies)


@pytest.mark.parametrize(
    ("block", "message"),
    [("joint_blocks.3", "FLUX has no block joint_blocks.3"), ("transformer_blocks.23", "transformer_blocks holds 2")],
)
def test_a_plan_of_another_architecture_changes_nothing(block: str, message: str) -> None:
    transformer = make_tiny_flux()
    replacements = (
        Replacement(BlockRef("transformer_blocks", 0), "linear"),
        Replacement(BlockRef.parse(block), "linear"),
    )
    with pytest.raises(FastFluxError, match=message):
        apply_plan_(transformer, PruningPlan("other", "r", "linear_replacement", {}, replacements))
    assert equal(transformer, make_tiny_flux())
    with pytest.raises(FastFluxError, match="Cannot prune a Linear"):
        apply_plan_(nn.Linear(2, 2), PruningPlan("other", "r", "linear_replacement", {}, replacements))


def test_progress_of_another_model_is_named(drive: Drive, tmp_path: Path) -> None:
    wider = make_tiny_flux(num_attention_heads=3)
    prune_(wider, SandwichTrainingConfig(blocks=1, **ST), Calibration(drive(wider), folder=tmp_path))
    (path,) = tmp_path.rglob("*.safetensors")
    transformer = make_tiny_flux()
    sandwich_training.replace_block_(transformer, Replacement(BlockRef("transformer_blocks", 0), "linear"))
    with pytest.raises(FastFluxError, match=r"another model's block transformer_blocks\.0: delete it"):
        sandwich_training.load_change_(transformer, sandwich_training.read_change(path), path)
