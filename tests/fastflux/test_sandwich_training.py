"""Sandwich Training on the tiny model: it helps, it touches what it may, and it goes on where it was stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastflux.calibration.importance import rank_blocks
from fastflux.calibration.recording import BlockStates, record_inputs
from fastflux.calibration.statistics import Calibration
from fastflux.errors import FastFluxError
from fastflux.methods.linear_replacement import LinearReplacementConfig
from fastflux.methods.sandwich_training import SandwichTrainingConfig, read_change
from fastflux.methods.sandwich_training import method as sandwich_training
from fastflux.methods.sandwich_training.config import sandwich_around
from fastflux.models.architecture import architecture_of
from fastflux.models.pruned import plan_of
from fastflux.models.surgery import get_block
from fastflux.plan import BlockRef
from fastflux.pruning import prune_
from tests.fastflux.conftest import DAMAGES, DiesAtTheThird, Drive, harm, make_tiny_flux, run, tiny_inputs

SMALL: dict[str, Any] = {"ranking": "random", "samples": 32, "steps": 6, "rank": 2, "batch": 8}


def pruned(drive: Drive, folder: Path | None = None, **settings: Any) -> Any:
    transformer = make_tiny_flux()
    calibration = Calibration(drive(transformer), folder=folder, batch_size=8)
    prune_(transformer, SandwichTrainingConfig(**{**SMALL, **settings}), calibration)
    return transformer


def equal(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value, states[1][name]) for name, value in states[0].items()
    )


def error(transformer: nn.Module) -> float:
    dense = make_tiny_flux()
    inputs = [tiny_inputs(dense, seed, batch=8) for seed in range(20, 24)]
    return sum(float((run(transformer, one) - run(dense, one)).square().mean()) for one in inputs)


def many(transformer: nn.Module) -> Callable[[], None]:
    """Enough forwards that training cannot learn them by heart."""

    def forwards() -> None:
        for seed in range(100, 116):
            run(transformer, tiny_inputs(transformer, seed, batch=16))

    return forwards


def test_dense_targets_bring_the_model_nearer_than_its_own(drive: Drive) -> None:
    settings: dict[str, Any] = {"blocks": 3, "ranking": "start2end", "steps": 100, "lr": 1e-2, "linear_lr": 1e-2}
    own, dense = (pruned(drive, targets=targets, **settings) for targets in ("current", "dense"))
    assert error(dense) < error(own)
    assert "targets" not in plan_of(own).config, "plans from before there was a choice keep their hashes"
    assert plan_of(dense).config["targets"] == "dense"


def test_training_brings_the_model_nearer_to_the_dense_one() -> None:
    plain = make_tiny_flux()
    prune_(plain, LinearReplacementConfig(blocks=2, ranking="random"), many(plain))
    trained = pruned(many, blocks=2, samples=256, steps=200, rank=4, linear_lr=1e-3)
    assert error(trained) < 0.9 * error(plain)


def test_each_sandwich_lowers_its_loss(drive: Drive, tmp_path: Path) -> None:
    from safetensors import safe_open

    pruned(drive, tmp_path, blocks=3, steps=40)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 3
    for path in files:
        with safe_open(path, framework="pt") as file:
            figures = file.metadata()
        assert float(figures["loss_after"]) < float(figures["loss_before"])


def test_only_the_sandwich_changes_and_no_lora_is_left(drive: Drive) -> None:
    transformer, dense = pruned(drive, blocks=1), make_tiny_flux()
    blocks = architecture_of(dense).blocks(dense)
    plan_block = rank_blocks("random", dense, None, seed=0)[0]
    span = sandwich_around(plan_block, (), blocks)
    for block in blocks:
        if block not in span.blocks:
            assert equal(get_block(transformer, block), get_block(dense, block))
    for block in span.adapted:
        assert get_block(transformer, block).state_dict().keys() == get_block(dense, block).state_dict().keys()
        assert not equal(get_block(transformer, block), get_block(dense, block))
    assert all(parameter.requires_grad for parameter in transformer.parameters())
    assert not any("lora" in name or "base_layer" in name for name, _ in transformer.named_modules())


def test_the_same_settings_give_the_same_bits(drive: Drive) -> None:
    assert equal(pruned(drive, blocks=2), pruned(drive, blocks=2))
    assert not equal(pruned(drive, blocks=2), pruned(drive, blocks=2, seed=1))


def test_interrupted_at_any_block_it_ends_bit_identical(
    drive: Drive, tmp_path: Path, dies_at_the_third: DiesAtTheThird
) -> None:
    with pytest.raises(KeyboardInterrupt):
        pruned(drive, tmp_path, blocks=3)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    continued = pruned(drive, tmp_path, blocks=3)
    assert dies_at_the_third.calls == 4, "two blocks were read, the third was trained"
    assert equal(continued, pruned(drive, blocks=3))


@pytest.mark.parametrize("change", [None, "weight", "config", "shared", "batch", "steps"])
def test_progress_of_anything_else_is_not_taken(change: str | None, drive: Drive, tmp_path: Path) -> None:
    for changed in (None, change):
        transformer = make_tiny_flux()
        forwards, settings = drive(transformer), SMALL
        if changed == "weight":  # its last bit alone
            with torch.no_grad():
                transformer.x_embedder.weight.view(-1)[1:2].view(torch.int32).bitwise_xor_(1)
        elif changed == "config":
            transformer.register_to_config(axes_dims_rope=(2, 2, 4))
        elif changed == "shared":
            ids = torch.ones(4, 3)

            def forwards(transformer: Any = transformer, ids: torch.Tensor = ids) -> None:
                for seed in range(4):
                    run(transformer, {**tiny_inputs(transformer, seed, batch=8), "img_ids": ids})

        elif changed == "steps":
            settings = {**SMALL, "steps": 5}
        calibration = Calibration(forwards, folder=tmp_path, batch_size=4 if changed == "batch" else 8)
        prune_(transformer, SandwichTrainingConfig(**settings, blocks=1), calibration)
    assert len(list(tmp_path.iterdir())) == (1 if change is None else 2)


def test_lower_ratios_lie_on_the_way(drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned(drive, tmp_path, blocks=3)
    expected = pruned(drive, blocks=2)
    monkeypatch.setattr(sandwich_training, "train_sandwich_", None)  # nothing may be trained again
    assert equal(pruned(drive, tmp_path, blocks=2), expected)


def test_reuse_takes_what_the_higher_ratio_trained(drive: Drive, tmp_path: Path) -> None:
    low, high = pruned(drive, tmp_path, ratio=0.34), pruned(drive, tmp_path, ratio=0.67)
    reused = pruned(drive, tmp_path, ratio=0.34, reuse_from=0.67)
    assert not equal(reused, low)
    for block in architecture_of(low).blocks(low):
        kept, spared = get_block(high, block), get_block(low, block)
        same_kind = type(kept) is type(spared)
        assert equal(get_block(reused, block), kept if same_kind else spared)


@pytest.mark.parametrize("layers", [1, 3, 5])
@pytest.mark.parametrize("replacement", ["linear", "removed"])
def test_sizes_and_kinds(drive: Drive, layers: int, replacement: str) -> None:
    transformer = pruned(drive, blocks=2, layers=layers, replacement=replacement, steps=2)
    assert torch.isfinite(run(transformer)).all()


def test_states_are_reused_and_forgotten_when_blocks_change(drive: Drive) -> None:
    transformer = make_tiny_flux()
    states = BlockStates(transformer, record_inputs(transformer, drive(transformer), samples=16), batch_size=8)
    blocks = states.blocks
    first = states.before(blocks[4])
    assert states.block_forwards == 4 * 16
    states.before(blocks[5])
    assert states.block_forwards == 5 * 16, "one block further, from the place kept"
    with torch.no_grad():
        get_block(transformer, blocks[1]).norm1.linear.bias.add_(0.5)  # type: ignore[union-attr, operator]
    states.invalidate(blocks[1])
    again = states.before(blocks[4])
    assert not torch.equal(again[0][0], first[0][0])
    fresh = BlockStates(transformer, states.inputs, batch_size=8).before(blocks[4])
    assert all(torch.equal(a, b) for one, two in zip(again, fresh, strict=True) for a, b in zip(one, two, strict=True))


def test_recording_is_bounded_even_and_complete(drive: Drive) -> None:
    transformer = make_tiny_flux()
    inputs = record_inputs(transformer, drive(transformer), samples=10)
    assert len(inputs) == 10
    assert sum(len(batch["timestep"]) for batch in inputs.batches(4)) == 10
    with pytest.raises(FastFluxError, match="32 images and steps, but 33"):
        record_inputs(transformer, drive(transformer), samples=33)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"layers": 2}, "2 layers"),
        ({"replacement": "liner"}, "did you mean 'linear'"),
        ({"blocks": None, "ratio": 0.5, "reuse_from": 0.3}, "reuse_from is 0.3"),
    ],
)
def test_bad_settings_come_before_the_work(drive: Drive, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FastFluxError, match=message):
        pruned(drive, **{"blocks": 2, **settings})


def test_a_diverging_sandwich_is_an_error(drive: Drive) -> None:
    with pytest.raises(FastFluxError, match="not finite at step"):
        pruned(drive, blocks=1, lr=1e30, linear_lr=1e30, steps=30)


@pytest.mark.parametrize("damage", DAMAGES[::2])
def test_a_damaged_change_is_made_again(damage: str, drive: Drive, tmp_path: Path) -> None:
    whole = pruned(drive, tmp_path, blocks=1)
    (path,) = tmp_path.rglob("*.safetensors")
    assert all(isinstance(block, BlockRef) for block in read_change(path))
    harm(path, damage)
    with pytest.raises(FastFluxError, match=f"{path.name}.*: delete it|{path.name} is damaged"):
        read_change(path)
    assert equal(pruned(drive, tmp_path, blocks=1), whole)
    assert read_change(path)
