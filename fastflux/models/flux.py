"""FLUX: its blocks, and what its transformer is given: random values, and pictures noised to a sampler's levels."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from torch import Tensor

from fastflux.models.architecture import STREAMS, Architecture, BlockStack, SlicedLayers, register_architecture

LATENTS_PER_TOKEN = 2  # a side; FluxPipeline packs 2 x 2 latents into a token


def unpooled_inputs(
    transformer: Any, batch: int, rows: int, columns: int, text_tokens: int, draw: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """`example_inputs` of the families that take no pooled text."""
    config = transformer.config
    rows, columns = rows // LATENTS_PER_TOKEN, columns // LATENTS_PER_TOKEN
    image_ids = torch.zeros(rows, columns, 3)
    image_ids[..., 1] = torch.arange(rows)[:, None]
    image_ids[..., 2] = torch.arange(columns)[None, :]
    inputs = {
        "hidden_states": draw(batch, rows * columns, config.in_channels),
        "encoder_hidden_states": draw(batch, text_tokens, config.joint_attention_dim),
        "timestep": torch.full((batch,), 0.5),
        "img_ids": image_ids.reshape(rows * columns, 3),
        "txt_ids": torch.zeros(text_tokens, 3),
    }
    if config.get("guidance_embeds"):
        inputs["guidance"] = torch.full((batch,), 3.5)
    return inputs


def example_inputs(
    transformer: Any, batch: int, rows: int, columns: int, text_tokens: int, draw: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """Arguments of a forward for latents of ``rows`` x ``columns``; ``draw`` gives random values of a shape."""
    inputs = unpooled_inputs(transformer, batch, rows, columns, text_tokens, draw)
    streams = {name: inputs.pop(name) for name in STREAMS}
    return {**streams, "pooled_projections": draw(batch, transformer.config.pooled_projection_dim), **inputs}


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
    """Arguments of a forward for each of ``steps`` noise levels of latents ``(n, channels, rows, columns)``."""
    transformer = pipeline.transformer
    count, channels, rows, columns = latents.shape
    clean = pipeline._pack_latents(latents, count, channels, rows, columns).to(transformer.dtype)  # noqa: SLF001  # FLUX's own order
    ids = pipeline._prepare_latent_image_ids(count, rows // 2, columns // 2, latents.device, latents.dtype)  # noqa: SLF001
    noise = noise_like(clean)
    sequence, pooled, text_ids = pipeline.encode_prompt(
        prompt=list(captions), prompt_2=None, max_sequence_length=text_tokens
    )
    embedded = None
    if transformer.config.guidance_embeds:
        embedded = torch.full((count,), guidance, device=clean.device)
    for sigma in _levels(pipeline.scheduler, clean.shape[1], steps):
        yield {
            "hidden_states": (1 - sigma) * clean + sigma * noise,
            "timestep": torch.full((count,), sigma, device=clean.device, dtype=clean.dtype),
            "guidance": embedded,
            "pooled_projections": pooled,
            "encoder_hidden_states": sequence,
            "txt_ids": text_ids,
            "img_ids": ids,
        }


def _levels(scheduler: Any, tokens: int, steps: int) -> list[float]:
    """The scheduler's noise levels in (0, 1] for this many image tokens, as FluxPipeline sets them."""
    # Loads transformers, and so not at the top.
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(tokens, *(scheduler.config[name] for name in names))
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist(), mu=mu)
    return [float(sigma) for sigma in scheduler.sigmas[:-1]]


SINGLE_LAYERS = SlicedLayers(outputs=("proj_out",), mlps=(("proj_mlp", "proj_out"),))
"""Of single blocks: the output layer takes [heads | MLP channels]."""

FLUX = register_architecture(
    Architecture(
        name="FLUX",
        model_class=FluxTransformer2DModel,
        pruned_class="FastFluxTransformer2DModel",
        pipeline_classes=("FluxPipeline", "FluxKontextPipeline"),
        stacks=(
            BlockStack("transformer_blocks", FluxTransformerBlock, "double", halves=True),
            BlockStack(
                "single_transformer_blocks",
                FluxSingleTransformerBlock,
                "single",
                joint=True,
                halves=True,
                sliced=SINGLE_LAYERS,
            ),
        ),
        make_inputs=example_inputs,
        noised_inputs=noised_inputs,
        tokenizer="tokenizer_2",
    )
)
