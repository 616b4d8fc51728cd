"""Sizes of what a pipeline draws: images in pixels, text in tokens."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

from fastflux.errors import FastFluxError
from fastflux.models.architecture import architecture_of

MAX_TEXT_TOKENS = 512
"""Both FluxPipeline's and StableDiffusion3Pipeline's limit."""


def require_sizes(pipeline: Any, height: int | None, width: int | None, text_tokens: int | None) -> None:
    """Raise ``FastFluxError`` for sizes, in pixels and T5 tokens, that the pipeline cannot draw."""
    if text_tokens is not None and not 1 <= text_tokens <= MAX_TEXT_TOKENS:
        raise FastFluxError(f"{text_tokens} text tokens are asked for, but pipelines take 1 to {MAX_TEXT_TOKENS}.")
    if text_tokens is not None and "max_sequence_length" not in _parameters(pipeline):
        raise FastFluxError(f"{text_tokens} text tokens are asked for, but a {type(pipeline).__name__} takes them all.")
    for name, size in (("height", height), ("width", width)):
        if size is not None:
            architecture = architecture_of(pipeline.transformer)
            architecture.require_side(pipeline.transformer, name, size, pipeline.vae_scale_factor)


def drawing_sizes(
    pipeline: Any, height: int | None = None, width: int | None = None, text_tokens: int | None = None
) -> dict[str, int]:
    """A pipeline call's sizes: the VAE's sample size and the T5 tokenizer's maximum where nothing is asked for.

    The tokenizer's maximum counts up to what the pipeline takes unasked: 512 tokens of FLUX, 256 of SD3.
    """
    size = pipeline.vae.config.get("sample_size")
    if size is None and not (height and width):
        raise FastFluxError("The pipeline's VAE names no sample size: give the height and the width.")
    return {
        "height": height or size,
        "width": width or size,
        "max_sequence_length": text_tokens or _text_tokens(pipeline),
    }


def sampling_arguments(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    guidance: float,
    height: int | None = None,
    width: int | None = None,
    text_tokens: int | None = None,
) -> dict[str, Any]:
    """A pipeline call's prompts, guidance and sizes (`drawing_sizes`) under the names that its class knows."""
    sizes = drawing_sizes(pipeline, height, width, text_tokens)
    arguments = {
        "prompt": list(prompts),  # a copy: some write in it
        **architecture_of(pipeline.transformer).guided(len(prompts), guidance),
        **sizes,
        "max_area": sizes["height"] * sizes["width"],  # Kontext scales to a million pixels unasked
    }
    return {name: value for name, value in arguments.items() if name in _parameters(pipeline)}


def _parameters(pipeline: Any) -> Any:
    return signature(type(pipeline).__call__).parameters


def sequence_length(pipeline: Any, text_tokens: int | None = None) -> int:
    """Text tokens that the pipeline's transformer is given where T5 gives ``text_tokens`` (as in `drawing_sizes`)."""
    own = text_tokens or _text_tokens(pipeline)
    clip = architecture_of(pipeline.transformer).clip_in_sequence
    return own + (pipeline.tokenizer_max_length if clip else 0)


def _text_tokens(pipeline: Any) -> int:
    architecture = architecture_of(pipeline.transformer)
    tokenizer = getattr(pipeline, architecture.tokenizer, None)  # SD3 can do without its T5
    return architecture.text_tokens if tokenizer is None else min(architecture.text_tokens, tokenizer.model_max_length)
