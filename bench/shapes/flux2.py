"""FLUX.2-Shapes: a small FLUX.2 of klein's 5 + 20 blocks for Table 3, grown from FLUX-Shapes and taught by it.

FLUX.2's blocks compute nearly what FLUX.1's do, so it starts as FLUX-Shapes with runs of blocks merged: of what differs
(modulation shared by a stack's blocks and of the time alone, no biases, SwiGLU) each has a place where it fits in
nearly. Training mends the rest. It learns the guided velocity at one scale, as SD3-Shapes does.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from inspect import signature
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from bench.shapes.growth import copies_of, matching_loss, noised, run_with_streams
from bench.shapes.text import WIDTH, merges_of
from bench.shapes.training import Schedule, frozen, train
from bench.shapes.transformer import BATCH, GRID, TIME_SHIFT, TOKEN_CHANNELS, Depth, compile_blocks_
from bench.shapes.vocabulary import TEXT_TOKENS, words
from bench.shapes.world import TRAINING_TASKS, sample_scenes

DEPTH = Depth(5, 20)
HEADS, HEAD_DIM = 4, 16
#: As FLUX-Shapes' MLPs: one unit of SwiGLU does what one of GELU did.
MLP_RATIO = 4
#: The teacher's guidance scale: what the shapes profile samples FLUX-Shapes with.
GUIDANCE = 3.0
#: T5's tokens of the caption, and one for what CLIP makes of it: FLUX.2 modulates by the time alone.
TOKENS = TEXT_TOKENS + 1
#: RoPE's axes are time, row, column and place in the text; FLUX.1's are the first, row and column.
AXES = (2, 6, 6, 2)
#: Where in a FLUX.1 head each channel of a FLUX.2 head was, so that both turn by the same row and column.
CHANNELS = (0, 1, *range(4, 16), 2, 3)
#: The teacher takes as long as the student: its answers to a pool of batches are used this often, in changing order.
POOL, USES = 24, 5
#: Captions that modulations are measured on.
MEASURED = 2048
#: Of the text encoder.
ENCODER_WIDTH, ENCODER_LAYERS = 32, 27
SCHEDULE = Schedule(steps=500, lr=1e-3, muon=2e-3, ema=0.99, weight_decay=0.0, warmup=30)
TEXT_SCHEDULE = Schedule(steps=1200, lr=3e-3, ema=0.99, weight_decay=0.0)


def build_flux2() -> Flux2Transformer2DModel:
    """An untrained transformer of FLUX.2 klein's topology at width 64."""
    return Flux2Transformer2DModel(
        in_channels=TOKEN_CHANNELS,
        num_layers=DEPTH.double,
        num_single_layers=DEPTH.single,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=3 * ENCODER_WIDTH,
        mlp_ratio=MLP_RATIO,
        axes_dims_rope=AXES,
        rope_theta=10_000,
        guidance_embeds=False,
    )


