"""Beyond the paper: linear layers for whole blocks or halves of them, chosen by what they do to the output."""

from fastflux.methods.sublayer_replacement.method import SublayerReplacementConfig, replace_chosen_

__all__ = ["SublayerReplacementConfig", "replace_chosen_"]
