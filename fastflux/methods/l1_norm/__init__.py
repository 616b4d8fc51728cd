"""The baseline: attention heads and MLP channels of small L1 norm removed in every block, then fine-tuning."""

from fastflux.methods.l1_norm.config import L1NormConfig
from fastflux.methods.l1_norm.method import prune_widths_, rebuild_, slice_by_l1_norm_
from fastflux.methods.l1_norm.widths import choose_widths, largest_ratio

__all__ = ["L1NormConfig", "choose_widths", "largest_ratio", "prune_widths_", "rebuild_", "slice_by_l1_norm_"]
