"""FLOPs by formula, of what the counter is held against."""

from collections.abc import Mapping
from typing import Any, Literal

TIME_CHANNELS = 256
"""Width of diffusers' sinusoidal timestep projection."""


def block_flops(
    kind: Literal["double", "single", "linear", "removed"],
    *,
    dim: int,
    tokens: int,
    attention_dim: int,
    mlp_dim: int,
    sublayers: str = "",
) -> int:
    """FLOPs of one block at batch 1, by hand.

    Args:
        kind: block of ``transformer_blocks`` (of FLUX, or of SD3 but for its last) or ``single_transformer_blocks``,
            linear replacement, or removed.
        tokens: text and image tokens together: each stream has like weights of its own.
        attention_dim: heads x head size (dim when dense, less when heads are sliced off).
        mlp_dim: MLP channels (4 x dim when dense).
        sublayers: which halves of the block are linear layers, as plans say it ("linear_mlp").
    """
    if kind == "removed":
        return 0
    if kind == "linear":
        return 2 * tokens * dim * dim
    projections = tokens * 4 * dim * attention_dim  # query, key, value, output
    attention = 2 * tokens * tokens * attention_dim  # scores, and their product with the values
    mlp = tokens * 2 * dim * mlp_dim
    modulation = (12 if kind == "double" else 3) * dim * dim  # shift, scale, gate; twice per stream if double
    linear = tokens * dim * dim
    halves = linear if sublayers == "linear_attention" else projections + attention
    halves += linear if sublayers == "linear_mlp" else mlp
    if sublayers == "linear_halves":  # one layer for both, but for double blocks, whose halves have gates of their own
        halves = 2 * linear if kind == "double" else linear
    return 2 * (halves + modulation)


def flux_flops(
    config: Mapping[str, Any],
    *,
    image_tokens: int,
    text_tokens: int,
    linear: int = 0,
    linear_doubles: int = 0,
    removed: int = 0,
    heads: int | None = None,
    mlp_dim: int | None = None,
) -> int:
    """FLOPs of one forward of a FLUX transformer at batch 1, by hand from its diffusers config.

    Args:
        linear, removed: how many single blocks are replaced by linear layers or removed. (A double block costs as much
            as a single one but for its modulation, 18 x dim^2 FLOPs.)
        linear_doubles: how many double blocks are replaced: each stream by a layer of its own, over its own tokens.
        heads, mlp_dim: what is left of them in every block after slicing; None is all.
    """
    head_dim, all_heads = config["attention_head_dim"], config["num_attention_heads"]
    dim: int = head_dim * all_heads
    tokens = image_tokens + text_tokens

    def block(kind: Literal["double", "single", "linear", "removed"]) -> int:
        return block_flops(
            kind,
            dim=dim,
            tokens=tokens,
            attention_dim=head_dim * (all_heads if heads is None else heads),
            mlp_dim=4 * dim if mlp_dim is None else mlp_dim,
        )

    channels_in = config["in_channels"]
    embedders = image_tokens * channels_in * dim + text_tokens * config["joint_attention_dim"] * dim
    times = 2 if config["guidance_embeds"] else 1
    condition = times * (TIME_CHANNELS * dim + dim * dim) + config["pooled_projection_dim"] * dim + dim * dim
    channels_out = (config.get("patch_size") or 1) ** 2 * (config.get("out_channels") or channels_in)
    output = 2 * dim * dim + image_tokens * dim * channels_out
    singles = config["num_single_layers"] - linear - removed
    doubles = config["num_layers"] - linear_doubles
    layers = linear + linear_doubles
    blocks = doubles * block("double") + singles * block("single") + layers * block("linear")
    return int(2 * (embedders + condition + output) + blocks)


def lora_flops(*, rows: int, rank: int, in_features: int, out_features: int) -> int:
    """FLOPs of an unmerged LoRA adapter, by hand: the two thin products beside one linear layer's.

    Args:
        rows: vectors that enter the layer: tokens, or 1 in a modulation at batch 1.
    """
    return 2 * rows * rank * (in_features + out_features)


def sd3_flops(
    config: Mapping[str, Any], *, image_tokens: int, text_tokens: int, linear: int = 0, removed: int = 0,
    heads: int | None = None, mlp_dim: int | None = None,
) -> int:  # fmt: skip
    """FLOPs of one forward of an SD3 transformer at batch 1, by hand from its diffusers config.

    The last block ends before the text's output layer and MLP, and modulates the text by shift and scale alone. A layer
    of ``dual_attention_layers`` has a second attention, over the image's tokens, with a modulation of its own.

    Args:
        text_tokens: of CLIP and T5 together.
        linear, removed: how many blocks without a second attention are replaced by linear layers or removed.
        heads, mlp_dim: what is left of them in every block after slicing; None is all.
    """
    head_dim, all_heads = config["attention_head_dim"], config["num_attention_heads"]
    dim: int = head_dim * all_heads
    attention_dim: int = head_dim * (all_heads if heads is None else heads)
    mlp: int = 4 * dim if mlp_dim is None else mlp_dim
    tokens = image_tokens + text_tokens

    def block(kind: Literal["double", "linear"]) -> int:
        return block_flops(kind, dim=dim, tokens=tokens, attention_dim=attention_dim, mlp_dim=mlp)

    unread = text_tokens * (dim * attention_dim + 2 * dim * mlp) + 4 * dim * dim
    last = block("double") - 2 * unread
    second = image_tokens * 4 * dim * dim + 2 * image_tokens**2 * dim + 3 * dim * dim
    patch = config["patch_size"] ** 2
    embedders = image_tokens * patch * config["in_channels"] * dim + text_tokens * config["joint_attention_dim"] * dim
    condition = TIME_CHANNELS * dim + dim * dim + config["pooled_projection_dim"] * dim + dim * dim
    output = 2 * dim * dim + image_tokens * dim * patch * (config.get("out_channels") or config["in_channels"])
    doubles = config["num_layers"] - 1 - linear - removed
    blocks = doubles * block("double") + last + linear * block("linear")
    rest = embedders + condition + output + len(config.get("dual_attention_layers", ())) * second
    return int(2 * rest + blocks)
