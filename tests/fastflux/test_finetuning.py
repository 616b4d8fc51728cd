"""Global fine-tuning after L1-norm slicing: it helps, it is the same every time, and it says what it cannot do."""

from typing import Any

import pytest
import torch

from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.pruning import prune_
from tests.fastflux.conftest import Drive, make_tiny_flux, run, tiny_inputs


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
