"""LoRA in blocks that training adapts, merged into their weights afterwards."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from torch import nn

from fastflux.errors import FastFluxError
from fastflux.models.surgery import hidden_size

ADAPTER = "repair"


def require_rank(rank: int, transformer: nn.Module) -> None:
    """Raise ``FastFluxError`` unless LoRA of that rank fits the transformer."""
    width = hidden_size(transformer)
    if not 1 <= rank <= width:
        raise FastFluxError(f"The LoRA rank is {rank}, but it must lie between 1 and the width, {width}.")


def adapt(blocks: Sequence[nn.Module], rank: int, *, seed: int, spared: Collection[nn.Module] = ()) -> list[Any]:
    """LoRA of scale 1 on all linear layers of the blocks but the ``spared``; peft's tuners, which can merge it."""
    tuners = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # peft draws the matrices from the global generator
        for block in blocks:
            left = [(name, module) for name, module in block.named_modules() if isinstance(module, nn.Linear)]
            if names := [name for name, module in left if not any(module is one for one in spared)]:
                config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
                tuners.append(LoraModel(block, config, ADAPTER))
    return tuners


def adapter_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The matrices that `adapt` has put below a module."""
    return [parameter for name, parameter in module.named_parameters() if f".{ADAPTER}." in name]
