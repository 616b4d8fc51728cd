"""Complete pipelines of both families, of a few thousand weights, made without any download."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, StableDiffusion3Pipeline
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from tests.fastflux.conftest import make_tiny_flux, make_tiny_sd3

WORDS = ("<pad>", "<eos>", "<unk>", "a", "red", "blue", "star", "ring", "photo", "of")


def tokenizer(length: int) -> Any:
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    kind: Any = PreTrainedTokenizerFast
    return kind(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=length
    )


def _clip(kind: Any) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(WORDS), hidden_size=10, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=6, projection_dim=10, eos_token_id=1, bos_token_id=0, pad_token_id=0,
        )
    )  # fmt: skip


def t5(width: int) -> Any:
    return T5EncoderModel(
        T5Config(vocab_size=len(WORDS), d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=2, pad_token_id=0)
    )


def write_tiny_pipeline(folder: Path, family: str = "flux") -> None:
    """Write the pipeline; it draws 32x32 images, 4 image tokens, from 6 tokens of T5, and in SD3 6 of CLIP."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=2, sample_size=32, scaling_factor=1.0,
            shift_factor=0.0,
        )  # fmt: skip
        components = _FAMILIES[family]()
    pipeline = components.pop("pipeline")(scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, **components)
    pipeline.save_pretrained(folder)


def flux_components() -> dict[str, Any]:
    return {
        "pipeline": FluxPipeline, "text_encoder": _clip(CLIPTextModel), "tokenizer": tokenizer(6),
        "text_encoder_2": t5(12), "tokenizer_2": tokenizer(6), "transformer": make_tiny_flux(),
    }  # fmt: skip


def _sd3() -> dict[str, Any]:
    return {
        "pipeline": StableDiffusion3Pipeline,
        "text_encoder": _clip(CLIPTextModelWithProjection),
        "tokenizer": tokenizer(6),
        "text_encoder_2": _clip(CLIPTextModelWithProjection),
        "tokenizer_2": tokenizer(6),
        "text_encoder_3": t5(20),  # as wide as both of CLIP together, or diffusers cuts those
        "tokenizer_3": tokenizer(6),
        "transformer": make_tiny_sd3(),
    }


_FAMILIES = {"flux": flux_components, "sd3": _sd3}
