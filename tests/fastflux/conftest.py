"""A FLUX transformer small enough for every test, with statistics of a few forwards."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from fastflux.architectures import architecture_of, example_inputs
from fastflux.calibration import Statistics, collect_statistics
from fastflux.methods import sandwich_training
from fastflux.model import attach_plan_
from fastflux.plan import PruningPlan, Replacement
from fastflux.surgery import replace_block_

Drive = Callable[[nn.Module], Callable[[], None]]

TINY = {
    "in_channels": 8,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "pooled_projection_dim": 10,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 2, 2),
}


def make_tiny_flux(seed: int = 0, **changes: Any) -> Any:
    """A dense transformer of 2 double and 4 single blocks, 2 heads x 8, with seeded random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FluxTransformer2DModel(**{**TINY, **changes}).eval()


def make_replaced_flux(linear: Collection[int], removed: Collection[int] = (), seed: int = 0) -> Any:
    """The tiny model whose blocks at the places ``linear`` are linear layers of random weights."""
    transformer = make_tiny_flux()
    blocks = architecture_of(transformer).blocks(transformer)
    replacements = tuple(
        Replacement(blocks[place], "linear" if place in linear else "removed") for place in sorted({*linear, *removed})
    )
    generator = torch.Generator().manual_seed(seed)
    for replacement in replacements:
        for parameter in replace_block_(transformer, replacement).parameters():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    attach_plan_(
        transformer, PruningPlan("tiny", "r1", "linear_replacement", {"blocks": len(replacements)}, replacements)
    )
    return transformer


def tiny_inputs(transformer: nn.Module, seed: int = 0, batch: int = 2) -> dict[str, Tensor]:
    """Inputs of a forward with 4 image and 3 text tokens."""
    return example_inputs(transformer, batch, 32, 32, 3, torch.Generator().manual_seed(seed))


def run(transformer: nn.Module, inputs: dict[str, Tensor] | None = None) -> Tensor:
    """The transformer's output for the tiny inputs."""
    with torch.no_grad():
        output: Tensor = transformer(**(inputs or tiny_inputs(transformer)), return_dict=False)[0]
    return output


@pytest.fixture
def transformer() -> Any:
    return make_tiny_flux()


@pytest.fixture(scope="session")
def drive() -> Drive:
    """Four forwards of a transformer."""

    def driver(transformer: nn.Module) -> Callable[[], None]:
        def forwards() -> None:
            for seed in range(4):
                run(transformer, tiny_inputs(transformer, seed, batch=8))

        return forwards

    return driver


@pytest.fixture(scope="session")
def statistics(drive: Drive) -> Statistics:
    dense = make_tiny_flux()
    return collect_statistics(dense, drive(dense))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "transformer"


class DiesAtTheThird:
    """Stands in for the training of a sandwich: the third call is interrupted, all others go through."""

    def __init__(self) -> None:
        self.calls = 0
        self._train = sandwich_training.train_sandwich_

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return self._train(*arguments, **options)


@pytest.fixture
def dies_at_the_third(monkeypatch: pytest.MonkeyPatch) -> DiesAtTheThird:
    """Sandwich Training from here on, with the calls it has counted."""
    stand_in = DiesAtTheThird()
    monkeypatch.setattr(sandwich_training, "train_sandwich_", stand_in)
    return stand_in
