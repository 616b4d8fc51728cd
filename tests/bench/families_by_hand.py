"""Parameters and FLOPs of the published transformers, by hand from their configs: all that has a matrix, and norms."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import diffusers

TIME = 256
Config = Mapping[str, Any]


@dataclass
class Hand:
    """A count that grows; FLOPs at batch 1."""

    image: int
    text: int
    parameters: int = 0
    flops: int = 0
    buffers: int = 0  # that files hold beside the parameters

    @property
    def tokens(self) -> int:
        return self.image + self.text

    def linear(self, inputs: int, outputs: int, tokens: int = 1, *, bias: bool = True, times: int = 1) -> None:
        self.parameters += times * (inputs * outputs + bias * outputs)
        self.flops += times * 2 * tokens * inputs * outputs

    def attention(self, tokens: int, dim: int) -> None:
        self.flops += 4 * tokens**2 * dim

    def norm(self, width: int, times: int = 1) -> None:
        self.parameters += times * width

    def embed(self, inputs: int, dim: int, *, bias: bool = True, times: int = 1) -> None:
        """Of the time or the pooled text."""
        self.linear(inputs, dim, bias=bias, times=times)
        self.linear(dim, dim, bias=bias, times=times)

    def half(
        self, dim: int, mlp: int, tokens: int, head: int, *, bias: bool = True, own: int = 6, gates: int = 1
    ) -> None:
        """One stream of a double block: modulation of its own, projections, MLP."""
        self.linear(dim, own * dim, bias=bias, times=bool(own))
        self.linear(dim, dim, tokens, bias=bias, times=4)
        self.linear(dim, gates * mlp, tokens, bias=bias)
        self.linear(mlp, dim, tokens, bias=bias)
        self.norm(head, 2)

    def blocks(self, config: Config, mlp: int, *, bias: bool = True, own: bool = True, gates: int = 1) -> int:
        """FLUX's double and single blocks; returns their width."""
        head, dim = config["attention_head_dim"], config["attention_head_dim"] * config["num_attention_heads"]
        for _ in range(config["num_layers"]):
            for tokens in (self.image, self.text):
                self.half(dim, mlp, tokens, head, bias=bias, own=6 * own, gates=gates)
            self.attention(self.tokens, dim)
        for _ in range(config.get("num_single_layers", 0)):
            self.linear(dim, 3 * dim, bias=bias, times=own)
            self.linear(dim, dim, self.tokens, bias=bias, times=3)
            self.linear(dim, gates * mlp, self.tokens, bias=bias)
            self.linear(dim + mlp, dim, self.tokens, bias=bias)
            self.norm(head, 2)
            self.attention(self.tokens, dim)
        return int(dim)

    def ends(self, config: Config, dim: int, channels: int, *, bias: bool = True, modulated: bool = True) -> None:
        """What brings image and text to the blocks' width, and the image back."""
        self.linear(config["in_channels"], dim, self.image, bias=bias)
        self.linear(config["joint_attention_dim"], dim, self.text, bias=bias)
        self.linear(dim, 2 * dim, bias=bias, times=modulated)
        self.linear(dim, channels, self.image, bias=bias)


def _width(config: Config) -> int:
    return int(config["attention_head_dim"] * config["num_attention_heads"])


def flux(hand: Hand, config: Config) -> None:
    dim = hand.blocks(config, 4 * _width(config))
    hand.ends(config, dim, config["out_channels"] or config["in_channels"])
    hand.embed(TIME, dim, times=1 + config["guidance_embeds"])
    hand.embed(config["pooled_projection_dim"], dim)


def longcat(hand: Hand, config: Config) -> None:
    dim = hand.blocks(config, 4 * _width(config))
    hand.ends(config, dim, config["in_channels"])
    hand.embed(TIME, dim)


def ovis(hand: Hand, config: Config) -> None:
    dim = hand.blocks(config, 4 * _width(config), gates=2)
    hand.ends(config, dim, config["out_channels"])
    hand.embed(TIME, dim)
    hand.norm(config["joint_attention_dim"])


