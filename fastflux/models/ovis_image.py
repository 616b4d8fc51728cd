"""Ovis-Image: FLUX.1's blocks with gated MLPs, without pooled text."""

from diffusers import OvisImageTransformer2DModel
from diffusers.models.transformers.transformer_ovis_image import (
    OvisImageSingleTransformerBlock,
    OvisImageTransformerBlock,
)

from fastflux.models.architecture import Architecture, BlockStack, register_architecture
from fastflux.models.flux import SINGLE_LAYERS, unpooled_inputs

OVIS_IMAGE = register_architecture(
    Architecture(
        name="Ovis-Image",
        model_class=OvisImageTransformer2DModel,
        pruned_class="FastFluxOvisImageTransformer2DModel",
        pipeline_classes=("OvisImagePipeline",),
        stacks=(
            BlockStack("transformer_blocks", OvisImageTransformerBlock, "double"),
            BlockStack(
                "single_transformer_blocks",
                OvisImageSingleTransformerBlock,
                "single",
                joint=True,
                sliced=SINGLE_LAYERS,
            ),
        ),
        make_inputs=unpooled_inputs,
        text_tokens=256,
    )
)
