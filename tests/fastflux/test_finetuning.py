"""Global fine-tuning after L1-norm slicing: it helps, it is the same every time, and it says what it cannot do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastflux.calibration.statistics import Calibration
from fastflux.errors import FastFluxError
from fastflux.methods import finetuning as descent
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.methods.sublayer_replacement import SublayerReplacementConfig
from fastflux.pruning import prune_
from tests.fastflux.conftest import Drive, harm, make_tiny_flux, run, tiny_inputs

TRAINED = {
    "l1_norm": L1NormConfig(ratio=0.2, samples=16, steps=7),
    "sublayer_replacement": SublayerReplacementConfig(
        flops=0.8, samples=16, scored=4, trajectories=0, steps=7, rank=2, batch=4
    ),
}


def sliced(drive: Drive, **settings: Any) -> Any:
    transformer = make_tiny_flux()
    prune_(transformer, L1NormConfig(ratio=0.2, samples=32, **settings), drive(transformer))
    return transformer


def error(transformer: Any) -> float:
    inputs = tiny_inputs(transformer, seed=1, batch=8)
    return float((run(transformer, inputs) - run(make_tiny_flux(), inputs)).square().mean())


def test_finetuning_brings_the_model_nearer_to_the_dense_one(drive: Drive) -> None:
    assert error(sliced(drive, steps=60, lr=1e-3)) < 0.5 * error(sliced(drive))


def test_the_same_settings_give_the_same_bits(drive: Drive) -> None:
    first, second, other = (sliced(drive, steps=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(run(first), run(second))
    assert not torch.equal(run(first), run(other))
    assert all(parameter.requires_grad for parameter in first.parameters())


def test_slicing_alone_needs_no_calibration() -> None:
    prune_(make_tiny_flux(), L1NormConfig(ratio=0.2))
    with pytest.raises(FastFluxError, match="needs calibration"):
        prune_(make_tiny_flux(), L1NormConfig(ratio=0.2, steps=1))


@pytest.mark.parametrize("settings", [{"steps": -1}, {"batch": 0}, {"lr": 0.0}, {"lr": float("inf")}])
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(FastFluxError, match=f"Fine-tuning's {next(iter(settings))} is"):
        L1NormConfig(ratio=0.2, **settings)


def test_divergence_is_an_error(drive: Drive) -> None:
    with pytest.raises(FastFluxError, match="not finite at step"):
        sliced(drive, steps=20, lr=1e30)


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize(("between", "first"), [("nothing", 5), ("other settings", 0), ("damage", 0)])
def test_a_killed_training_goes_on_to_the_same_bits(
    method: str, between: str, first: int, drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    dies = -1

    def step(number: int, steps: int, factor: Any = descent.warmup_cosine) -> float:
        if number == dies:
            raise KeyboardInterrupt
        taken.append(number)
        return float(factor(number, steps))

    def trained(folder: Path | None, **changes: Any) -> tuple[Any, Any]:
        transformer = make_tiny_flux()
        calibration = Calibration(drive(transformer), batch_size=8, folder=folder)
        prune_(transformer, replace(TRAINED[method], **changes), calibration)
        return run(transformer), replace(calibration.cost, seconds=0.0, peak_memory_bytes=None)

    for name in ("PAUSE", "SHARE"):
        monkeypatch.setattr(descent, name, 0)
    monkeypatch.setattr(descent, "warmup_cosine", step)
    changes = {"lr": 2e-3} if between == "other settings" else {}
    expected, cost = trained(None, **changes)
    dies = 5
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path)
    dies = -1
    [state] = tmp_path.glob("finetuning-*")
    if between == "damage":
        harm(state, "last bit")
    taken.clear()
    again, spent = trained(tmp_path, **changes)
    assert taken[0] == first
    assert torch.equal(again, expected)
    assert spent == cost
    assert [path for path in tmp_path.glob("finetuning-*") if path != state] == []
    assert state.exists() == (between == "other settings")
