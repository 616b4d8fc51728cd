"""LongCat-Image: FLUX.1's blocks, without pooled text; guidance takes a second prompt."""

from typing import Any

from diffusers import LongCatImageTransformer2DModel
from diffusers.models.transformers.transformer_longcat_image import (
    LongCatImageSingleTransformerBlock,
    LongCatImageTransformerBlock,
)

from fastflux.models.architecture import Architecture, BlockStack, register_architecture
from fastflux.models.flux import SINGLE_LAYERS, unpooled_inputs


def guided(prompts: int, guidance: float) -> dict[str, Any]:
    """With a blank second prompt for each, of which the pipeline itself takes one; prompts are not written anew."""
    return {"guidance_scale": guidance, "negative_prompt": [""] * prompts, "enable_prompt_rewrite": False}


LONGCAT_IMAGE = register_architecture(
    Architecture(
        name="LongCat-Image",
        model_class=LongCatImageTransformer2DModel,
        pruned_class="FastFluxLongCatImageTransformer2DModel",
        pipeline_classes=("LongCatImagePipeline",),
        stacks=(
            BlockStack("transformer_blocks", LongCatImageTransformerBlock, "double"),
            BlockStack(
                "single_transformer_blocks",
                LongCatImageSingleTransformerBlock,
                "single",
                joint=True,
                sliced=SINGLE_LAYERS,
            ),
        ),
        make_inputs=unpooled_inputs,
        guided=guided,
    )
)