@torch.no_grad()
def grow_flux2(teacher: FluxTransformer2DModel, pooled: Tensor) -> Flux2Transformer2DModel:
    """FLUX.2 from FLUX-Shapes with its runs of blocks merged.

    pooled: CLIP's vectors (n, 64) of captions; each is met at a time of its own. Modulations are means over them: a
    block's own mean lies in its weights, what all blocks share of the change with time in the shared modulation.
    """
    student = build_flux2()
    time = torch.sigmoid(TIME_SHIFT + 1.5 * torch.randn(len(pooled), generator=torch.Generator().manual_seed(0)))
    guidance = torch.full_like(time, 1000 * GUIDANCE)
    temb = nn.functional.silu(teacher.time_text_embed(1000 * time, guidance, pooled))
    ours, theirs = student.time_guidance_embed.timestep_embedder, teacher.time_text_embed.timestep_embedder
    ours.linear_1.weight.copy_(theirs.linear_1.weight)
    ours.linear_1.weight[:, 127] += theirs.linear_1.bias  # the slowest cosine: 1 at all times
    ours.linear_2.weight.copy_(theirs.linear_2.weight)
    features = nn.functional.silu(student.time_guidance_embed(1000 * time, None))

    student.x_embedder.weight.copy_(teacher.x_embedder.weight)
    double, single = _runs(teacher)
    for context, modulation in (
        ("", student.double_stream_modulation_img),
        ("_context", student.double_stream_modulation_txt),
    ):
        norms = [_modulations(run, f"norm1{context}", temb) for run in double]
        folds, shared = zip(*(_shared([norm[:, i : i + 3] for norm in norms]) for i in (0, 3)), strict=True)
        _fit_(modulation.linear, features, torch.cat(shared, dim=1))
        for run, block, attention, mlp in zip(double, student.transformer_blocks, *folds, strict=True):
            _grow_stream_(_mean(run), block, context, attention, mlp)
    student.transformer_blocks[0].ff.linear_out.weight[:, 0] += teacher.x_embedder.bias
    folded, same = _shared([_modulations(run, "norm", temb) for run in single])
    _fit_(student.single_stream_modulation.linear, features, same)
    for run, block, fold in zip(single, student.single_transformer_blocks, folded, strict=True):
        _grow_single_(_mean(run), block, fold)

    scale, shift = teacher.norm_out.linear(temb).chunk(2, dim=1)
    _fit_(student.norm_out.linear, features, torch.cat([scale, shift - shift.mean(dim=1, keepdim=True) + 1], dim=1))
    plain = torch.ones(WIDTH), shift.mean(dim=1).mean().expand(WIDTH), torch.ones(WIDTH)
    student.proj_out.weight.copy_(_fold_in(teacher.proj_out.weight, teacher.proj_out.bias, plain))
    return student


def _runs(teacher: FluxTransformer2DModel) -> tuple[list[list[nn.Module]], list[list[nn.Module]]]:
    """The teacher's blocks by the student's that each becomes: no run holds copies of two blocks."""
    groups = copies_of(teacher)
    double, single = groups[: DEPTH.double], groups[DEPTH.double :]
    return double, [run for group in single for run in (group[:2], group[2:])]


def ends_of(teacher: FluxTransformer2DModel) -> tuple[int, ...]:
    """How many of the teacher's blocks have run when each of the student's has done its part."""
    double, single = _runs(teacher)
    return tuple(accumulate(len(run) for run in (*double, *single)))


#: Of a block: mean scale, mean shift and mean gate of a residual branch, (64,) each.
_Fold = tuple[Tensor, Tensor, Tensor]


def _mean(run: Sequence[nn.Module]) -> dict[str, Tensor]:
    states = [block.state_dict() for block in run]
    return {key: torch.stack([state[key] for state in states]).mean(dim=0) for key in states[0]}


def _modulations(run: Sequence[Any], norm: str, temb: Tensor) -> Tensor:
    """Shift, scale and gate, once or twice, of the blocks merged: (n, 3 or 6, 64)."""
    made: Tensor = (
        torch.stack([getattr(block, norm).linear(temb) for block in run]).mean(dim=0).unflatten(1, (-1, WIDTH))
    )
    made[:, 2::3] *= len(run)
    return made


def _shared(modulations: Sequence[Tensor]) -> tuple[list[_Fold], Tensor]:
    """What each block keeps of its modulations (n, 3, 64), and what is best for all to share: (n, 3 * 64).

    The shared shift is 1 but for the part that changes: normed tokens have the mean 0, so a layer that reads 1 in all
    channels has a bias.
    """
    shift, scale, gate = torch.stack(list(modulations)).unbind(dim=2)  # (blocks, n, 64)
    scale = 1 + scale
    scales, shifts, gates = (made.mean(dim=1, keepdim=True) for made in (scale, shift, gate))
    moved = (scales * (shift - shifts)).sum(dim=0) / scales.square().sum(dim=0)
    shared = torch.cat(
        [
            moved - moved.mean(dim=1, keepdim=True) + 1,
            (scales * scale).sum(dim=0) / scales.square().sum(dim=0) - 1,
            (gates * gate).sum(dim=0) / gates.square().sum(dim=0),
        ],
        dim=1,
    )
    return list(zip(scales[:, 0], shifts[:, 0], gates[:, 0], strict=True)), shared


