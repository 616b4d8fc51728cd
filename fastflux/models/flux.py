"""FLUX, and families with its blocks: what a transformer is given, random values or pictures noised to levels."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers import (
    ChromaTransformer2DModel,
    FluxTransformer2DModel,
    LongCatImageTransformer2DModel,
    OvisImageTransformer2DModel,
)
from diffusers.models.transformers import transformer_chroma, transformer_longcat_image, transformer_ovis_image
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
    guides = transformer.config.guidance_embeds
    embedded = torch.full((count,), guidance, device=clean.device) if guides else None
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
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift  # loads transformers, and so not at the top

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
                "single_transformer_blocks", FluxSingleTransformerBlock, "single", joint=True, halves=True,
                sliced=SINGLE_LAYERS,
            ),
        ),
        make_inputs=example_inputs,
        noised_inputs=noised_inputs,
        tokenizer="tokenizer_2",
    )
)  # fmt: skip


def flux_like(
    name: str, model_class: Any, pipeline: str, double: Any, single: Any, *, joined: bool = False, **others: Any
) -> Architecture:
    """Register a family with FLUX.1's blocks and no pooled text; ``others`` are arguments of `Architecture`."""
    stacks = (
        BlockStack("transformer_blocks", double, "double"),
        BlockStack("single_transformer_blocks", single, "single", joint=True, joined=joined, sliced=SINGLE_LAYERS),
    )
    own = f"FastFlux{model_class.__name__}"
    made = Architecture(name, model_class, own, (pipeline,), stacks, make_inputs=unpooled_inputs, **others)
    return register_architecture(made)


def longcat_guided(prompts: int, guidance: float) -> dict[str, Any]:
    """With a blank second prompt for each, of which the pipeline itself takes one; prompts are not written anew."""
    return {"guidance_scale": guidance, "negative_prompt": [""] * prompts, "enable_prompt_rewrite": False}


flux_like(  # modulated by one network for all blocks
    "Chroma", ChromaTransformer2DModel, "ChromaPipeline",
    transformer_chroma.ChromaTransformerBlock, transformer_chroma.ChromaSingleTransformerBlock, joined=True,
)  # fmt: skip
LONGCAT_IMAGE = flux_like(
    "LongCat-Image", LongCatImageTransformer2DModel, "LongCatImagePipeline",
    transformer_longcat_image.LongCatImageTransformerBlock,
    transformer_longcat_image.LongCatImageSingleTransformerBlock, guided=longcat_guided,
)  # fmt: skip
flux_like(  # with gated MLPs
    "Ovis-Image", OvisImageTransformer2DModel, "OvisImagePipeline",
    transformer_ovis_image.OvisImageTransformerBlock, transformer_ovis_image.OvisImageSingleTransformerBlock,
    text_tokens=256,
)  # fmt: skip
