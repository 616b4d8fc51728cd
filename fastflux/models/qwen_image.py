"""Qwen-Image: double blocks alone, whose text may be padded and masked; guidance takes a second prompt."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformerBlock
from torch import Tensor

from fastflux.models.architecture import Architecture, BlockStack, SlicedLayers, register_architecture


def example_inputs(
    transformer: Any, batch: int, rows: int, columns: int, text_tokens: int, draw: Callable[..., Tensor]
) -> dict[str, Any]:
    """Arguments of a forward for latents of ``rows`` x ``columns``, packed 2 x 2; see `fastflux.models.flux`."""
    config = transformer.config
    rows, columns = rows // 2, columns // 2
    return {
        "hidden_states": draw(batch, rows * columns, config.in_channels),
        "encoder_hidden_states": draw(batch, text_tokens, config.joint_attention_dim),
        "timestep": torch.full((batch,), 0.5),
        "img_shapes": [[(1, rows, columns)]] * batch,
    }


def guided(prompts: int, guidance: float) -> dict[str, Any]:
    """Guidance above 1 needs a second prompt, which is blank."""
    return {"true_cfg_scale": guidance} | ({"negative_prompt": [" "] * prompts} if guidance > 1 else {})


QWEN_IMAGE = register_architecture(
    Architecture(
        name="Qwen-Image",
        model_class=QwenImageTransformer2DModel,
        pruned_class="FastFluxQwenImageTransformer2DModel",
        pipeline_classes=("QwenImagePipeline",),
        stacks=(
            BlockStack(
                "transformer_blocks",
                QwenImageTransformerBlock,
                "double",
                halves=True,
                sliced=SlicedLayers(
                    mlps=tuple((f"{name}.net.0.proj", f"{name}.net.2") for name in ("img_mlp", "txt_mlp"))
                ),
            ),
        ),
        make_inputs=example_inputs,
        listed=("img_shapes",),
        text_mask="encoder_hidden_states_mask",
        guided=guided,
    )
)
