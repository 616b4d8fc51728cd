"""FastFLUX's method: blocks replaced one at a time, each followed by Sandwich Training (paper section 3.2)."""

from fastflux.methods.sandwich_training.config import SandwichTrainingConfig, require_spans
from fastflux.methods.sandwich_training.method import read_change, read_cost, replace_and_train_

__all__ = ["SandwichTrainingConfig", "read_change", "read_cost", "replace_and_train_", "require_spans"]
