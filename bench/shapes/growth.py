"""From the shallow transformer to FLUX.1-dev's: guidance distilled into it, then its blocks split to 19 + 38.

Why split: copying blocks and closing the copies' gates is exact but leaves most of them dead, and a benchmark of
pruning methods on dead blocks tells nothing. Here each of the k copies of a block keeps 1/k of its gates, so that all
carry signal; what the split breaks is mended by matching the shallow model's streams wherever a group of copies ends.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from bench.shapes.text import WIDTH
from bench.shapes.training import Schedule, frozen, train
from bench.shapes.transformer import (
    BATCH,
    FULL,
    SHALLOW,
    TIME_SHIFT,
    Conditioned,
    Depth,
    Latents,
    build_transformer,
    compile_blocks_,
    pack,
    position_ids,
)
from bench.shapes.vae import encode
from bench.shapes.vocabulary import TEXT_TOKENS
from bench.shapes.world import TRAINING_TASKS, Scenes, render, sample_scenes

#: Guidance scales the distilled model answers to; FLUX.1-dev's default of 3.5 lies within.
GUIDANCE = (1.0, 5.0)
GUIDE_SCHEDULE = Schedule(steps=400, lr=1e-3, muon=1e-3, ema=0.98, weight_decay=0.0, warmup=30)
PARTING_SCHEDULE = Schedule(steps=900, lr=2e-3, muon=3e-3, ema=0.99, weight_decay=0.0, warmup=15)
#: Size of the noise that parting begins with, relative to the weights': a cosine of 0.43 between four copies.
PARTING_NOISE = 1.0
DEEPEN_SCHEDULE = Schedule(steps=600, lr=1e-3, muon=1e-3, ema=0.99, weight_decay=0.0, warmup=30)


def _scales(step: int, device: str) -> Tensor:
    """Guidance scales (batch,) of a step."""
    low, high = GUIDANCE
    return (low + (high - low) * torch.rand(BATCH, generator=torch.Generator().manual_seed(step))).to(device)


def guide(shallow: Conditioned, latents: Latents, folder: Path) -> Conditioned:
    """A shallow student learns the guided velocity of the shallow teacher at every guidance scale.

    One forward then does what classifier-free guidance needs two for, as in FLUX.1-dev (arXiv 2210.03142). The text
    encoders stay the teacher's.
    """
    torch.manual_seed(2)
    teacher = frozen(shallow, latents.device)
    student = copy.deepcopy(teacher)
    student.transformer.requires_grad_()
    compile_blocks_(student.transformer)
    ones = torch.ones(2 * BATCH, device=latents.device)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        # Another range of seeds than the teacher's training saw.
        noisy, time, _, rows = latents.batch(10**6 + step)
        scale = _scales(step, latents.device)
        with torch.no_grad():
            ids = latents.ids(torch.cat([rows, torch.full_like(rows, -1)]))
            guided, unguided = teacher(noisy.repeat(2, 1, 1), time.repeat(2), ones, *ids).chunk(2)
            target = unguided + scale[:, None, None] * (guided - unguided)
        velocity = student(noisy, time, scale, *latents.ids(rows))
        return (velocity - target).square().mean(), {}

    train("guide", student, loss_of_step, GUIDE_SCHEDULE, folder)
    return student


def shares_of(deep: int, shallow: int) -> list[int]:
    """Into how many copies each of the shallow model's blocks is split."""
    return [len(part) for part in torch.arange(deep).tensor_split(shallow)]


def split_(shallow: FluxTransformer2DModel, depth: Depth) -> FluxTransformer2DModel:
    """A deeper transformer of copies of the shallow one's blocks, the k copies of a block with 1/k of its gates."""
    deep = build_transformer(depth)
    copy_all_but_blocks_(shallow, deep)
    for name in ("transformer_blocks", "single_transformer_blocks"):
        split_blocks_(getattr(shallow, name), getattr(deep, name))
    return deep


