"""Block order, the paper's counts and example inputs."""

from inspect import signature
from typing import Any

import pytest
import torch

import fastflux
from fastflux.errors import FastFluxError
from fastflux.models.architecture import architecture_of, example_inputs
from fastflux.models.pruned import pruned_class_of
from fastflux.models.sublayers import BLOCK_CLASSES, LINEAR_BLOCKS
from fastflux.models.surgery import get_block
from fastflux.plan import PAPER_BLOCKS, block_count
from tests.fastflux.conftest import make_tiny_flux
from tests.fastflux.families import CONFIGS, make


@pytest.mark.parametrize("name", CONFIGS)
def test_pruned_classes_are_made_of_diffusers_own(name: str) -> None:
    with torch.device("meta"):
        dense = make(name)
    family = architecture_of(dense)
    ours = pruned_class_of(family)
    arguments = list(signature(family.model_class.__init__).parameters)
    assert list(signature(ours.__init__).parameters) == [*arguments, "pruning_plan"]
    assert signature(ours.forward) == signature(family.model_class.forward)
    assert (ours.__module__, ours.__name__) == ("fastflux", family.pruned_class)
    assert getattr(fastflux, family.pruned_class) is ours
    assert all(type(get_block(dense, block)) is family.stack(block).block_class for block in family.chain(dense))
    kinds = {stack.block_class for stack in family.stacks} | {LINEAR_BLOCKS[stack.joined] for stack in family.stacks}
    kinds |= {*BLOCK_CLASSES} if all(stack.halves for stack in family.stacks) else set()
    assert {kind.__name__ for kind in kinds} == set(ours._no_split_modules) == set(ours._repeated_blocks)


def test_paper_block_counts() -> None:
    """Table 6 of the paper."""
    assert [block_count(ratio / 100, PAPER_BLOCKS) for ratio in (0, 5, 10, 15, 20, 25, 30)] == [0, 3, 5, 8, 11, 14, 16]


def test_other_depths_count_all_blocks() -> None:
    assert [block_count(ratio, 6) for ratio in (0.0, 0.5, 1.0)] == [0, 3, 6]


def test_blocks_come_in_the_order_of_the_data_flow(transformer: Any) -> None:
    names = [str(block) for block in architecture_of(transformer).blocks(transformer)]
    assert names == [f"transformer_blocks.{i}" for i in range(2)] + [f"single_transformer_blocks.{i}" for i in range(4)]


def test_example_inputs_are_those_of_the_pipeline(transformer: Any) -> None:
    inputs = example_inputs(transformer, 2, 32, 48, 5)
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {
        "hidden_states": (2, 6, 8), "encoder_hidden_states": (2, 5, 12), "pooled_projections": (2, 10),
        "timestep": (2,), "img_ids": (6, 3), "txt_ids": (5, 3), "guidance": (2,),
    }  # fmt: skip
    assert inputs["img_ids"].tolist() == [[0, row, column] for row in range(2) for column in range(3)]
    assert transformer(**inputs).sample.shape == (2, 6, 8)


def test_example_inputs_are_seeded(transformer: Any) -> None:
    first, second = (
        example_inputs(transformer, 1, 16, 16, 2, torch.Generator().manual_seed(3))["hidden_states"] for _ in range(2)
    )
    assert torch.equal(first, second)


def test_example_inputs_without_guidance_and_in_another_dtype() -> None:
    transformer = make_tiny_flux(guidance_embeds=False).to(torch.bfloat16)
    inputs = example_inputs(transformer, 1, 16, 16, 2, dtype=torch.bfloat16)
    assert "guidance" not in inputs
    assert inputs["img_ids"].dtype == torch.float32  # positions are not rounded
    assert transformer(**inputs).sample.dtype == torch.bfloat16


def test_example_inputs_on_the_meta_device() -> None:
    with torch.device("meta"):
        transformer = make_tiny_flux()
    inputs = example_inputs(transformer, 1, 32, 32, 3, torch.Generator(), device="meta")
    assert transformer(**inputs).sample.shape == (1, 4, 8)


@pytest.mark.parametrize("size", [(20, 32), (32, 0)])
def test_pixels_that_fill_no_tokens(transformer: Any, size: tuple[int, int]) -> None:
    with pytest.raises(FastFluxError, match="must be a multiple of 16"):
        example_inputs(transformer, 1, *size, 3)
