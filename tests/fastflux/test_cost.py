"""What pruning is said to have taken, against counts by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastflux.calibration import Calibration
from fastflux.cost import PruningCost
from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.methods.linear_replacement import LinearReplacementConfig
from fastflux.methods.sandwich_training import SandwichTrainingConfig, read_cost
from fastflux.pruning import prune_
from tests.fastflux.conftest import DiesAtTheThird, Drive, make_tiny_flux

STEPS, BATCH, SAMPLES, RANK = 3, 4, 16, 2


def cost_of(drive: Drive, config: Any, folder: Path | None = None) -> PruningCost:
    transformer = make_tiny_flux()
    calibration = Calibration(drive(transformer), folder=folder, batch_size=8)
    prune_(transformer, config, calibration)
    return calibration.cost


def sandwich(blocks: int, **settings: Any) -> SandwichTrainingConfig:
    small = {"ranking": "start2end", "samples": SAMPLES, "steps": STEPS, "rank": RANK, "batch": BATCH}
    return SandwichTrainingConfig(blocks=blocks, **{**small, **settings})


def test_the_first_sandwich_by_hand(drive: Drive) -> None:
    cost = cost_of(drive, sandwich(1))
    # The first block and the next: nothing lies before it. Both run once for the targets and twice for the losses.
    assert cost.block_forwards == SAMPLES * 2 * 3
    assert cost.block_trainings == STEPS * BATCH * 2
    assert cost.training_steps == STEPS
    # Two linear layers of width 64 (one a stream) in full, LoRA of rank 2 on every linear layer of a double block.
    dense: Any = make_tiny_flux()
    linears = [m for m in dense.transformer_blocks[1].modules() if type(m).__name__ == "Linear"]
    lora = sum(RANK * (m.in_features + m.out_features) for m in linears)
    width = dense.config.num_attention_heads * dense.config.attention_head_dim
    assert cost.trainable_parameters == lora + 2 * (width * width + width)
    assert cost.seconds > 0


def test_costs_add_up_and_are_the_same_after_an_interruption(
    drive: Drive, tmp_path: Path, dies_at_the_third: DiesAtTheThird
) -> None:
    with pytest.raises(KeyboardInterrupt):
        cost_of(drive, sandwich(3), tmp_path)
    continued = cost_of(drive, sandwich(3), tmp_path)
    assert dies_at_the_third.calls == 4
    files = sorted(tmp_path.rglob("*.safetensors"))
    total = sum((read_cost(file) for file in files), PruningCost())
    assert continued == total
    assert continued.training_steps == 3 * STEPS
    lower = cost_of(drive, sandwich(2), tmp_path)
    assert lower == read_cost(files[0]) + read_cost(files[1])


def test_finetuning_trains_everything_and_a_linear_fit_nothing(drive: Drive) -> None:
    transformer = make_tiny_flux()
    calibration = Calibration(drive(transformer))
    prune_(transformer, L1NormConfig(ratio=0.2, samples=SAMPLES, steps=STEPS, batch=BATCH), calibration)
    cost = calibration.cost
    assert cost.trainable_parameters == sum(p.numel() for p in transformer.parameters())
    assert (cost.block_trainings, cost.block_forwards) == (STEPS * BATCH * 6, SAMPLES * 6)
    assert cost_of(drive, L1NormConfig(ratio=0.2)).trainable_parameters == 0
    linear = cost_of(drive, LinearReplacementConfig(blocks=1))
    assert replace(linear, seconds=0.0) == PruningCost()
    assert linear.seconds > 0


def test_a_file_without_its_cost_is_named(tmp_path: Path) -> None:
    path = tmp_path / "000.safetensors"
    path.write_bytes(b"cut")
    with pytest.raises(FastFluxError, match=r"000\.safetensors"):
        read_cost(path)
