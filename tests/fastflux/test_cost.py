"""What pruning is said to have taken, against counts by hand."""

import mmap
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from fastflux.calibration.statistics import Calibration
from fastflux.cost import PeakMemory, PruningCost
from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.methods.linear_replacement import LinearReplacementConfig
from fastflux.methods.sandwich_training import SandwichTrainingConfig, read_cost
from fastflux.pruning import prune_
from tests.fastflux.conftest import DiesAtTheThird, Drive, make_tiny_flux, tiny_inputs

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
    # Two linear layers of width 16 (one a stream) in full, LoRA of rank 2 on every linear layer of a double block.
    dense: Any = make_tiny_flux()
    linears = [m for m in dense.transformer_blocks[1].modules() if type(m).__name__ == "Linear"]
    lora = sum(RANK * (m.in_features + m.out_features) for m in linears)
    width = dense.config.num_attention_heads * dense.config.attention_head_dim
    assert cost.trainable_parameters == lora + 2 * (width * width + width)
    assert cost.seconds > 0
    assert cost.peak_memory_bytes is None or cost.peak_memory_bytes > cost.activation_bytes


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


def test_going_on_costs_what_one_run_would_have(drive: Drive, tmp_path: Path) -> None:
    def counts(blocks: int, folder: Path | None = None) -> PruningCost:
        return replace(cost_of(drive, sandwich(blocks, ranking="random"), folder), seconds=0.0, peak_memory_bytes=None)

    whole = counts(3)
    for blocks in (1, 3):
        gone_on = counts(blocks, tmp_path)
    assert gone_on == whole


def test_finetuning_trains_everything_and_a_linear_fit_nothing(drive: Drive) -> None:
    transformer = make_tiny_flux()
    calibration = Calibration(drive(transformer))
    prune_(transformer, L1NormConfig(ratio=0.2, samples=SAMPLES, steps=STEPS, batch=BATCH), calibration)
    cost = calibration.cost
    assert cost.trainable_parameters == sum(p.numel() for p in transformer.parameters())
    assert (cost.block_trainings, cost.block_forwards) == (STEPS * BATCH * 6, SAMPLES * 6)
    assert cost_of(drive, L1NormConfig(ratio=0.2)).trainable_parameters == 0
    linear = cost_of(drive, LinearReplacementConfig(blocks=1))
    assert replace(linear, seconds=0.0, peak_memory_bytes=None) == PruningCost()
    assert linear.seconds > 0
    # The samples' inputs and the dense model's outputs, all float32.
    one = tiny_inputs(transformer, batch=1)
    sample = sum(value.numel() for name, value in one.items() if not name.endswith("_ids"))
    assert cost.activation_bytes == 4 * SAMPLES * (sample + one["hidden_states"].numel())


def test_the_larger_peak_counts_and_work_adds_up() -> None:
    first = PruningCost(1, 2, 3, 40, 5.0, activation_bytes=60, peak_memory_bytes=7)
    second = PruningCost(1, 1, 1, 4, 1.0, activation_bytes=6, peak_memory_bytes=70)
    assert first + second == PruningCost(2, 3, 4, 40, 6.0, activation_bytes=60, peak_memory_bytes=70)
    assert (first + PruningCost()).peak_memory_bytes == 7, "what was not measured does not count"
    assert (PruningCost() + PruningCost()).peak_memory_bytes is None
    for cost in (first, PruningCost()):
        assert PruningCost.parse({name: repr(value) for name, value in asdict(cost).items()}) == cost
    with pytest.raises(KeyError):
        PruningCost.parse({"seconds": "1.0"})


def test_the_bytes_held_by_hand(drive: Drive) -> None:
    transformer = make_tiny_flux()
    cost = cost_of(drive, sandwich(1, ranking="end2start"))
    one = tiny_inputs(transformer, batch=1)
    recorded = sum(value.numel() for name, value in one.items() if not name.endswith("_ids"))
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    # Before the first block, before the sandwich of the last two and behind it: 4 image and 3 text tokens each.
    assert cost.activation_bytes == 4 * SAMPLES * (recorded + 3 * (4 + 3) * width)
    less = cost_of(drive, sandwich(1))  # which begins at the first block
    assert less.activation_bytes == 4 * SAMPLES * (recorded + 2 * (4 + 3) * width)


@pytest.mark.skipif(PeakMemory("cpu").read() is None, reason="this system does not tell a process' peak memory")
def test_the_peak_of_a_process_begins_anew() -> None:
    mib = 2**20
    before = PeakMemory("cpu")
    with mmap.mmap(-1, 256 * mib) as large:  # which the system gets back, whatever malloc is told to keep
        for _ in range(256):
            large.write(b"1" * mib)
        high = before.read()
    after = PeakMemory("cpu").read()
    assert high is not None
    assert after is not None
    assert high - after > 128 * mib
    assert PeakMemory("meta").read() is None


def test_a_peak_that_cannot_begin_anew_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastflux.cost._PROCESS", tmp_path / "absent")
    assert PeakMemory("cpu").read() is None


def test_a_file_without_its_cost_is_named(tmp_path: Path) -> None:
    path = tmp_path / "000.safetensors"
    path.write_bytes(b"cut")
    with pytest.raises(FastFluxError, match=r"000\.safetensors"):
        read_cost(path)
