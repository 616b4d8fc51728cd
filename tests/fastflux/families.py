"""Dense transformers of every family, of two blocks a stack and a width of 16 or so, with seeded random weights."""

from collections.abc import Mapping
from typing import Any

import diffusers
import torch

FLUX1 = {
    "in_channels": 8, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2,
    "joint_attention_dim": 12, "axes_dims_rope": (4, 2, 2),
}  # fmt: skip
POOLED = {**FLUX1, "pooled_projection_dim": 10}
SD35 = {
    "sample_size": 4, "in_channels": 2, "num_layers": 4, "attention_head_dim": 8, "num_attention_heads": 2,
    "joint_attention_dim": 20, "caption_projection_dim": 16, "pooled_projection_dim": 20, "pos_embed_max_size": 8,
    "qk_norm": "rms_norm",
}  # fmt: skip
QWEN = {name: value for name, value in FLUX1.items() if name != "num_single_layers"} | {
    "num_layers": 4,
    "out_channels": 2,
}
Z_IMAGE = {
    "in_channels": 2, "dim": 16, "n_layers": 4, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
    "cap_feat_dim": 12, "axes_dims": [4, 2, 2], "axes_lens": [64, 8, 8],
}  # fmt: skip
CHROMA = {"approximator_num_channels": 8, "approximator_hidden_dim": 8, "approximator_layers": 1}
FLUX2 = {**FLUX1, "axes_dims_rope": (2, 2, 2, 2), "timestep_guidance_channels": 8}

CONFIGS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "FLUX.1-dev": ("FluxTransformer2DModel", {**POOLED, "guidance_embeds": True}),
    "FLUX.1-schnell": ("FluxTransformer2DModel", {**POOLED, "guidance_embeds": False}),
    "FLUX.1-Fill-dev": (
        "FluxTransformer2DModel",
        {**POOLED, "in_channels": 48, "out_channels": 8, "guidance_embeds": True},
    ),
    "LongCat-Image": ("LongCatImageTransformer2DModel", {**POOLED, "in_channels": 64}),  # its pipeline's, always
    "Ovis-Image": ("OvisImageTransformer2DModel", {**FLUX1, "out_channels": 8}),
    "Chroma": ("ChromaTransformer2DModel", FLUX1 | CHROMA),
    "FLUX.2-klein": ("Flux2Transformer2DModel", {**FLUX2, "guidance_embeds": False}),
    "FLUX.2-dev": ("Flux2Transformer2DModel", {**FLUX2, "guidance_embeds": True}),
    "Qwen-Image": ("QwenImageTransformer2DModel", {**QWEN, "num_layers": 4, "out_channels": 2}),
    "Z-Image": ("ZImageTransformer2DModel", Z_IMAGE),
    "SD3.5-large": ("SD3Transformer2DModel", SD35),
    "SD3.5-medium": ("SD3Transformer2DModel", {**SD35, "dual_attention_layers": (0, 1)}),
}


def make(name: str, seed: int = 0) -> Any:
    """The tiny model of a family's member."""
    kind, config = CONFIGS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return getattr(diffusers, kind)(**config).eval()