def _fit_(linear: nn.Linear, features: Tensor, wanted: Tensor) -> None:
    """Least squares of what a layer without bias is to make of features (n, 64)."""
    ridge = 1e-4 * features.square().mean() * len(features) * torch.eye(features.shape[1])
    linear.weight.copy_(torch.linalg.solve(features.T @ features + ridge, features.T @ wanted).T)


def _fold_in(weight: Tensor, bias: Tensor, fold: _Fold) -> Tensor:
    """A layer behind a modulated norm, without bias: it reads that from the shared shift."""
    scale, shift, _ = fold
    folded = weight * scale
    return folded + ((bias + weight @ shift - folded.sum(dim=1)) / WIDTH)[:, None]


def _turned(rows: Tensor) -> Tensor:
    """Queries' or keys' rows in the order of FLUX.2's axes."""
    turned: Tensor = rows.unflatten(0, (-1, HEAD_DIM))[:, CHANNELS].flatten(0, 1)
    return turned


def _mlp_in(weight: Tensor, bias: Tensor, fold: _Fold) -> Tensor:
    """SwiGLU's [gate, value] rows for GELU's, x sigmoid(1.702 x); unit 0 is 1 for any token."""
    gate = 1.702 * _fold_in(weight, bias, fold)
    value = torch.full_like(gate, 1 / 1.702 / WIDTH)
    gate[0], value[0] = 3 / WIDTH, 1 / nn.functional.silu(torch.tensor(3.0)) / WIDTH
    return torch.cat([gate, value])


def _grow_stream_(source: dict[str, Tensor], block: Any, context: str, attention: _Fold, mlp: _Fold) -> None:
    """One of a double block's streams."""
    query, key, value = ("add_q_proj", "add_k_proj", "add_v_proj") if context else ("to_q", "to_k", "to_v")
    for name in (query, key, value):
        made = _fold_in(source[f"attn.{name}.weight"], source[f"attn.{name}.bias"], attention)
        getattr(block.attn, name).weight.copy_(made if name == value else _turned(made))
    for name in ("norm_added_q", "norm_added_k") if context else ("norm_q", "norm_k"):
        getattr(block.attn, name).weight.copy_(source[f"attn.{name}.weight"][list(CHANNELS)])
    name = "to_add_out" if context else "to_out.0"
    block.attn.get_submodule(name).weight.copy_(source[f"attn.{name}.weight"] * attention[2][:, None])
    inner, outer = (f"ff{context}.net.{name}" for name in ("0.proj", "2"))
    ff = getattr(block, f"ff{context}")
    ff.linear_in.weight.copy_(_mlp_in(source[f"{inner}.weight"], source[f"{inner}.bias"], mlp))
    ff.linear_out.weight.copy_(source[f"{outer}.weight"] * mlp[2][:, None])
    ff.linear_out.weight[:, 0] = source[f"{outer}.bias"] * mlp[2] + source[f"attn.{name}.bias"] * attention[2]


def _grow_single_(source: dict[str, Tensor], block: Any, fold: _Fold) -> None:
    query, key, value = (
        _fold_in(source[f"attn.{name}.weight"], source[f"attn.{name}.bias"], fold) for name in ("to_q", "to_k", "to_v")
    )
    mlp = _mlp_in(source["proj_mlp.weight"], source["proj_mlp.bias"], fold)
    block.attn.to_qkv_mlp_proj.weight.copy_(torch.cat([_turned(query), _turned(key), value, mlp]))
    for name in ("norm_q", "norm_k"):
        getattr(block.attn, name).weight.copy_(source[f"attn.{name}.weight"][list(CHANNELS)])
    block.attn.to_out.weight.copy_(source["proj_out.weight"] * fold[2][:, None])
    block.attn.to_out.weight[:, WIDTH] = source["proj_out.bias"] * fold[2]


