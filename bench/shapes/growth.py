"""From the shallow transformer to FLUX.1-dev's: guidance distilled into it, then its blocks split to 19 + 38.

Why split: copying blocks and closing the copies' gates is exact but leaves most of them dead, and a benchmark of
pruning methods on dead blocks tells nothing. Here each of the k copies of a block keeps 1/k of its gates, so that all
carry signal; what the split breaks is mended by matching the shallow model's streams wherever a group of copies ends.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from bench.shapes.text import WIDTH
from bench.shapes.training import Captured, Schedule, frozen, train
from bench.shapes.transformer import (
    BATCH,
    DROPPED,
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
    velocity_of,
)
from bench.shapes.vae import encode
from bench.shapes.vocabulary import TEXT_TOKENS
from bench.shapes.world import TRAINING_TASKS, Scenes, render, sample_scenes

#: Guidance scales the distilled model answers to; FLUX.1-dev's default of 3.5 lies within.
GUIDANCE = (1.0, 5.0)
GUIDE_SCHEDULE = Schedule(steps=400, lr=1e-3, muon=1e-3, ema=0.98, weight_decay=0.0, warmup=30)
#: A GPU's minutes, or a core's weeks. Without Muon, whose thousands of small kernels a GPU would wait for.
PARTING_SCHEDULE = Schedule(steps=7000, lr=1.5e-3, warmup=200, ema=0.999, weight_decay=0.0, save_every_s=300.0)
PARTING_GUIDE_SCHEDULE = Schedule(steps=1900, lr=5e-4, ema=0.998, weight_decay=0.0, save_every_s=300.0)
PARTING_BATCH, PARTING_SCENES = 1024, 262_144
#: Cosine between copies' matrices up to which they are no longer called copies, and the weight of what is beyond it.
ALIKE, PARTING_WEIGHT = 0.5, 4.0
#: Size of the noise that parting begins with, relative to the weights': a cosine of 0.64 for four copies.
PARTING_NOISE = 0.7
DEEPEN_SCHEDULE = Schedule(steps=600, lr=1e-3, muon=1e-3, ema=0.99, weight_decay=0.0, warmup=30)


def _scales(step: int, device: str, batch: int = BATCH) -> Tensor:
    """Guidance scales (batch,) of a step."""
    low, high = GUIDANCE
    return (low + (high - low) * torch.rand(batch, generator=torch.Generator().manual_seed(step))).to(device)


@torch.no_grad()
def _guided(
    teacher: FluxTransformer2DModel, noisy: Tensor, time: Tensor, scale: Tensor, text: tuple[Tensor, Tensor]
) -> Tensor:
    """An unguided teacher's velocity at guidance scales (n,); text: that of the captions, then as many empty ones'."""
    ones = torch.ones(2 * len(noisy), device=noisy.device)
    guided, unguided = velocity_of(teacher, (noisy.repeat(2, 1, 1), time.repeat(2), ones), text).chunk(2)
    return unguided + scale[:, None, None] * (guided - unguided)


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

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        # Another range of seeds than the teacher's training saw.
        noisy, time, _, rows = latents.batch(10**6 + step)
        scale = _scales(step, latents.device)
        with torch.no_grad():
            text = teacher.text(*latents.ids(torch.cat([rows, torch.full_like(rows, -1)])))
            target = _guided(teacher.transformer, noisy, time, scale, text)
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


class KnownScenes(NamedTuple):
    """Scenes as a finished pipeline sees them, on its device.

    tokens (n, 16, 32), half precision; caption (n,): rows of what the different captions are encoded to, sequences
    (captions + 1, 12, 64) and pooled (captions + 1, 64), whose last row is the empty caption's.
    """

    tokens: Tensor
    caption: Tensor
    sequences: Tensor
    pooled: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, pipeline: Any, count: int, seed: int = 8 * 10**6) -> KnownScenes:
        """Draw, render and encode scenes; the text encoders and the VAE of the pipeline stay as they are."""
        scenes = sample_scenes(count, seed, tasks=TRAINING_TASKS)
        parts = [scenes[start : start + 1024] for start in range(0, count, 1024)]
        tokens = [pack(encode(pipeline.vae, render(some, pipeline.device))).half() for some in parts]
        known = {text: row for row, text in enumerate(dict.fromkeys(scenes.captions))}
        texts = [*known, ""]
        encoded = [
            pipeline.encode_prompt(texts[start : start + 4096], None, max_sequence_length=TEXT_TOKENS)[:2]
            for start in range(0, len(texts), 4096)
        ]
        sequences, pooled = (torch.cat(half) for half in zip(*encoded, strict=True))
        caption = torch.tensor([known[text] for text in scenes.captions], device=pipeline.device)
        return cls(torch.cat(tokens), caption, sequences, pooled)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noisy tokens, times, velocities and rows of the captions of a step."""
        device = self.tokens.device
        generator = torch.Generator(device).manual_seed(step)
        rows = torch.randint(len(self.tokens), (PARTING_BATCH,), generator=generator, device=device)
        clean = self.tokens[rows].float()
        noise = torch.randn(clean.shape, generator=generator, device=device)
        time = torch.sigmoid(TIME_SHIFT + torch.randn(PARTING_BATCH, generator=generator, device=device))
        return torch.lerp(clean, noise, time[:, None, None]), time, noise - clean, self.caption[rows]

    def text(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sequences and pooled vectors of captions."""
        return self.sequences[rows], self.pooled[rows]


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


def _likeness(transformer: Any) -> tuple[Tensor, Tensor]:
    """(penalty on cosines between the matrices of one block's copies beyond `ALIKE`, their mean)."""
    likeness = torch.cat([cosines(weights_of(blocks)) for blocks in copies_of(transformer)])
    return PARTING_WEIGHT * (likeness - ALIKE).clamp(min=0).square().mean(), likeness.mean()


def _train_on(
    name: str,
    student: FluxTransformer2DModel,
    loss_of_batch: Callable[..., tuple[Tensor, dict[str, Tensor]]],
    batch_of_step: Callable[[int], Sequence[Tensor]],
    schedule: Schedule,
    folder: Path,
) -> None:
    """`train`, on a GPU with its step captured."""
    compile_blocks_(student)
    captured: list[Captured] = []

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch = batch_of_step(step)
        if student.device.type != "cuda":
            return loss_of_batch(*batch)
        if not captured:
            captured.append(Captured(student, loss_of_batch, batch))
        return captured[0](batch)

    train(name, student, loss_of_step, schedule, folder)


def part(pipeline: Any, folder: Path, device: str = "cpu") -> FluxTransformer2DModel:
    """Train a finished model on until the copies it was grown from are copies no more.

    It begins with noise that the copies of a block take back from each other. Then as a model is made: flow matching on
    the data, captions dropped now and then, with a penalty on what the copies still have in common; and guidance
    distilled into it, the deep model its own teacher. A kill does not undo it: the same command continues.
    """
    pipeline.to(device)
    known, student = KnownScenes.of(pipeline, PARTING_SCENES), pipeline.transformer.requires_grad_()
    disturb_(student)
    ones, empty = torch.ones(PARTING_BATCH, device=device), len(known.pooled) - 1

    def learn(noisy: Tensor, time: Tensor, wanted: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        velocity = velocity_of(student, (noisy, time, ones), known.text(rows))
        error, (penalty, likeness) = (velocity - wanted).square().mean(), _likeness(student)
        return error + penalty, {"flow_matching": error, "likeness": likeness}

    def with_dropped(step: int) -> Sequence[Tensor]:
        noisy, time, velocity, rows = known.batch(step)
        generator = torch.Generator(device).manual_seed(2 * 10**7 + step)
        drop = torch.rand(PARTING_BATCH, generator=generator, device=device) < DROPPED
        return noisy, time, velocity, torch.where(drop, empty, rows)

    _train_on("part", student, learn, with_dropped, PARTING_SCHEDULE, folder)
    teacher = frozen(copy.deepcopy(student), device)
    compile_blocks_(teacher)

    def follow(noisy: Tensor, time: Tensor, scale: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        both = known.text(torch.cat([rows, torch.full_like(rows, empty)]))
        wanted = _guided(teacher, noisy, time, scale, both)
        velocity = velocity_of(student, (noisy, time, scale), known.text(rows))
        error, (penalty, likeness) = (velocity - wanted).square().mean(), _likeness(student)
        return error + penalty, {"velocity": error, "likeness": likeness}

    def with_scale(step: int) -> Sequence[Tensor]:
        # Another range of seeds than the teacher's training saw.
        noisy, time, _, rows = known.batch(10**7 + step)
        return noisy, time, _scales(step, device, PARTING_BATCH), rows

    _train_on("part_guide", student.requires_grad_(), follow, with_scale, PARTING_GUIDE_SCHEDULE, folder)
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
            target, wanted = run_with_streams(teacher.transformer, inputs, text, group_ends(SHALLOW))
        velocity, streams = run_with_streams(student.transformer, inputs, text, group_ends(FULL))
        # The text stream behind the last block is never read.
        return matching_loss(velocity, target, streams[:-1], wanted[:-1])

    train("deepen", student, loss_of_step, DEEPEN_SCHEDULE, folder)
    return student
