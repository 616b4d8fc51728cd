"""Pruning methods: a frozen config class and a function each, registered on the config's type."""

from fastflux.methods import (
    block_removal,
    l1_norm,
    linear_replacement,
    sandwich_training,
    sublayer_replacement,
    width_pruning,
)

__all__ = [
    "block_removal",
    "l1_norm",
    "linear_replacement",
    "sandwich_training",
    "sublayer_replacement",
    "width_pruning",
]
