"""FLOPs by formula, of what the counter is held against."""

from collections.abc import Mapping
from typing import Any, Literal

from bench.metrics.cost.flops import TIME_CHANNELS, block_flops


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