def run_flux2(
    transformer: Flux2Transformer2DModel, noisy: Tensor, time: Tensor, text: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Velocity (n, 16, 32), and both streams behind each block, (n, 29, 64).

    noisy: tokens (n, 16, 32); time in [0, 1]; text: its stream as it enters the first block, (n, 13, 64). The same as
    the model's own forward, whose inner streams hooks could read only at the cost of compiled blocks.
    """
    grid, nothing = torch.arange(GRID), torch.arange(1)
    places = torch.cat(
        [
            torch.cartesian_prod(nothing, nothing, nothing, torch.arange(text.shape[1])),
            torch.cartesian_prod(nothing, grid, grid, nothing),
        ]
    )
    rotary = transformer.pos_embed(places.to(noisy.device))
    temb = transformer.time_guidance_embed(1000 * time, None)
    image = transformer.x_embedder(noisy)
    modulations = transformer.double_stream_modulation_img(temb), transformer.double_stream_modulation_txt(temb)
    streams = []
    for block in transformer.transformer_blocks:
        text, image = block(image, text, *modulations, rotary)
        streams.append(torch.cat([text, image], dim=1))
    modulation, both = transformer.single_stream_modulation(temb), torch.cat([text, image], dim=1)
    for block in transformer.single_transformer_blocks:
        both = block(both, None, modulation, rotary)
        streams.append(both)
    velocity: Tensor = transformer.proj_out(transformer.norm_out(both[:, text.shape[1] :], temb))
    return velocity, streams


def embedded_text(teacher: FluxTransformer2DModel, text: tuple[Tensor, Tensor]) -> Tensor:
    """What the text stream starts as, (n, 13, 64): the teacher's own, and what that makes of CLIP's vector."""
    sequence, pooled = text
    return torch.cat(
        [teacher.context_embedder(sequence), teacher.time_text_embed.text_embedder(pooled)[:, None]], dim=1
    )


def train_flux2(pipeline: Any, folder: Path, device: str = "cpu") -> Flux2Transformer2DModel:
    """Grow FLUX.2-Shapes from FLUX-Shapes and match its guided velocity, and its streams behind every run of blocks."""
    torch.manual_seed(6)
    pipeline.to(device)
    teacher = frozen(pipeline.transformer, device)
    captions = sample_scenes(MEASURED, 5 * 10**6, tasks=TRAINING_TASKS).captions
    with torch.no_grad():
        pooled = pipeline.encode_prompt(list(captions), None, max_sequence_length=TEXT_TOKENS)[1]
    student = grow_flux2(teacher, pooled).to(device)
    ends = ends_of(teacher)
    compile_blocks_(teacher)
    compile_blocks_(student)
    pool = _Pool(pipeline, ends)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        noisy, time, text, target, wanted = pool(step)
        velocity, streams = run_flux2(student, noisy, time, text)
        # CLIP's token is the student's alone, and text behind the last block is never read.
        ours = [part for both in streams for part in (both[:, TOKENS:], both[:, :TEXT_TOKENS])]
        theirs = [part for both in wanted for part in (both[:, TEXT_TOKENS:], both[:, :TEXT_TOKENS])]
        return matching_loss(velocity, target, ours[:-1], theirs[:-1])

    train("flux2", student, loss_of_step, SCHEDULE, folder)
    return student


class _Pool:
    """The teacher's answers to batches of new scenes, each used `USES` times: they take as long as the student does."""

    def __init__(self, pipeline: Any, ends: tuple[int, ...]) -> None:
        self.pipeline, self.ends = pipeline, ends
        self.first = -1
        self.batches: list[tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]] = []

    @torch.no_grad()
    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
        """Noisy tokens, times, the text stream, the velocity and the streams of a step's batch."""
        first = step // (POOL * USES) * POOL
        if self.first != first:
            self.first, self.batches = first, []
        place = step % (POOL * USES)
        order = torch.randperm(POOL, generator=torch.Generator().manual_seed(step // POOL))
        chosen = int(order[place % POOL]) if place >= POOL else place
        while len(self.batches) <= chosen:
            self.batches.append(self._answered(first + len(self.batches)))
        return self.batches[chosen]

    def _answered(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
        # Another range of seeds than other trainings saw.
        scenes = sample_scenes(BATCH, 9 * 10**6 + number, tasks=TRAINING_TASKS)
        noisy, time, _, text = noised(self.pipeline, scenes, number)
        teacher, scale = self.pipeline.transformer, torch.full_like(time, GUIDANCE)
        target, wanted = run_with_streams(teacher, (noisy, time, scale), text, self.ends)
        return noisy, time, embedded_text(teacher, text), target, wanted


def build_qwen_tokenizer() -> Qwen2Tokenizer:
    """A byte-level tokenizer of one token a word, which pads to 13; its chat template is the prompt alone."""
    merges = merges_of({word: ["Ġ", *word] for word in words()})
    pieces = ("<|endoftext|>", "Ġ", *string.ascii_lowercase, *map("".join, merges))
    tokenizer = Qwen2Tokenizer(
        vocab={piece: place for place, piece in enumerate(dict.fromkeys(pieces))},
        merges=list(merges),
        model_max_length=TOKENS,
    )
    tokenizer.chat_template = "{% for message in messages %} {{ message['content'] }}{% endfor %}"
    return tokenizer


class Flux2Text(nn.Module):
    """Captions to the transformer's text stream (n, 13, 64), as Flux2KleinPipeline and the transformer make it.

    The pipeline reads the hidden states behind layers 9, 18 and 27. Unlike Qwen's own this encoder attends both ways,
    as T5 does: the words after a shape say where it stands.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = build_qwen_tokenizer()
        self.qwen = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(self.tokenizer),
                hidden_size=ENCODER_WIDTH,
                intermediate_size=ENCODER_WIDTH,
                num_hidden_layers=ENCODER_LAYERS,
                num_attention_heads=4,
                num_key_value_heads=4,
                head_dim=ENCODER_WIDTH // 4,
                max_position_embeddings=TOKENS,
                pad_token_id=self.tokenizer.pad_token_id,
                tie_word_embeddings=True,
                is_causal=False,
                initializer_range=0.1,
            )
        )
        self.context_embedder = nn.Linear(3 * ENCODER_WIDTH, WIDTH, bias=False)

    def forward(self, captions: Sequence[str]) -> Tensor:
        """The text stream as it enters the first block."""
        # What encode_prompt of a whole pipeline calls, with gradients.
        states = Flux2KleinPipeline._get_qwen3_prompt_embeds(  # noqa: SLF001
            self.qwen, self.tokenizer, list(captions), max_sequence_length=TOKENS
        )
        embedded: Tensor = self.context_embedder(states)
        return embedded


def train_text(pipeline: Any, folder: Path, device: str = "cpu") -> Flux2Text:
    """A small Qwen3 learns to give the text stream that the transformer was trained on."""
    torch.manual_seed(7)
    pipeline.to(device)
    student = Flux2Text().to(device)
    for layer in student.qwen.model.layers:
        layer.compile(dynamic=False)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        captions = sample_scenes(BATCH, 6 * 10**6 + step, tasks=TRAINING_TASKS).captions
        with torch.no_grad():
            text = pipeline.encode_prompt(list(captions), None, max_sequence_length=TEXT_TOKENS)[:2]
            wanted = embedded_text(pipeline.transformer, text)
        return (student(captions) - wanted).square().mean() / wanted.square().mean(), {}

    train("flux2_text", student, loss_of_step, TEXT_SCHEDULE, folder)
    return student


def flux2_pipeline(pipeline: Any, transformer: Flux2Transformer2DModel, text: Flux2Text) -> Flux2KleinPipeline:
    """The pipeline around a trained transformer and text encoder, with FLUX-Shapes' scheduler and VAE."""
    transformer.context_embedder.load_state_dict(text.context_embedder.state_dict())
    known = signature(AutoencoderKLFlux2).parameters
    config = {name: value for name, value in pipeline.vae.config.items() if name in known}
    # Its latents need no further normalisation: mean 0, variance 1 and nothing added to that.
    vae = AutoencoderKLFlux2(**config, batch_norm_eps=0.0)
    vae.load_state_dict({**vae.bn.state_dict(prefix="bn."), **pipeline.vae.state_dict()})
    return Flux2KleinPipeline(pipeline.scheduler, vae.eval(), text.qwen, text.tokenizer, transformer)
