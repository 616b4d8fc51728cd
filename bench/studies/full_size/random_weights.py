"""FLUX.1-dev's parts with random weights, made on the device in the number format asked for: no float32 copy, no files.

Every tensor is drawn from a generator of its own, seeded by the seed and the tensor's name: the same seed gives the
same weights on the same kind of device, whatever else is made before.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias

import msgspec
import torch
from torch import Tensor, nn

from bench.profiles.profile import Profile
from bench.records.results import Data
from bench.settings import Batch, Pixels, Positive, Seed, Text, read_settings
from fastflux.errors import FastFluxError

Ratio: TypeAlias = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Layers: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Sizes(Data, frozen=True):
    """Transformer, VAE, text encoders and scorers of random weights, and how much of each stage is run.

    FLUX.1-dev's by default (https://huggingface.co/black-forest-labs/FLUX.1-dev, config.json of its folders). Smaller
    ones are for trying the command out: `--set random.heads=2`.
    Rotary axes add up to `head_dim`, and `equal_ratios` are some of the `ratios`.
    """

    seed: Seed = 0
    # transformer
    heads: Layers = 24
    head_dim: Positive = 128
    double_blocks: Layers = 19
    single_blocks: Layers = 38
    in_channels: Positive = 64
    axes: tuple[Positive, ...] = (16, 56, 56)
    text_tokens: Positive = 512
    # T5-v1.1-XXL, whose width is the transformer's joint_attention_dim
    t5_width: Positive = 4096
    t5_heads: Positive = 64
    t5_head_dim: Positive = 64
    t5_mlp: Positive = 10240
    t5_layers: Layers = 24
    # CLIP-L's text tower, whose width is the transformer's pooled_projection_dim
    clip_width: Positive = 768
    clip_heads: Positive = 12
    clip_mlp: Positive = 3072
    clip_layers: Layers = 12
    # VAE
    vae_channels: tuple[Positive, ...] = (128, 256, 512, 512)
    vae_layers: Layers = 2
    vae_groups: Positive = 32
    # scorers
    hps_architecture: Text = "ViT-H-14"
    clip_architecture: Text = "ViT-L-14-quickgelu"
    detector_width: Positive = 96
    detector_depths: tuple[Positive, ...] = (2, 2, 18, 2)
    detector_heads: tuple[Positive, ...] = (3, 6, 12, 24)
    detector_hidden: Positive = 256
    scorer_images: Positive = 64
    scorer_batches: tuple[Batch, ...] = (1, 8, 32)
    # how much is run
    resolutions: tuple[Pixels, ...] = (512, 1024)
    ratios: tuple[Ratio, ...] = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
    equal_ratios: tuple[Ratio, ...] = (0.10, 0.15, 0.20)
    pruning_pixels: Pixels = 512
    samples: Positive = 512
    compile_backend: Text = "inductor"
    replacement_rounds: Positive = 200

    def __post_init__(self) -> None:
        if sum(self.axes) != self.head_dim:
            raise ValueError(
                f"axes are {list(self.axes)}, which add up to {sum(self.axes)}: they must add up to head_dim, "
                f"{self.head_dim}"
            )
        if lacking := [ratio for ratio in self.equal_ratios if ratio not in self.ratios]:
            raise ValueError(
                f"equal_ratios hold {lacking[0]}, which is none of ratios, {list(self.ratios)}: change both"
            )

    @property
    def width(self) -> int:
        """Of the transformer's streams."""
        return self.heads * self.head_dim

    @property
    def transformer_config(self) -> dict[str, Any]:
        """Arguments of `FluxTransformer2DModel`."""
        return {
            "patch_size": 1,
            "in_channels": self.in_channels,
            "num_layers": self.double_blocks,
            "num_single_layers": self.single_blocks,
            "attention_head_dim": self.head_dim,
            "num_attention_heads": self.heads,
            "joint_attention_dim": self.t5_width,
            "pooled_projection_dim": self.clip_width,
            "guidance_embeds": True,
            "axes_dims_rope": self.axes,
        }

    @property
    def latent_channels(self) -> int:
        """Of the VAE: FLUX packs 2 x 2 latents into a token."""
        return self.in_channels // 4


def sizes_of(profile: Profile) -> Sizes:
    """The sizes that a profile names.

    Raises:
        FastFluxError: the profile is none of random weights, or it names a size that there is not or of another kind.
    """
    if not profile.random:
        raise FastFluxError(
            f"The profile {profile.name} has weights of its own: the full-size stages take one of random weights, "
            "such as flux-dev-random."
        )
    return read_settings(Sizes, profile.random, "random")


GAIN = 0.5
"""Standard deviation of a layer's output for inputs of size 1: 57 residuals of it stay far from overflow."""
VAE_SCALING, VAE_SHIFT = 0.3611, 0.1159


