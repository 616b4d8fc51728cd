"""Ways to compute a replaced block: what is the same bit by bit, and what the others lose."""

import torch

from bench.studies.full_size.replacement import WAYS, errors
from fastflux.models.sublayers import LinearReplacementBlock


def problem(dtype: torch.dtype, width: int = 256) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(1, tokens, width, generator=generator).to(dtype) for tokens in (64, 24))
    # As fitted layers have it: the diagonal is where a block scales its own input.
    weight = torch.randn(width, width, generator=generator) * 0.3 / width**0.5 + 0.02 * torch.eye(width)
    return image, text, weight.to(dtype), (0.01 * torch.randn(width, generator=generator)).to(dtype)


def test_the_library_runs_the_way_called_separate() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        image, text, weight, bias = problem(dtype)
        block = LinearReplacementBlock(256, joint=True, dtype=dtype)
        with torch.no_grad():
            block.linear.weight.copy_(weight)
            block.linear.bias.copy_(bias)
            found = block(image, text)
            wanted = WAYS["separate"](image, text, weight, bias)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_adding_in_place_is_the_same_bit_by_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        one, other = (WAYS[name](*problem(dtype)) for name in ("separate", "in_place"))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_all_ways_compute_the_same_function_but_for_rounding() -> None:
    found = errors(*problem(torch.float32))
    assert set(found) == set(WAYS)
    assert max(found.values()) < 1e-6


def test_folding_the_identity_into_a_bfloat16_weight_costs_accuracy() -> None:
    """The diagonal lies near 1 then, where bfloat16 steps by 2^-7: half of it is lost, for every token alike."""
    found = errors(*problem(torch.bfloat16))
    assert found["identity_folded"] > 1.3 * found["separate"]
    assert found["identity_folded"] < 2**-7
    assert found["in_place"] == found["separate"]
