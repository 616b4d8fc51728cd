"""The FLUX-Shapes transformer as first trained, 5 + 10 blocks by flow matching; `growth` gives it FLUX's depth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bench.shapes.text import WIDTH, TextEncoders
from bench.shapes.training import Schedule, train
from bench.shapes.vae import LATENT_CHANNELS
from bench.shapes.vocabulary import COLOR_NAMES, PLURALS, SHAPES, TEXT_TOKENS

TOKEN_CHANNELS = 4 * LATENT_CHANNELS
GRID = 4
BATCH = 128
#: Towards noise: what stands where, and which shape it is, is settled in the noisiest fifth of the path.
TIME_SHIFT = 0.8
#: Captions dropped while training the teacher, so that it can guide.
DROPPED = 0.10
#: Weight of the layout loss beside the flow-matching loss.
LAYOUT_WEIGHT = 2.0
#: Coverage of the four quarters of a token's patch by each of 8 shapes and 10 colours.
LAYOUT_CHANNELS = 72
#: The same 8 x 8 quarters for one word of the caption.
WORD_CELLS = 64
#: Weights of the words' loss, and in it of the colour of a shape.
WORD_WEIGHT = 1.0
COLOR_WEIGHT = 0.2
#: Penalty on the squared weights of the words' head: what T5 knows must be large in its output, or the transformer,
#: which has other things to learn, does not take it up.
WORD_PENALTY = 2e-3


@dataclass(frozen=True)
class Depth:
    """Numbers of double and single blocks."""

    double: int
    single: int


SHALLOW = Depth(5, 10)
FULL = Depth(19, 38)
SHALLOW_SCHEDULE = Schedule(steps=36_000, lr=2e-3, muon=5e-3, ema=0.998, weight_decay=0.01)


def build_transformer(depth: Depth) -> FluxTransformer2DModel:
    """An untrained transformer of FLUX.1-dev's topology at width 64."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=TOKEN_CHANNELS,
        num_layers=depth.double,
        num_single_layers=depth.single,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )


def initialise_(transformer: FluxTransformer2DModel | SD3Transformer2DModel) -> None:
    """DiT's initialisation: Xavier matrices, modulations and the output start at zero."""
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and (name.endswith("norm.linear") or ".norm1" in name or "norm_out" in name):
            nn.init.zeros_(module.weight)
    nn.init.zeros_(transformer.proj_out.weight)


