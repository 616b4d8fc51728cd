"""SD3-Shapes: what its training computes is what diffusers' transformer and pipeline compute."""

import pytest
import torch
from torch import Tensor, nn

from bench.shapes.sd3 import BLOCKS, SHALLOW_BLOCKS, Sd3Text, build_sd3, run_with_image_streams, sd3_pipeline, split_sd3
from bench.shapes.text import TextEncoders
from bench.shapes.transformer import initialise_, pack, unpack
from bench.shapes.vae import build_vae

CAPTIONS = ["a photo of a red circle", "a photo of a star"]


@pytest.fixture(scope="module")
def shallow() -> nn.Module:
    transformer = build_sd3(SHALLOW_BLOCKS).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return transformer


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def forward(transformer: nn.Module) -> Tensor:
    with torch.no_grad():
        velocity: Tensor = transformer(
            draw(2, 8, 8, 8), draw(2, 25, 64), draw(2, 128), torch.tensor([300.0, 700.0]), return_dict=False
        )[0]
    return velocity


def test_unpacking_undoes_packing() -> None:
    latents = draw(3, 8, 8, 8)
    assert torch.equal(unpack(pack(latents)), latents)


def test_the_text_is_what_the_pipeline_makes_of_it() -> None:
    text = TextEncoders()
    pipeline = sd3_pipeline(build_sd3(2), text, build_vae().eval(), 1.5)
    with torch.no_grad():
        sequence, pooled = Sd3Text(text)(*text.tokenize(CAPTIONS))
        expected, _, expected_pooled, _ = pipeline.encode_prompt(
            CAPTIONS, None, None, do_classifier_free_guidance=False, max_sequence_length=12
        )
    assert torch.equal(sequence, expected)
    assert torch.equal(pooled, expected_pooled)


def test_the_velocity_is_the_models_own_and_streams_are_both_but_behind_the_last_block(shallow: nn.Module) -> None:
    with torch.no_grad():
        velocity, streams = run_with_image_streams(
            shallow, draw(2, 8, 8, 8), torch.tensor([0.3, 0.7]), (draw(2, 25, 64), draw(2, 128)), (1, SHALLOW_BLOCKS)
        )
    torch.testing.assert_close(velocity, forward(shallow))
    assert [tuple(stream.shape) for stream in streams] == [(2, 16, 64), (2, 25, 64), (2, 16, 64)]


def test_splitting_keeps_the_last_block_and_changes_little(shallow: nn.Module) -> None:
    deep = split_sd3(shallow).eval()
    assert len(deep.transformer_blocks) == BLOCKS
    for mine, others in zip(
        deep.transformer_blocks[-1].state_dict().values(),
        shallow.transformer_blocks[-1].state_dict().values(),  # type: ignore[index, union-attr]
        strict=True,
    ):
        assert torch.equal(mine, others)
    reference = forward(shallow)
    change = (forward(deep) - reference).norm() / reference.norm()
    assert 0 < change < 0.05


def test_the_untrained_model_says_nothing() -> None:
    transformer = build_sd3(2).eval()
    initialise_(transformer)
    assert not forward(transformer).any()