def copy_all_but_blocks_(shallow: nn.Module, deep: nn.Module) -> None:
    """Copy the weights outside of the stacks of blocks; raises ValueError where one is lacking."""
    state = {key: value for key, value in shallow.state_dict().items() if "transformer_blocks." not in key}
    missing, unexpected = deep.load_state_dict(state, strict=False)
    if lacking := [*unexpected, *(key for key in missing if "transformer_blocks." not in key)]:
        raise ValueError(f"the shallow and the deep transformer do not share {lacking}")


def split_blocks_(sources: Sequence[nn.Module], targets: Sequence[nn.Module]) -> None:
    """Fill the deeper stack with copies of the shallow one's blocks."""
    shares = shares_of(len(targets), len(sources))
    copies = [(source, k) for source, k in zip(sources, shares, strict=True) for _ in range(k)]
    for target, (source, k) in zip(targets, copies, strict=True):
        target.load_state_dict(source.state_dict())
        scale_gates_(target, 1 / k)


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


def group_ends(depth: Depth) -> tuple[int, ...]:
    """How many blocks of a transformer of this depth have run when each of the shallow model's has done its part."""
    double = list(accumulate(shares_of(depth.double, SHALLOW.double)))
    return (*double, *(depth.double + end for end in accumulate(shares_of(depth.single, SHALLOW.single))))


def run_with_streams(
    transformer: FluxTransformer2DModel,
    inputs: tuple[Tensor, Tensor, Tensor],
    text: tuple[Tensor, Tensor],
    ends: tuple[int, ...],
) -> tuple[Tensor, list[Tensor]]:
    """Velocity, and both streams (n, 28, 64) behind the blocks that `ends` counts.

    inputs: noisy tokens, times in [0, 1] and guidance scales; text: sequence and pooled vector. The same as the
    model's own forward, whose inner streams hooks could read only at the cost of compiled blocks.
    """
    noisy, time, scale = inputs
    sequence, pooled = text
    text_ids, image_ids = position_ids(noisy.device)
    hidden_states, encoder_hidden_states = transformer.x_embedder(noisy), transformer.context_embedder(sequence)
    temb = transformer.time_text_embed(time * 1000, scale * 1000, pooled)
    rotary = transformer.pos_embed(torch.cat([text_ids, image_ids]))
    streams = []
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    for done, block in enumerate(blocks, 1):
        encoder_hidden_states, hidden_states = block(
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            temb=temb,
            image_rotary_emb=rotary,
            joint_attention_kwargs=None,
        )
        if done in ends:
            streams.append(torch.cat([encoder_hidden_states, hidden_states], dim=1))
    velocity: Tensor = transformer.proj_out(transformer.norm_out(hidden_states, temb))
    return velocity, streams


def matching_loss(
    velocity: Tensor, target: Tensor, streams: Sequence[Tensor], wanted: Sequence[Tensor]
) -> tuple[Tensor, dict[str, float]]:
    """How far a split model is from the one that was split, in its velocity and behind every group of copies."""
    pairs = zip(streams, wanted, strict=True)
    inner = torch.stack([(a - b).square().mean() / b.square().mean() for a, b in pairs]).mean()
    error = (velocity - target).square().mean()
    return error + inner, {"velocity": float(error.detach()), "streams": float(inner.detach())}


def _unlike(
    teacher: FluxTransformer2DModel,
    depth: Depth,
    student: FluxTransformer2DModel,
    inputs: tuple[Tensor, Tensor, Tensor],
    text: tuple[Tensor, Tensor],
) -> tuple[Tensor, dict[str, float]]:
    """How far a student of full depth is from its teacher, which is of the given depth."""
    with torch.no_grad():
        target, wanted = run_with_streams(teacher, inputs, text, group_ends(depth))
    velocity, streams = run_with_streams(student, inputs, text, group_ends(FULL))
    # The text stream behind the last block is never read.
    return matching_loss(velocity, target, streams[:-1], wanted[:-1])


