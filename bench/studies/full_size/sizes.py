"""The sizes of a model of random weights, read from a profile's table `[random]`; the defaults are FLUX.1-dev's."""

from __future__ import annotations

import types
from dataclasses import dataclass, fields
from typing import Any, get_args, get_origin, get_type_hints

from bench.profiles.profile import Profile
from bench.records.results import JSON
from fastflux.errors import FastFluxError, unknown_name


@dataclass(frozen=True)
class Sizes:
    """Transformer, VAE, text encoders and scorers of random weights, and how much of each stage is run.

    FLUX.1-dev's by default (https://huggingface.co/black-forest-labs/FLUX.1-dev, config.json of its folders). Smaller
    ones are for trying the command out: `--set random.heads=2`.

    Raises:
        FastFluxError: a number below 1, or rotary axes that do not add up to `head_dim`.
    """

    seed: int = 0
    # transformer
    heads: int = 24
    head_dim: int = 128
    double_blocks: int = 19
    single_blocks: int = 38
    in_channels: int = 64
    axes: tuple[int, ...] = (16, 56, 56)
    text_tokens: int = 512
    # T5-v1.1-XXL, whose width is the transformer's joint_attention_dim
    t5_width: int = 4096
    t5_heads: int = 64
    t5_head_dim: int = 64
    t5_mlp: int = 10240
    t5_layers: int = 24
    # CLIP-L's text tower, whose width is the transformer's pooled_projection_dim
    clip_width: int = 768
    clip_heads: int = 12
    clip_mlp: int = 3072
    clip_layers: int = 12
    # VAE
    vae_channels: tuple[int, ...] = (128, 256, 512, 512)
    vae_layers: int = 2
    vae_groups: int = 32
    # scorers
    hps_architecture: str = "ViT-H-14"
    clip_architecture: str = "ViT-L-14-quickgelu"
    detector_width: int = 96
    detector_depths: tuple[int, ...] = (2, 2, 18, 2)
    detector_heads: tuple[int, ...] = (3, 6, 12, 24)
    detector_hidden: int = 256
    scorer_images: int = 64
    scorer_batches: tuple[int, ...] = (1, 8, 32)
    # how much is run
    resolutions: tuple[int, ...] = (512, 1024)
    ratios: tuple[float, ...] = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
    equal_ratios: tuple[float, ...] = (0.10, 0.15, 0.20)
    pruning_pixels: int = 512
    samples: int = 512
    save_every: int = 128
    compile_backend: str = "inductor"
    replacement_rounds: int = 200

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "seed" and isinstance(value, int) and value < 1:
                raise FastFluxError(f"random.{field.name} is {value}, but it must be at least 1.")
        if sum(self.axes) != self.head_dim:
            raise FastFluxError(
                f"random.axes are {list(self.axes)}, which add up to {sum(self.axes)}: they must add up to head_dim, "
                f"{self.head_dim}."
            )
        if lacking := [ratio for ratio in self.equal_ratios if ratio not in self.ratios]:
            raise FastFluxError(
                f"random.equal_ratios hold {lacking[0]}, which is none of random.ratios, {list(self.ratios)}: "
                "change both."
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
    kinds = get_type_hints(Sizes)
    given: dict[str, Any] = {}
    for name, value in profile.random.items():
        if name not in kinds:
            raise unknown_name("size of random weights", name, list(kinds))
        given[name] = _read(name, value, kinds[name])
    return Sizes(**given)


def _read(name: str, value: JSON, kind: Any) -> Any:
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        inner = get_args(kind)[0]
        return tuple(_read(name, item, inner) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if get_origin(kind) is not None or isinstance(kind, types.UnionType) or type(value) is not kind:
        raise FastFluxError(f"random.{name} is {value!r}, but it must be {_words(kind)}.")
    return value


def _words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"a list, each entry {_words(get_args(kind)[0])}"
    return {int: "a whole number", float: "a number", str: "a text"}[kind]
