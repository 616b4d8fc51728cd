"""SD3-Shapes: a small SD3 of 24 joint blocks for Table 3, taught by the guided FLUX-Shapes on its VAE and encoders.

As FLUX-Shapes it is trained shallow and then split (see `growth`). The teacher's guided velocity at one scale is what
it learns, so it is drawn without classifier-free guidance, one forward a step.
"""

from __future__ import annotations

import copy
from itertools import accumulate
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from bench.shapes.growth import copy_all_but_blocks_, matching_loss, run_with_streams, shares_of, split_blocks_
from bench.shapes.text import WIDTH, TextEncoders
from bench.shapes.training import Schedule, frozen, train
from bench.shapes.transformer import BATCH, GRID, Conditioned, Latents, compile_blocks_, initialise_, unpack
from bench.shapes.vae import LATENT_CHANNELS

SHALLOW_BLOCKS = 8
BLOCKS = 24
#: The teacher's guidance scale: what the shapes profile samples FLUX-Shapes with.
GUIDANCE = 3.0
#: Behind this block of the shallow model its image tokens are compared with the teacher's behind its double blocks.
ALIGNED = 5
ALIGNMENT_WEIGHT = 0.5
SCHEDULE = Schedule(steps=3500, lr=2e-3, muon=5e-3, ema=0.998, weight_decay=0.01)
DEEPEN_SCHEDULE = Schedule(steps=600, lr=1e-3, muon=1e-3, ema=0.99, weight_decay=0.0, warmup=30)


def build_sd3(blocks: int) -> SD3Transformer2DModel:
    """An untrained transformer of SD3-medium's topology at width 64, with this many blocks."""
    return SD3Transformer2DModel(
        sample_size=2 * GRID,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=blocks,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=GRID,
    )


