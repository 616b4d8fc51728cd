"""The FLUX-Shapes transformer: trained shallow, split to FLUX's 19 + 38 blocks, then guidance-distilled.

Why split: copying blocks and closing the copies' gates is exact but leaves most of them dead, and a benchmark of
pruning methods on dead blocks tells nothing. Here each of the k copies of a block keeps 1/k of its gates, so that all
carry signal.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from bench.shapes.text import WIDTH, TextEncoders
from bench.shapes.training import Schedule, train
from bench.shapes.vae import LATENT_CHANNELS
from bench.shapes.vocabulary import TEXT_TOKENS

TOKEN_CHANNELS = 4 * LATENT_CHANNELS
GRID = 4
BATCH = 128
#: Captions dropped while training the teacher, so that it can guide.
DROPPED = 0.10
#: Guidance scales the distilled model answers to; FLUX.1-dev's default of 3.5 lies within.
GUIDANCE = (1.0, 5.0)


@dataclass(frozen=True)
class Depth:
    """Numbers of double and single blocks."""

    double: int
    single: int


SHALLOW = Depth(5, 10)
FULL = Depth(19, 38)
SHALLOW_SCHEDULE = Schedule(steps=4900, lr=2e-3, muon=5e-3, ema=0.998, weight_decay=0.01)
DISTIL_SCHEDULE = Schedule(steps=400, lr=1e-3, muon=1e-3, ema=0.99, weight_decay=0.0, warmup=30)


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


def initialise_(transformer: FluxTransformer2DModel) -> None:
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


def position_ids(device: torch.device | str) -> tuple[Tensor, Tensor]:
    """(text ids (12, 3), image ids (16, 3)) as FluxPipeline makes them."""
    image = torch.zeros(GRID, GRID, 3)
    image[..., 1] = torch.arange(GRID)[:, None]
    image[..., 2] = torch.arange(GRID)[None, :]
    return torch.zeros(TEXT_TOKENS, 3, device=device), image.reshape(-1, 3).to(device)


class Conditioned(nn.Module):
    """Transformer and text encoders together: (tokens, time, guidance, text ids) to velocity."""

    def __init__(self, transformer: FluxTransformer2DModel, text: TextEncoders) -> None:
        super().__init__()
        self.transformer, self.text = transformer, text

    def forward(self, noisy: Tensor, time: Tensor, guidance: Tensor, t5_ids: Tensor, clip_ids: Tensor) -> Tensor:
        """Velocity (n, 16, 32) of noisy tokens at times in [0, 1]."""
        sequence, pooled = self.text(t5_ids, clip_ids)
        text_ids, image_ids = position_ids(noisy.device)
        velocity: Tensor = self.transformer(
            hidden_states=noisy,
            encoder_hidden_states=sequence,
            pooled_projections=pooled,
            timestep=time,
            guidance=guidance,
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0]
        return velocity


@dataclass(frozen=True)
class Latents:
    """The training set in memory: tokens (n, 16, 32) and the captions' token ids, whose row -1 is the empty caption."""

    tokens: Tensor
    t5_ids: Tensor
    clip_ids: Tensor

    def batch(self, step: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(clean, noisy, time, noise, rows) of a step; logit-normal times as in SD 3 (arXiv 2403.03206)."""
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(self.tokens), (BATCH,), generator=generator)
        noise = torch.randn(BATCH, *self.tokens.shape[1:], generator=generator)
        time = torch.sigmoid(torch.randn(BATCH, generator=generator))
        clean = self.tokens[rows].float()
        noisy = (1 - time[:, None, None]) * clean + time[:, None, None] * noise
        return clean.to(device), noisy.to(device), time.to(device), noise.to(device), rows


def compile_blocks_(model: Conditioned) -> None:
    """Compile each kind of block once; its graph then serves all blocks of the kind."""
    for stack in (model.transformer.transformer_blocks, model.transformer.single_transformer_blocks):
        for block in stack:
            block.compile(dynamic=False)


def train_shallow(latents: Latents, folder: Path, device: str = "cpu") -> Conditioned:
    """Flow matching on the latents with a shallow transformer, text encoders trained along."""
    torch.manual_seed(1)
    model = Conditioned(build_transformer(SHALLOW), TextEncoders()).to(device)
    initialise_(model.transformer)
    compile_blocks_(model)
    ones = torch.ones(BATCH, device=device)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        clean, noisy, time, noise, rows = latents.batch(step, device)
        drop = torch.rand(BATCH, generator=torch.Generator().manual_seed(step + 1)) < DROPPED
        rows = torch.where(drop, -1, rows)
        velocity = model(noisy, time, ones, latents.t5_ids[rows].to(device), latents.clip_ids[rows].to(device))
        return (velocity - (noise - clean)).square().mean(), {}

    train("shallow", model, loss_of_step, SHALLOW_SCHEDULE, folder)
    return model


def split_(shallow: FluxTransformer2DModel, depth: Depth) -> FluxTransformer2DModel:
    """A deeper transformer of copies of the shallow one's blocks, the k copies of a block with 1/k of its gates."""
    deep = build_transformer(depth)
    state = {key: value for key, value in shallow.state_dict().items() if "transformer_blocks." not in key}
    missing = [
        key for key in deep.load_state_dict(state, strict=False).missing_keys if "transformer_blocks." not in key
    ]
    if missing:
        raise ValueError(f"the shallow transformer lacks {missing}")
    for name in ("transformer_blocks", "single_transformer_blocks"):
        sources, targets = getattr(shallow, name), getattr(deep, name)
        shares = [len(part) for part in torch.arange(len(targets)).tensor_split(len(sources))]
        copies = [(source, k) for source, k in zip(sources, shares, strict=True) for _ in range(k)]
        for target, (source, k) in zip(targets, copies, strict=True):
            target.load_state_dict(source.state_dict())
            scale_gates_(target, 1 / k)
    return deep


@torch.no_grad()
def scale_gates_(block: nn.Module, factor: float) -> None:
    """Scale what a block adds: the gate rows of its AdaLN modulations (chunk 2 of 3, chunks 2 and 5 of 6)."""
    for name in ("norm1", "norm1_context", "norm"):
        norm = getattr(block, name, None)
        if norm is None:
            continue
        for gate in range(2, norm.linear.out_features // WIDTH, 3):
            rows = slice(gate * WIDTH, (gate + 1) * WIDTH)
            norm.linear.weight[rows] *= factor
            norm.linear.bias[rows] *= factor


def distil(shallow: Conditioned, latents: Latents, folder: Path, device: str = "cpu") -> Conditioned:
    """The full-depth student learns the guided velocity of the shallow teacher at every guidance scale.

    One forward then does what classifier-free guidance needs two for, as in FLUX.1-dev (arXiv 2210.03142).
    """
    torch.manual_seed(2)
    teacher = shallow.to(device).eval().requires_grad_(requires_grad=False)
    deep = split_(teacher.transformer, FULL)
    student = Conditioned(deep, copy.deepcopy(teacher.text)).to(device).requires_grad_(requires_grad=True)
    # The teacher's captions stay the student's: retraining the encoders would gain nothing here.
    student.text.requires_grad_(requires_grad=False)
    compile_blocks_(student)
    compile_blocks_(teacher)
    ones = torch.ones(2 * BATCH, device=device)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        # Another range of seeds than the teacher's training saw.
        clean, noisy, time, noise, rows = latents.batch(10**6 + step, device)
        low, high = GUIDANCE
        scale = low + (high - low) * torch.rand(BATCH, generator=torch.Generator().manual_seed(step)).to(device)
        empty = torch.full_like(rows, -1)
        both = torch.cat([rows, empty])
        with torch.no_grad():
            t5_ids, clip_ids = latents.t5_ids[both].to(device), latents.clip_ids[both].to(device)
            guided, unguided = teacher(noisy.repeat(2, 1, 1), time.repeat(2), ones, t5_ids, clip_ids).chunk(2)
            target = unguided + scale[:, None, None] * (guided - unguided)
        velocity = student(noisy, time, scale, latents.t5_ids[rows].to(device), latents.clip_ids[rows].to(device))
        plain = (velocity.detach() - (noise - clean)).square().mean()
        return (velocity - target).square().mean(), {"flow_matching": float(plain)}

    train("distil", student, loss_of_step, DISTIL_SCHEDULE, folder)
    return student
