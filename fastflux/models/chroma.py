"""Chroma: FLUX.1's blocks, modulated by one network for all; its single blocks take text and image as one tensor."""

from diffusers import ChromaTransformer2DModel
from diffusers.models.transformers.transformer_chroma import ChromaSingleTransformerBlock, ChromaTransformerBlock

from fastflux.models.architecture import Architecture, BlockStack, register_architecture
from fastflux.models.flux import SINGLE_LAYERS, unpooled_inputs

CHROMA = register_architecture(
    Architecture(
        name="Chroma",
        model_class=ChromaTransformer2DModel,
        pruned_class="FastFluxChromaTransformer2DModel",
        pipeline_classes=("ChromaPipeline",),
        stacks=(
            BlockStack("transformer_blocks", ChromaTransformerBlock, "double"),
            BlockStack(
                "single_transformer_blocks",
                ChromaSingleTransformerBlock,
                "single",
                joint=True,
                joined=True,
                sliced=SINGLE_LAYERS,
            ),
        ),
        make_inputs=unpooled_inputs,
    )
)