def chroma(hand: Hand, config: Config) -> None:
    dim = hand.blocks(config, 4 * _width(config), own=False)
    hand.ends(config, dim, config["in_channels"], modulated=False)
    rows = 3 * config["num_single_layers"] + 12 * config["num_layers"] + 2
    hidden, layers = config["approximator_hidden_dim"], config["approximator_layers"]
    hand.linear(config["approximator_num_channels"], hidden, rows)
    hand.linear(hidden, hidden, rows, times=2 * layers)
    hand.linear(hidden, dim, rows)
    hand.norm(hidden, layers)


def flux2(hand: Hand, config: Config) -> None:
    dim = hand.blocks(config, 3 * _width(config), bias=False, own=False, gates=2)
    hand.ends(config, dim, config["in_channels"], bias=False)
    hand.embed(config["timestep_guidance_channels"], dim, bias=False, times=1 + config["guidance_embeds"])
    hand.linear(dim, 15 * dim, bias=False)


def qwen(hand: Hand, config: Config) -> None:
    dim = hand.blocks(config, 4 * _width(config))
    hand.ends(config, dim, 4 * config["out_channels"])
    hand.embed(TIME, dim)
    hand.norm(config["joint_attention_dim"])


def z_image(hand: Hand, config: Config) -> None:
    hand.image, hand.text = -(-hand.image // 32) * 32, -(-hand.text // 32) * 32  # it pads both
    dim, refiners, modulation = config["dim"], config["n_refiner_layers"], min(config["dim"], 256)
    for times, tokens, modulated in (
        (config["n_layers"], hand.tokens, True),
        (refiners, hand.image, True),
        (refiners, hand.text, False),
    ):
        for _ in range(times):
            hand.linear(dim, dim, tokens, bias=False, times=4)
            hand.linear(dim, dim * 8 // 3, tokens, bias=False, times=3)
            hand.norm(dim, 4)
            hand.norm(dim // config["n_heads"], 2)
            hand.linear(modulation, 4 * dim, times=modulated)
            hand.attention(tokens, dim)
    hand.linear(4 * config["in_channels"], dim, hand.image)
    hand.linear(config["cap_feat_dim"], dim, hand.text)
    hand.norm(config["cap_feat_dim"])
    hand.linear(TIME, 1024)
    hand.linear(1024, modulation)
    hand.linear(modulation, dim)
    hand.linear(dim, 4 * config["in_channels"], hand.tokens)
    hand.norm(dim, 2)  # tokens that pad


def sd3(hand: Hand, config: Config) -> None:
    dim, head = _width(config), config["attention_head_dim"] if config["qk_norm"] else 0
    for layer in range(config["num_layers"]):
        last = layer == config["num_layers"] - 1
        dual = layer in config["dual_attention_layers"]
        hand.half(dim, 4 * dim, hand.image, head, own=9 if dual else 6)
        hand.attention(hand.tokens, dim)
        if dual:
            hand.linear(dim, dim, hand.image, times=4)
            hand.norm(head, 2)
            hand.attention(hand.image, dim)
        if last:
            hand.linear(dim, 2 * dim)
            hand.linear(dim, dim, hand.text, times=3)
            hand.norm(head, 2)
        else:
            hand.half(dim, 4 * dim, hand.text, head)
    hand.buffers += config["pos_embed_max_size"] ** 2 * dim
    patch = {"in_channels": 4 * config["in_channels"], "joint_attention_dim": config["joint_attention_dim"]}
    hand.ends(patch, dim, 4 * config["out_channels"])
    hand.embed(TIME, dim)
    hand.embed(config["pooled_projection_dim"], dim)


FAMILIES: Mapping[str, Callable[[Hand, Config], None]] = {
    "FluxTransformer2DModel": flux, "LongCatImageTransformer2DModel": longcat, "OvisImageTransformer2DModel": ovis,
    "ChromaTransformer2DModel": chroma, "Flux2Transformer2DModel": flux2, "QwenImageTransformer2DModel": qwen,
    "ZImageTransformer2DModel": z_image, "SD3Transformer2DModel": sd3,
}  # fmt: skip


def by_hand(class_name: str, config: Config, *, image: int, text: int) -> Hand:
    """What a model has and a forward of so many image and text tokens takes; ``config`` completes the defaults."""
    defaults = signature(getattr(diffusers, class_name).__init__).parameters
    whole = {name: parameter.default for name, parameter in defaults.items() if name != "self"} | dict(config)
    hand = Hand(image, text)
    FAMILIES[class_name](hand, whole)
    return hand