class Sd3Text(nn.Module):
    """FLUX-Shapes' encoders as SD3 uses them: captions' token ids to (sequence (n, 25, 64), pooled (n, 128)).

    SD3 has two CLIP encoders; here both are the one that there is, with an identity for a projection. Their hidden
    states side by side are wider than T5's, and StableDiffusion3Pipeline then keeps as many channels as T5 has.
    """

    def __init__(self, text: TextEncoders) -> None:
        super().__init__()
        self.t5 = text.t5
        self.clip = with_projection(text)

    def forward(self, t5_ids: Tensor, clip_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Just what StableDiffusion3Pipeline makes of the captions."""
        clip = self.clip(clip_ids, output_hidden_states=True)
        pooled = clip.text_embeds
        return torch.cat([clip.hidden_states[-2], self.t5(t5_ids)[0]], dim=1), torch.cat([pooled, pooled], dim=1)


def with_projection(text: TextEncoders) -> CLIPTextModelWithProjection:
    """The CLIP encoder with an identity for a projection, which SD3's class has."""
    clip = CLIPTextModelWithProjection(text.clip.config)
    missing, unexpected = clip.load_state_dict(
        {f"text_model.{name.removeprefix('text_model.')}": value for name, value in text.clip.state_dict().items()},
        strict=False,
    )
    if unexpected or missing != ["text_projection.weight"]:
        raise ValueError(f"the CLIP encoder does not fit: missing {missing}, unexpected {unexpected}")
    nn.init.eye_(clip.text_projection.weight)
    return clip.eval()


def run_with_image_streams(
    transformer: SD3Transformer2DModel, noisy: Tensor, time: Tensor, text: tuple[Tensor, Tensor], ends: tuple[int, ...]
) -> tuple[Tensor, list[Tensor]]:
    """Velocity (n, 8, 8, 8), and the streams behind the blocks that `ends` counts: the image's (n, 16, 64), the text's.

    noisy: latents (n, 8, 8, 8); time in [0, 1]. The same as the model's own forward, whose inner streams hooks could
    read only at the cost of compiled blocks. Behind the last block there is no text stream.
    """
    sequence, pooled = text
    hidden_states = transformer.pos_embed(noisy)
    encoder_hidden_states = transformer.context_embedder(sequence)
    temb = transformer.time_text_embed(time * 1000, pooled)
    streams = []
    for done, block in enumerate(transformer.transformer_blocks, 1):
        encoder_hidden_states, hidden_states = block(
            hidden_states=hidden_states, encoder_hidden_states=encoder_hidden_states, temb=temb
        )
        if done in ends:
            streams += [hidden_states] if encoder_hidden_states is None else [hidden_states, encoder_hidden_states]
    tokens = transformer.proj_out(transformer.norm_out(hidden_states, temb))  # (n, 16, 2 * 2 * 8), channels last
    patches = tokens.view(len(tokens), GRID, GRID, 2, 2, LATENT_CHANNELS).permute(0, 5, 1, 3, 2, 4)
    return patches.reshape(len(tokens), LATENT_CHANNELS, 2 * GRID, 2 * GRID), streams


class _Student(nn.Module):
    """The shallow model with a head that aligns its image tokens with the teacher's; the head is dropped later."""

    def __init__(self, transformer: SD3Transformer2DModel) -> None:
        super().__init__()
        self.transformer = transformer
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, noisy: Tensor, time: Tensor, text: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(velocity (n, 8, 8, 8), what the head makes of the image tokens (n, 16, 64))."""
        velocity, streams = run_with_image_streams(self.transformer, noisy, time, text, (ALIGNED,))
        return velocity, self.head(streams[0])


def train_sd3(guided: Conditioned, latents: Latents, folder: Path) -> SD3Transformer2DModel:
    """A shallow SD3 learns the guided teacher's velocity; the text encoders stay the teacher's."""
    torch.manual_seed(4)
    teacher, text = frozen(guided, latents.device), frozen(Sd3Text(guided.text), latents.device)
    student = _Student(build_sd3(SHALLOW_BLOCKS)).to(latents.device)
    initialise_(student.transformer)
    compile_blocks_(student.transformer)
    scale = torch.full((BATCH,), GUIDANCE, device=latents.device)
    double = len(teacher.transformer.transformer_blocks)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        # Another range of seeds than the teacher's own trainings saw.
        noisy, time, _, rows = latents.batch(3 * 10**6 + step)
        ids = latents.ids(rows)
        with torch.no_grad():
            target, (features,) = run_with_streams(
                teacher.transformer, (noisy, time, scale), teacher.text(*ids), (double,)
            )
            features = features[:, -GRID * GRID :]
            encoded = text(*ids)
        velocity, aligned = student(unpack(noisy), time, encoded)
        error = (velocity - unpack(target)).square().mean()
        inner = (aligned - features).square().mean() / features.square().mean()
        return error + ALIGNMENT_WEIGHT * inner, {"velocity": float(error.detach()), "aligned": float(inner.detach())}

    train("sd3", student, loss_of_step, SCHEDULE, folder)
    return student.transformer


def split_sd3(shallow: SD3Transformer2DModel) -> SD3Transformer2DModel:
    """24 blocks from the shallow model's: each split into copies but the last, which alone leaves the text out."""
    deep = build_sd3(BLOCKS)
    copy_all_but_blocks_(shallow, deep)
    split_blocks_(shallow.transformer_blocks[:-1], deep.transformer_blocks[:-1])
    deep.transformer_blocks[-1].load_state_dict(shallow.transformer_blocks[-1].state_dict())
    return deep


def deepen_sd3(
    shallow: SD3Transformer2DModel, guided: Conditioned, latents: Latents, folder: Path
) -> SD3Transformer2DModel:
    """Split the shallow SD3 to 24 blocks and mend what that broke, behind every group of copies."""
    torch.manual_seed(5)
    teacher, text = frozen(shallow, latents.device), frozen(Sd3Text(guided.text), latents.device)
    student = split_sd3(teacher).to(latents.device).requires_grad_()
    compile_blocks_(student)
    ends = tuple(accumulate(shares_of(BLOCKS - 1, SHALLOW_BLOCKS - 1)))

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        noisy, time, _, rows = latents.batch(4 * 10**6 + step)
        with torch.no_grad():
            encoded = text(*latents.ids(rows))
            target, wanted = run_with_image_streams(
                teacher, unpack(noisy), time, encoded, tuple(range(1, SHALLOW_BLOCKS))
            )
        velocity, streams = run_with_image_streams(student, unpack(noisy), time, encoded, ends)
        return matching_loss(velocity, target, streams, wanted)

    train("sd3_deepen", student, loss_of_step, DEEPEN_SCHEDULE, folder)
    return student


def sd3_pipeline(
    transformer: SD3Transformer2DModel, text: TextEncoders, vae: AutoencoderKL, shift: float
) -> StableDiffusion3Pipeline:
    """The pipeline around a trained transformer, FLUX-Shapes' other components in their places."""
    clip = with_projection(text)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift, use_dynamic_shifting=False),
        vae=vae,
        text_encoder=clip,
        tokenizer=text.clip_tokenizer,
        text_encoder_2=copy.deepcopy(clip),
        tokenizer_2=text.clip_tokenizer,
        text_encoder_3=text.t5,
        tokenizer_3=text.t5_tokenizer,
    )