def copies_of(transformer: Any) -> list[list[nn.Module]]:
    """The blocks of a transformer of full depth by the shallow one's block that they are copies of."""
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    ends = group_ends(FULL)
    return [blocks[start:end] for start, end in zip((0, *ends), ends, strict=False)]


def cosines(vectors: Tensor) -> Tensor:
    """Between each two of some vectors (n, size): (n (n - 1) / 2)."""
    unit = nn.functional.normalize(vectors, dim=1)
    first, second = torch.triu_indices(len(vectors), len(vectors), 1, device=vectors.device)
    return (unit @ unit.T)[first, second]


def weights_of(blocks: Sequence[nn.Module]) -> Tensor:
    """All matrices of each block as one vector: (blocks, size)."""
    return torch.stack([torch.cat([p.flatten() for p in block.parameters() if p.ndim == 2]) for block in blocks])


@torch.no_grad()
def noised(pipeline: Any, scenes: Scenes, seed: int) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Scenes as a finished pipeline meets them in training: noisy tokens, times, velocities and encoded captions."""
    generator = torch.Generator().manual_seed(seed)
    clean = pack(encode(pipeline.vae, render(scenes, pipeline.device)))
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    time = torch.sigmoid(TIME_SHIFT + torch.randn(len(scenes), generator=generator)).to(clean.device)
    sequence, pooled, _ = pipeline.encode_prompt(list(scenes.captions), None, max_sequence_length=TEXT_TOKENS)
    return torch.lerp(clean, noise, time[:, None, None]), time, noise - clean, (sequence, pooled)


@torch.no_grad()
def disturb_(transformer: Any, share: float = PARTING_NOISE) -> None:
    """Add noise to the matrices of each block's copies that sums to nothing over them.

    What the copies do together stays to first order. As they are, the penalty on their likeness has next to no slope.
    """
    generator = torch.Generator().manual_seed(6)
    for blocks in copies_of(transformer):
        for weights in zip(*(block.parameters() for block in blocks), strict=True):
            if weights[0].ndim == 2 and len(blocks) > 1:
                size = torch.stack(weights).square().mean().sqrt()
                noise = torch.randn(len(blocks), *weights[0].shape, generator=generator).to(size.device)
                for weight, own in zip(weights, noise - noise.mean(dim=0), strict=True):
                    weight.add_(share * size * own)


def part(pipeline: Any, folder: Path, device: str = "cpu") -> FluxTransformer2DModel:
    """Train a finished model on until the copies it was grown from are copies no more.

    It begins with noise that the copies of a block take back from each other, and learns to do what it did before,
    group of copies by group. A kill does not undo it: the same command continues.
    """
    pipeline.to(device)
    teacher = frozen(copy.deepcopy(pipeline.transformer), device)
    student = pipeline.transformer.requires_grad_()
    disturb_(student)
    compile_blocks_(teacher)
    compile_blocks_(student)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        noisy, time, _, text = noised(pipeline, sample_scenes(BATCH, 8 * 10**6 + step, tasks=TRAINING_TASKS), step)
        return _unlike(teacher, FULL, student, (noisy, time, _scales(step, device)), text)

    train("part", student, loss_of_step, PARTING_SCHEDULE, folder)
    return student


def deepen(guided: Conditioned, latents: Latents, folder: Path) -> Conditioned:
    """Split the guided model to full depth and train it to do what the shallow one does, group of copies by group."""
    torch.manual_seed(3)
    teacher = frozen(guided, latents.device)
    student = Conditioned(split_(teacher.transformer, FULL), copy.deepcopy(teacher.text)).to(latents.device)
    student.transformer.requires_grad_()
    compile_blocks_(student.transformer)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        noisy, time, _, rows = latents.batch(2 * 10**6 + step)
        inputs = noisy, time, _scales(step, latents.device)
        with torch.no_grad():
            text = teacher.text(*latents.ids(rows))
        return _unlike(teacher.transformer, SHALLOW, student.transformer, inputs, text)

    train("deepen", student, loss_of_step, DEEPEN_SCHEDULE, folder)
    return student
