"""`python -m bench.studies.families`: sizes of published models of all families, without weights, as Markdown.

Parameters are counted on diffusers' own models on the meta device, FLOPs by `bench.metrics.cost.flops` in a
forward for one picture: under classifier-free guidance a step takes two.
"""

from __future__ import annotations

import copy
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from bench.metrics.cost.flops import flops_by_block, kind_of_block
from bench.studies.full_size.variants import HALVES
from fastflux.models.architecture import architecture_of, config_of
from fastflux.models.pruned import parameter_count
from fastflux.models.surgery import get_block, hidden_size, replace_block_
from fastflux.plan import Replacement

PUBLISHED: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
PIXELS = 1024
LATENT_PIXELS = 8  # a side
HEADER = (
    *("Model", "Blocks", "Parameters", "bf16, GB", "with offload", "TFLOPs a forward", "A replaced block saves"),
    "Its attention alone, its MLP alone",
)


@dataclass(frozen=True)
class Size:
    """One model: parameters, FLOPs of a forward, and of each kind of block its number, parameters and FLOPs.

    ``resident`` are the parameters that lie on a GPU while blocks are offloaded: all but the blocks, and the largest.
    ``saves`` are the shares of parameters and FLOPs that a linear layer in the place of one block of a kind saves,
    ``halves`` those that layers in the place of its attention, and of its MLP, save, where they are replaced apart.
    """

    blocks: dict[str, int]
    parameters: int
    resident: int
    flops: int
    saves: dict[str, tuple[float, float]]
    halves: dict[str, list[tuple[float, float]]]


def published(name: str) -> Any:
    """A published model on the meta device."""
    entry = PUBLISHED[name]
    with torch.device("meta"):
        return getattr(diffusers, entry["class"])(**entry.get("config", {}))


def size_of(model: nn.Module, pixels: int = PIXELS) -> Size:
    """Count a model that draws ``pixels`` x ``pixels``."""
    architecture, width = architecture_of(model), hidden_size(model)
    table, total = flops_by_block(model, pixels, pixels), parameter_count(model)
    side = pixels // (LATENT_PIXELS * architecture.latents_per_token(config_of(model)))
    linear = 2 * (side**2 + table.text_tokens) * width**2  # FLOPs of a layer over all tokens
    counted, largest, saves, halves = 0, 0, {}, {}
    for block in architecture.chain(model):
        own = parameter_count(get_block(model, block))
        counted, largest = counted + own, max(largest, own)
        if block in architecture.blocks(model):
            layers = 1 if architecture.stack(block).joint else 2
            kind = kind_of_block(model, block)
            saved = own - layers * (width**2 + width), table.each[kind] - linear
            if kind not in saves and architecture.stack(block).halves:
                apart = (_counted(model, Replacement(block, half), pixels) for half in HALVES.values())
                halves[kind] = [(1 - left / total, 1 - flops / table.forward) for left, flops in apart]
            saves[kind] = (saved[0] / total, saved[1] / table.forward)
    return Size(table.counts, total, total - counted + largest, table.forward, saves, halves)


def _counted(model: nn.Module, replacement: Replacement, pixels: int) -> tuple[int, int]:
    """Parameters and a forward's FLOPs with a replacement."""
    pruned = copy.deepcopy(model)
    replace_block_(pruned, replacement)
    return parameter_count(pruned), flops_by_block(pruned, pixels, pixels).forward


def row(name: str) -> tuple[str, ...]:
    """A model's line of the table."""
    size = size_of(published(name))
    told = PUBLISHED[name]["parameters"]
    known = told if isinstance(told, str) else f"{told:,}"
    saves = (f"{kind} {own:.2%} of parameters, {flops:.2%} of FLOPs" for kind, (own, flops) in size.saves.items())
    return (
        name,
        " + ".join(f"{count} {kind}" for kind, count in size.blocks.items()),
        f"{size.parameters:,}" if size.parameters == told else f"{size.parameters:,} ({known})",
        f"{size.parameters * 2 / 1e9:.1f}",
        f"{size.resident * 2 / 1e9:.1f}",
        f"{size.flops / 1e12:.3f}",
        "; ".join(saves),
        "; ".join(
            f"{kind} {', '.join(f'{own:.2%} and {flops:.2%}' for own, flops in pairs)}"
            for kind, pairs in size.halves.items()
        ),
    )


def main() -> None:
    """Print the table."""
    lines = [HEADER, ("---",) * len(HEADER), *map(row, PUBLISHED)]
    print("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


if __name__ == "__main__":
    main()