def skeleton(sizes: Sizes) -> Any:
    """The dense transformer on the meta device: shapes without weights."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        return FluxTransformer2DModel(**sizes.transformer_config).eval()


def materialise_(module: nn.Module, sizes: Sizes, device: str, dtype: torch.dtype, *, prefix: str = "") -> None:
    """Give the tensors of `module` that lie on the meta device memory on `device` and random values, in place.

    Raises:
        FastFluxError: a buffer without weights, whose values only its module's constructor knows.
    """
    if left := [name for name, buffer in module.named_buffers() if buffer.is_meta]:
        raise FastFluxError(f"The buffer {left[0]} lies on the meta device: make the module on the device itself.")
    for name, child in module.named_modules():
        for key, parameter in list(child.named_parameters(recurse=False)):
            if parameter.is_meta:
                filled = nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device=device), requires_grad=False)
                setattr(child, key, filled)
                _draw_(filled, f"{prefix}{name}.{key}", sizes.seed)


def fill_(module: nn.Module, seed: int, *, prefix: str = "") -> None:
    """Draw all parameters of a module anew, in place."""
    for name, parameter in module.named_parameters():
        _draw_(parameter, f"{prefix}{name}", seed)
    module.requires_grad_(requires_grad=False)


@torch.no_grad()
def _draw_(parameter: Tensor, name: str, seed: int) -> None:
    """Matrices are drawn, norms are 1 and biases 0; on the meta device there is nothing to draw."""
    if parameter.is_meta:
        return
    if parameter.ndim < 2:
        parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        return
    number = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1
    generator = torch.Generator(parameter.device).manual_seed(number)
    parameter.normal_(0.0, GAIN / math.sqrt(parameter[0].numel()), generator=generator)


def random_transformer(sizes: Sizes, device: str, dtype: torch.dtype) -> Any:
    """The dense transformer, ready for inference."""
    transformer = skeleton(sizes)
    materialise_(transformer, sizes, device, dtype)
    return transformer


@contextmanager
def made_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Modules made inside have their tensors on `device`, in `dtype` from the start, and their buffers filled."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def random_vae(sizes: Sizes, device: str, dtype: torch.dtype) -> Any:
    """FLUX.1-dev's VAE."""
    from diffusers import AutoencoderKL

    count = len(sizes.vae_channels)
    with made_on(device, dtype):
        vae = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * count,
            up_block_types=("UpDecoderBlock2D",) * count,
            block_out_channels=sizes.vae_channels,
            layers_per_block=sizes.vae_layers,
            norm_num_groups=sizes.vae_groups,
            latent_channels=sizes.latent_channels,
            sample_size=1024,
            scaling_factor=VAE_SCALING,
            shift_factor=VAE_SHIFT,
            use_quant_conv=False,
            use_post_quant_conv=False,
            force_upcast=True,
        ).eval()
    fill_(vae, sizes.seed, prefix="vae.")
    return vae


def random_text_encoders(sizes: Sizes, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """(CLIP-L's text tower, T5-v1.1-XXL's encoder)."""
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    with made_on(device, dtype):
        clip = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=sizes.clip_width,
                intermediate_size=sizes.clip_mlp,
                num_hidden_layers=sizes.clip_layers,
                num_attention_heads=sizes.clip_heads,
                projection_dim=sizes.clip_width,
                hidden_act="quick_gelu",
                eos_token_id=2,
            )
        ).eval()
        t5 = T5EncoderModel(
            T5Config(
                d_model=sizes.t5_width,
                d_kv=sizes.t5_head_dim,
                d_ff=sizes.t5_mlp,
                num_layers=sizes.t5_layers,
                num_heads=sizes.t5_heads,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
            )
        ).eval()
    fill_(clip, sizes.seed, prefix="clip.")
    fill_(t5, sizes.seed, prefix="t5.")
    return clip, t5


def random_pipeline(sizes: Sizes, transformer: nn.Module, device: str, dtype: torch.dtype) -> Any:
    """A `FluxPipeline` around the transformer; its tokenizers know the words of FLUX-Shapes and pad as FLUX.1-dev's."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    from bench.shapes.text import build_clip_tokenizer, build_t5_tokenizer

    clip, t5 = random_text_encoders(sizes, device, dtype)
    clip_tokenizer, t5_tokenizer = build_clip_tokenizer(), build_t5_tokenizer()
    clip_tokenizer.model_max_length = clip.config.max_position_embeddings
    t5_tokenizer.model_max_length = sizes.text_tokens
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
            max_image_seq_len=4096,
        ),
        vae=random_vae(sizes, device, dtype),
        text_encoder=clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def encoder_bytes(sizes: Sizes, dtype: torch.dtype) -> int:
    """Bytes of VAE and text encoders, from their shapes alone."""
    parts = (random_vae(sizes, "meta", dtype), *random_text_encoders(sizes, "meta", dtype))
    return sum(parameter.nbytes for part in parts for parameter in part.parameters())
