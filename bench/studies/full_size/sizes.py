"""The sizes of a model of random weights, read from a profile's table `[random]`; the defaults are FLUX.1-dev's."""

from typing import Annotated, Any, TypeAlias

import msgspec

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