def pack(latents: Tensor) -> Tensor:
    """Latents (n, c, 8, 8) to tokens (n, 16, 4c), in FluxPipeline's order."""
    n, c, height, width = latents.shape
    tokens = latents.view(n, c, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return tokens.reshape(n, GRID * GRID, 4 * c)


def unpack(tokens: Tensor) -> Tensor:
    """Tokens (n, 16, 4c) to latents (n, c, 8, 8): `pack` undone."""
    n, _, channels = tokens.shape
    grid = tokens.view(n, GRID, GRID, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(n, channels // 4, 2 * GRID, 2 * GRID)


def position_ids(device: torch.device | str) -> tuple[Tensor, Tensor]:
    """(text ids (12, 3), image ids (16, 3)) as FluxPipeline makes them."""
    image = torch.zeros(GRID, GRID, 3)
    image[..., 1] = torch.arange(GRID)[:, None]
    image[..., 2] = torch.arange(GRID)[None, :]
    return torch.zeros(TEXT_TOKENS, 3, device=device), image.reshape(-1, 3).to(device)


def velocity_of(
    transformer: FluxTransformer2DModel, inputs: tuple[Tensor, Tensor, Tensor], text: tuple[Tensor, Tensor]
) -> Tensor:
    """Velocity (n, 16, 32) of noisy tokens, times in [0, 1] and guidance scales, given sequence and pooled vector."""
    noisy, time, guidance = inputs
    sequence, pooled = text
    text_ids, image_ids = position_ids(noisy.device)
    velocity: Tensor = transformer(noisy, sequence, pooled, time, image_ids, text_ids, guidance, return_dict=False)[0]
    return velocity


class Conditioned(nn.Module):
    """Transformer and text encoders together: (tokens, time, guidance, text ids) to velocity."""

    def __init__(self, transformer: FluxTransformer2DModel, text: TextEncoders) -> None:
        super().__init__()
        self.transformer, self.text = transformer, text

    def forward(self, noisy: Tensor, time: Tensor, guidance: Tensor, t5_ids: Tensor, clip_ids: Tensor) -> Tensor:
        """Velocity (n, 16, 32) of noisy tokens at times in [0, 1]."""
        return velocity_of(self.transformer, (noisy, time, guidance), self.text(t5_ids, clip_ids))


class LayoutTeacher(nn.Module):
    """The shallow model with two heads that read what stands where in the clean picture.

    One reads it from the image tokens behind the last double block: aligning early features with a description of the
    clean picture speeds flow matching up (REPA, arXiv 2410.06940), and the world knows its ground truth, so that serves
    here instead of a pretrained encoder. The other reads it from T5's tokens, of each word that names a shape or a
    colour: where that is drawn, and a shape's colour. Without it T5 stays a bag of words for 20,000 steps: flow
    matching alone hardly rewards knowing which of two shapes is the left one. Both heads are dropped later.
    """

    named: Tensor

    def __init__(self, model: Conditioned) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, LAYOUT_CHANNELS)
        )
        self.word_head = nn.Linear(WIDTH, WORD_CELLS + len(COLOR_NAMES))
        self.register_buffer("named", _named_channels(model.text), persistent=False)
        self._features: dict[str, Tensor] = {}
        self.hooks = [
            self._keep("image", model.transformer.transformer_blocks[-1], 1),
            self._keep("text", model.text, 0),
        ]

    def _keep(self, name: str, module: nn.Module, place: int) -> RemovableHandle:
        """Keep one of the two outputs of a module."""

        def hook(_module: nn.Module, _inputs: object, outputs: tuple[Tensor, Tensor]) -> None:
            self._features[name] = outputs[place]

        return module.register_forward_hook(hook)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(velocity (n, 16, 32), logits of the layout (n, 16, 72), logits of the words (n, 12, 64 + 10))."""
        velocity = self.model(*inputs)
        return velocity, self.head(self._features.pop("image")), self.word_head(self._features.pop("text"))

    def misread(self, logits: Tensor, t5_ids: Tensor, layout: Tensor) -> Tensor:
        """Mean loss of the words' logits (n, 12, 74) against a layout (n, 16, 72) in [0, 1].

        Cross-entropies: of the coverage of the 64 cells by what the word names, and of the colour of a named shape.
        """
        cells = layout.unflatten(2, (-1, 4)).transpose(1, 2).flatten(2)  # (n, 18, 64)
        channels = self.named[t5_ids]  # (n, 12), -1 for words that name nothing
        rows, places = (channels >= 0).nonzero(as_tuple=True)
        drawn = cells[rows, channels[rows, places]]  # (words, 64)
        where = nn.functional.binary_cross_entropy_with_logits(logits[rows, places, :WORD_CELLS], drawn)
        shown = torch.einsum("wk,wck->wc", drawn, cells[rows, len(SHAPES) :])
        shape = channels[rows, places] < len(SHAPES)
        return where + COLOR_WEIGHT * nn.functional.cross_entropy(
            logits[rows, places, WORD_CELLS:][shape], shown[shape].argmax(dim=1)
        )


def _named_channels(text: TextEncoders) -> Tensor:
    """The layout's channel, 0 to 17, that each T5 token names, -1 where it names none."""
    channels = torch.full((len(text.t5_tokenizer),), -1)
    for names in (SHAPES, PLURALS):
        channels[text.t5_tokenizer.convert_tokens_to_ids([f"▁{name}" for name in names])] = torch.arange(len(SHAPES))
    colors = text.t5_tokenizer.convert_tokens_to_ids([f"▁{name}" for name in COLOR_NAMES])
    channels[colors] = len(SHAPES) + torch.arange(len(COLOR_NAMES))
    return channels


class Batch(NamedTuple):
    """Noisy tokens (n, 16, 32), times in [0, 1], the velocity noise - clean, and rows of the training set."""

    noisy: Tensor
    time: Tensor
    velocity: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Latents:
    """The training set in memory; batches and ids are given on `device`.

    tokens (n, 16, 32); t5_ids, clip_ids: the captions' token ids, whose row -1 is the empty caption; layout
    (n, 16, 72) uint8: how much of each quarter of a token's patch each shape and colour covers, 255 for all of it.
    """

    tokens: Tensor
    t5_ids: Tensor
    clip_ids: Tensor
    layout: Tensor
    device: str = "cpu"

    @classmethod
    def read(cls, path: Path, device: str) -> Latents:
        """The file that the stage "latents" wrote."""
        return cls(**load_file(path), device=device)

    def batch(self, step: int) -> Batch:
        """The batch of a step; logit-normal times as in SD 3 (arXiv 2403.03206), shifted."""
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(self.tokens), (BATCH,), generator=generator)
        noise = torch.randn(BATCH, *self.tokens.shape[1:], generator=generator)
        time = torch.sigmoid(TIME_SHIFT + torch.randn(BATCH, generator=generator))
        clean = self.tokens[rows].float()
        noisy = (1 - time[:, None, None]) * clean + time[:, None, None] * noise
        return Batch(noisy.to(self.device), time.to(self.device), (noise - clean).to(self.device), rows)

    def ids(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The captions of rows for T5 and CLIP."""
        return self.t5_ids[rows].to(self.device), self.clip_ids[rows].to(self.device)


def compile_blocks_(transformer: FluxTransformer2DModel | SD3Transformer2DModel) -> None:
    """Compile each kind of block once; its graph then serves all blocks of the kind. A hooked block stays eager."""
    for block in (*transformer.transformer_blocks, *getattr(transformer, "single_transformer_blocks", ())):
        if not block._forward_hooks:  # noqa: SLF001  # torch offers no other way to ask
            block.compile(dynamic=False)


def train_shallow(latents: Latents, folder: Path) -> Conditioned:
    """Flow matching on the latents with a shallow transformer, text encoders trained along."""
    torch.manual_seed(1)
    model = Conditioned(build_transformer(SHALLOW), TextEncoders()).to(latents.device)
    initialise_(model.transformer)
    supervised = LayoutTeacher(model).to(latents.device)
    compile_blocks_(model.transformer)
    ones = torch.ones(BATCH, device=latents.device)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        noisy, time, wanted, rows = latents.batch(step)
        drop = torch.rand(BATCH, generator=torch.Generator().manual_seed(step + 1)) < DROPPED
        layout = latents.layout[rows].to(latents.device).float() / 255
        t5_ids, clip_ids = latents.ids(torch.where(drop, -1, rows))
        velocity, logits, words = supervised(noisy, time, ones, t5_ids, clip_ids)
        error = (velocity - wanted).square().mean()
        misplaced = nn.functional.binary_cross_entropy_with_logits(logits, layout)
        misread = supervised.misread(words, t5_ids, layout)
        parts = {"flow_matching": error, "layout": misplaced, "words": misread}
        figures = {name: float(part.detach()) for name, part in parts.items()}
        penalty = WORD_PENALTY * supervised.word_head.weight.square().sum()
        return error + LAYOUT_WEIGHT * misplaced + WORD_WEIGHT * misread + penalty, figures

    train("shallow", supervised, loss_of_step, SHALLOW_SCHEDULE, folder)
    for hook in supervised.hooks:
        hook.remove()
    return model
