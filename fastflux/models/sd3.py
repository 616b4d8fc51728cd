"""Stable Diffusion 3: its blocks, and what its transformer is given: random values, and noised pictures."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention import JointTransformerBlock
from torch import Tensor

from fastflux.models.architecture import Architecture, BlockStack, register_architecture


def example_inputs(
    transformer: Any, batch: int, rows: int, columns: int, text_tokens: int, draw: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """Arguments of a forward for latents of ``rows`` x ``columns``; ``draw`` gives random values of a shape.

    The transformer cuts its latents into tokens itself. ``text_tokens`` counts CLIP's and T5's together.
    """
    config = transformer.config
    return {
        "hidden_states": draw(batch, config.in_channels, rows, columns),
        "encoder_hidden_states": draw(batch, text_tokens, config.joint_attention_dim),
        "pooled_projections": draw(batch, config.pooled_projection_dim),
        "timestep": torch.full((batch,), 500.0),  # of 1000; FLUX takes a fraction
    }


def noised_inputs(
    pipeline: Any,
    latents: Tensor,
    captions: Sequence[str],
    noise_like: Callable[[Tensor], Tensor],
    *,
    steps: int,
    guidance: float,
    text_tokens: int,
) -> Iterator[dict[str, Any]]:
    """Arguments of a forward for each of ``steps`` noise levels of latents ``(n, channels, rows, columns)``.

    As in sampling, a guidance above 1 doubles the batch: the empty prompt first, then the captions.
    """
    clean = latents.to(pipeline.transformer.dtype)
    noise = noise_like(clean)
    guided = guidance > 1
    sequence, no_sequence, pooled, no_pooled = pipeline.encode_prompt(
        prompt=list(captions),
        prompt_2=None,
        prompt_3=None,
        do_classifier_free_guidance=guided,
        max_sequence_length=text_tokens,
    )
    if guided:
        clean, noise = torch.cat([clean, clean]), torch.cat([noise, noise])
        sequence, pooled = torch.cat([no_sequence, sequence]), torch.cat([no_pooled, pooled])
    tokens = latents.shape[2] * latents.shape[3] // pipeline.transformer.config.patch_size**2
    for sigma, time in _levels(pipeline.scheduler, tokens, steps):
        yield {
            "hidden_states": (1 - sigma) * clean + sigma * noise,
            "timestep": torch.full((len(clean),), time, device=clean.device),
            "encoder_hidden_states": sequence,
            "pooled_projections": pooled,
        }


def _levels(scheduler: Any, tokens: int, steps: int) -> list[tuple[float, float]]:
    """The scheduler's noise levels in (0, 1] and its times, as StableDiffusion3Pipeline sets them."""
    # Loads transformers, and so not at the top.
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

    settings = scheduler.config
    shift = {}
    if settings.get("use_dynamic_shifting"):
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        shift["mu"] = calculate_shift(tokens, *(settings[name] for name in names))
    scheduler.set_timesteps(steps, **shift)
    return [(float(sigma), float(time)) for sigma, time in zip(scheduler.sigmas, scheduler.timesteps, strict=False)]


SD3 = register_architecture(
    Architecture(
        name="SD3",
        model_class=SD3Transformer2DModel,
        pruned_class="FastFluxSD3Transformer2DModel",
        pipeline_classes=("StableDiffusion3Pipeline",),
        stacks=(BlockStack("transformer_blocks", JointTransformerBlock, "joint", keeps_last=True, halves=True),),
        make_inputs=example_inputs,
        noised_inputs=noised_inputs,
        tokenizer="tokenizer_3",
        text_tokens=256,
        clip_in_sequence=True,
        latents_per_token=lambda config: int(config.patch_size),
        most_tokens=lambda config: int(config.pos_embed_max_size),
    )
)
