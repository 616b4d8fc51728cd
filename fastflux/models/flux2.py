"""FLUX.2: modulation computed once for all blocks, gated MLPs, single blocks that take text and image as one tensor."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import Flux2Transformer2DModel
from diffusers.models.transformers.transformer_flux2 import Flux2SingleTransformerBlock, Flux2TransformerBlock
from torch import Tensor

from fastflux.models.architecture import Architecture, BlockStack, SlicedLayers, register_architecture
from fastflux.models.flux import LATENTS_PER_TOKEN, unpooled_inputs


def example_inputs(
    transformer: Any, batch: int, rows: int, columns: int, text_tokens: int, draw: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """Arguments of a forward for latents of ``rows`` x ``columns``, packed 2 x 2, as `fastflux.models.flux` gives them.

    Position ids are (time, row, column, place in the text).
    """
    inputs = unpooled_inputs(transformer, batch, rows, columns, text_tokens, draw)
    nothing = torch.arange(1)
    rows, columns = rows // LATENTS_PER_TOKEN, columns // LATENTS_PER_TOKEN
    return inputs | {
        "img_ids": torch.cartesian_prod(nothing, torch.arange(rows), torch.arange(columns), nothing),
        "txt_ids": torch.cartesian_prod(nothing, nothing, nothing, torch.arange(text_tokens)),
    }


FLUX2 = register_architecture(
    Architecture(
        name="FLUX.2",
        model_class=Flux2Transformer2DModel,
        pruned_class="FastFluxFlux2Transformer2DModel",
        pipeline_classes=("Flux2KleinPipeline", "Flux2Pipeline"),
        stacks=(
            BlockStack(
                "transformer_blocks",
                Flux2TransformerBlock,
                "double",
                halves=True,
                sliced=SlicedLayers(
                    mlps=tuple((f"{name}.linear_in", f"{name}.linear_out") for name in ("ff", "ff_context"))
                ),
            ),
            BlockStack(
                "single_transformer_blocks",
                Flux2SingleTransformerBlock,
                "single",
                joint=True,
                joined=True,
                halves=True,
                sliced=SlicedLayers(
                    inputs=("attn.to_qkv_mlp_proj",),
                    outputs=("attn.to_out",),
                    mlps=(("attn.to_qkv_mlp_proj", "attn.to_out"),),
                ),
            ),
        ),
        make_inputs=example_inputs,
    )
)
