"""A complete FLUX pipeline of a few thousand weights, made without any download."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from tests.fastflux.conftest import make_tiny_flux

WORDS = ("<pad>", "<eos>", "<unk>", "a", "red", "blue", "star", "ring", "photo", "of")


def _tokenizer(length: int) -> Any:
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    tokenizer: Any = PreTrainedTokenizerFast
    return tokenizer(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=length
    )


def write_tiny_pipeline(folder: Path) -> None:
    """Write the pipeline; it draws 32x32 images, 4 image tokens of 8 channels, from 6 text tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 4, 4, 4),
            norm_num_groups=2,
            latent_channels=2,
            sample_size=32,
            scaling_factor=1.0,
            shift_factor=0.0,
        )
        clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(WORDS),
                hidden_size=10,
                intermediate_size=12,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=6,
                eos_token_id=1,
                bos_token_id=0,
                pad_token_id=0,
            )
        )
        t5 = T5EncoderModel(
            T5Config(vocab_size=len(WORDS), d_model=12, d_kv=4, d_ff=8, num_layers=1, num_heads=2, pad_token_id=0)
        )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=clip,
        tokenizer=_tokenizer(6),
        text_encoder_2=t5,
        tokenizer_2=_tokenizer(6),
        transformer=make_tiny_flux(),
    )
    pipeline.save_pretrained(folder)
