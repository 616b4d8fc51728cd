"""Z-Image: one stream of image and text tokens; its refiners, which run before, are no blocks that may be pruned."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import ZImageTransformer2DModel
from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock
from torch import Tensor

from fastflux.models.architecture import IMAGE_STREAM, Architecture, BlockStack, SlicedLayers, register_architecture


def example_inputs(
    transformer: Any, batch: int, rows: int, columns: int, text_tokens: int, draw: Callable[..., Tensor]
) -> dict[str, Any]:
    """Arguments of a forward for latents of ``rows`` x ``columns``, which the transformer cuts into tokens itself."""
    config = transformer.config
    return {
        "x": [draw(config.in_channels, 1, rows, columns) for _ in range(batch)],
        "t": torch.full((batch,), 0.5),
        "cap_feats": [draw(text_tokens, config.cap_feat_dim) for _ in range(batch)],
    }


Z_IMAGE = register_architecture(
    Architecture(
        name="Z-Image",
        model_class=ZImageTransformer2DModel,
        pruned_class="FastFluxZImageTransformer2DModel",
        pipeline_classes=("ZImagePipeline",),
        stacks=(
            BlockStack(
                "layers",
                ZImageTransformerBlock,
                "single",
                joint=True,
                joined=True,
                sliced=SlicedLayers(
                    attention="attention",
                    inputs=tuple(f"attention.{name}" for name in ("to_q", "to_k", "to_v")),
                    outputs=("attention.to_out.0",),
                    mlps=(("feed_forward.w1", "feed_forward.w3", "feed_forward.w2"),),
                ),
            ),
        ),
        make_inputs=example_inputs,
        streams=(IMAGE_STREAM,),
        listed=("x", "cap_feats"),
        hidden_size=lambda config: int(config.dim),
        most_tokens=lambda config: int(min(config.axes_lens[1:])),
    )
)
