"""FLUX.2-Shapes: it starts as what its teacher computes, and what its training computes is what diffusers does."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2KleinPipeline
from torch import Tensor

from bench.shapes import WEIGHTS, flux2
from bench.shapes.flux2 import (
    GUIDANCE,
    POOL,
    TOKENS,
    USES,
    Flux2Text,
    _Pool,
    build_flux2,
    embedded_text,
    ends_of,
    flux2_pipeline,
    grow_flux2,
    run_flux2,
    train_flux2,
    train_text,
)
from bench.shapes.growth import copies_of, run_with_streams
from bench.shapes.training import Schedule
from bench.shapes.world import sample_scenes
from fastflux.io.pipelines import load_pipeline
from fastflux.models.sizes import sampling_arguments

CAPTIONS = ["a photo of a red circle", "concept art of an orange star above a white heart"]


@pytest.fixture(scope="module")
def shapes() -> Any:
    """With copies that are alike, as they are where FLUX.2-Shapes is grown: before they are parted."""
    pipeline = load_pipeline(WEIGHTS / "pipeline")
    with torch.no_grad():
        for group in copies_of(pipeline.transformer):
            for own in zip(*(block.parameters() for block in group), strict=True):
                mean = torch.stack(own).mean(dim=0)
                for parameter in own:
                    parameter.copy_(mean)
    return pipeline


@pytest.fixture(scope="module")
def text() -> Flux2Text:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Flux2Text().eval()


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def forward(transformer: Any, noisy: Tensor, time: Tensor, text: Tensor) -> Tensor:
    """The model's own, of a text stream that `context_embedder` would have made."""
    transformer.context_embedder = torch.nn.Identity()
    image_ids = Flux2KleinPipeline._prepare_latent_ids(draw(1, 32, 4, 4))
    text_ids = Flux2KleinPipeline._prepare_text_ids(text)
    velocity: Tensor = transformer(noisy, text, time, image_ids, text_ids, return_dict=False)[0]
    return velocity


def errors(shapes: Any) -> tuple[float, float]:
    """Relative errors of a grown transformer: of its velocity, and of the image stream behind all blocks."""
    captions = list(sample_scenes(64, 3, "evaluation").captions)
    noisy, time = draw(64, 16, 32), torch.linspace(0.3, 1, 64)
    teacher = shapes.transformer
    with torch.no_grad():
        text = shapes.encode_prompt(captions, None, max_sequence_length=12)[:2]
        student = grow_flux2(teacher, text[1])
        wanted, theirs = run_with_streams(
            teacher, (noisy, time, torch.full_like(time, GUIDANCE)), text, ends_of(teacher)
        )
        stream = embedded_text(teacher, text)
        velocity, ours = run_flux2(student, noisy, time, stream)
        torch.testing.assert_close(velocity, forward(student, noisy, time, stream))
    images = [(a[:, TOKENS:], b[:, TOKENS - 1 :]) for a, b in zip(ours, theirs, strict=True)]
    relative = [float((a - b).square().mean() / b.square().mean()) for a, b in ((velocity, wanted), *images)]
    return relative[0], sum(relative[1:]) / len(images)


def test_it_starts_as_what_the_teacher_computes(shapes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    velocity, streams = errors(shapes)
    assert velocity < 0.35
    assert streams < 0.06
    monkeypatch.setattr(flux2, "CHANNELS", tuple(range(16)))  # rows and columns turn other channels than the teacher's
    assert errors(shapes)[1] > 1.2 * streams


def test_its_text_is_what_the_pipeline_makes_of_captions_a_token_a_word_and_read_both_ways(
    shapes: Any, text: Flux2Text
) -> None:
    pipeline = flux2_pipeline(shapes, build_flux2(), text)
    with torch.no_grad():
        states, ids = pipeline.encode_prompt(CAPTIONS, max_sequence_length=TOKENS)
        torch.testing.assert_close(pipeline.transformer.context_embedder(states), text(CAPTIONS))
        assert ids.shape == (2, TOKENS, 4)
        last_word = text([CAPTIONS[0].replace("circle", "square")]) - text(CAPTIONS[:1])
    assert last_word[0, 0].abs().max() > 1e-4
    lengths = [len(text.tokenizer(f" {caption}").input_ids) for caption in CAPTIONS]
    assert lengths == [len(caption.split()) for caption in CAPTIONS]


def test_its_pipeline_decodes_as_the_teachers_vae_and_draws(shapes: Any, text: Flux2Text) -> None:
    pipeline = flux2_pipeline(shapes, build_flux2(), text)
    pipeline.set_progress_bar_config(disable=True)
    arguments = sampling_arguments(pipeline, CAPTIONS, guidance=1.0)
    assert arguments["max_sequence_length"] == TOKENS
    latents, pictures = (
        pipeline(
            **arguments,
            num_inference_steps=2,
            generator=[torch.Generator().manual_seed(i) for i in range(2)],
            output_type=kind,
        ).images
        for kind in ("latent", "pt")
    )
    decoded = shapes.vae.decode(latents, return_dict=False)[0]
    torch.testing.assert_close(pictures, (decoded / 2 + 0.5).clamp(0, 1))


def test_each_answer_of_the_teacher_is_used_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Pool, "_answered", lambda _self, number: number)
    steps = range(2 * POOL * USES)
    seen = list(map(_Pool(None, ()), steps))
    assert Counter(seen) == dict.fromkeys(range(2 * POOL), USES)
    assert seen[:POOL] == sorted(seen[:POOL])
    assert seen[POOL : 2 * POOL] != seen[:POOL]
    assert _Pool(None, ())(200) == seen[200], "a training that was killed goes on with the batches it would have seen"


@pytest.mark.slow
def test_training_lowers_the_error_and_goes_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flux2, "BATCH", 4)
    monkeypatch.setattr(flux2, "POOL", 1)
    monkeypatch.setattr(flux2, "compile_blocks_", lambda _transformer: None)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda _module, **_: None)
    for steps in (1, 3):
        short = Schedule(steps=steps, lr=1e-3, muon=2e-3, ema=0.5, warmup=1)
        monkeypatch.setattr(flux2, "SCHEDULE", short)
        monkeypatch.setattr(flux2, "TEXT_SCHEDULE", short)
        pipeline = load_pipeline(WEIGHTS / "pipeline")
        train_text(pipeline, tmp_path)
        train_flux2(pipeline, tmp_path)
    for name in ("flux2", "flux2_text"):
        curve = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert [line["step"] for line in curve] == [1, 3]
        assert curve[1]["loss"] < curve[0]["loss"]
