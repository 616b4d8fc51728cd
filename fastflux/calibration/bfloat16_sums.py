"""Sums over bfloat16 samples in float32: products of matrices, and cosines of rows."""

import torch
from torch import Tensor

ROWS = 4096
"""The most terms of one product's sums: see `float32_product`."""


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """As ``torch.nn.functional.cosine_similarity`` of a float32 matrix's rows and another's, in three sums.

    That divides both by their rows' sizes first: ten passes over a matrix instead of six.
    """
    one, two = (torch.linalg.vector_norm(v, dim=1, dtype=torch.float32).clamp_min(1e-8) for v in (first, second))
    found: Tensor = (first * second).sum(dim=1) / (one * two)
    return found


def float32_product(left: Tensor, right: Tensor) -> Tensor:
    """The product of two bfloat16 matrices, each entry's terms exact and summed in float32.

    At most `ROWS` terms at once: tensor cores cut off what a sum's lower bits do not hold, so that within one
    product the error grows with the terms, not with their root.
    """

    def multiply(part: slice) -> Tensor:
        if left.is_cuda:
            return torch.mm(left[:, part], right[part], out_dtype=torch.float32)
        return left[:, part].float() @ right[part].float()

    product = multiply(slice(0, ROWS))
    for start in range(ROWS, len(right), ROWS):
        product += multiply(slice(start, start + ROWS))
    return product
