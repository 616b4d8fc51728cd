"""The FLUX-Shapes models' machinery: tokenizers, splitting, training that survives a kill, the detector's targets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.metrics.detection import DetectorError
from bench.shapes.clip import BACKGROUND, object_crops, preference_images, spoil_content
from bench.shapes.degradation import KINDS, degrade, spoil_some
from bench.shapes.detector import DetectorNetwork, ShapesDetector, _targets, detector_loss
from bench.shapes.growth import (
    copies_of,
    cosines,
    disturb_,
    group_ends,
    run_with_streams,
    scale_gates_,
    shares_of,
    split_,
    weights_of,
)
from bench.shapes.text import TextEncoders
from bench.shapes.training import Schedule, train
from bench.shapes.transformer import (
    FULL,
    SHALLOW,
    Conditioned,
    Depth,
    LayoutTeacher,
    build_transformer,
    initialise_,
    pack,
    position_ids,
    velocity_of,
)
from bench.shapes.vae import build_vae, encode, normalise_latents_
from bench.shapes.vocabulary import COLOR_NAMES, SHAPES, words
from bench.shapes.world import render, sample_scenes
from fastflux.errors import FastFluxError


def test_both_tokenizers_know_every_word_as_one_token() -> None:
    text = TextEncoders()
    for word in words():
        t5_ids, clip_ids = text.t5_tokenizer(word).input_ids, text.clip_tokenizer(word).input_ids
        assert (len(t5_ids), len(clip_ids)) == (2, 3), word
        assert text.t5_tokenizer.unk_token_id not in t5_ids


def test_text_encoders_give_sequence_and_pooled_vector() -> None:
    sequence, pooled = TextEncoders().encode(["a photo of a star", "a photo of a red ring"])
    assert sequence.shape == (2, 12, 64)
    assert pooled.shape == (2, 64)


def _randomise_(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def _forward(transformer: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, 16, 32, generator=generator)
    text = torch.randn(2, 12, 64, generator=generator), torch.randn(2, 64, generator=generator)
    with torch.no_grad():
        return velocity_of(transformer, (noisy, torch.tensor([0.3, 0.7]), torch.ones(2)), text)


def test_splitting_into_as_many_blocks_changes_nothing_and_deeper_changes_little() -> None:
    shallow = build_transformer(Depth(1, 2)).eval()
    _randomise_(shallow)
    reference = _forward(shallow)
    torch.testing.assert_close(_forward(split_(shallow, Depth(1, 2)).eval()), reference)
    change = (_forward(split_(shallow, Depth(3, 5)).eval()) - reference).norm() / reference.norm()
    assert 0 < change < 0.05


def test_scaled_gates_scale_what_a_block_adds() -> None:
    block = build_transformer(Depth(1, 1)).eval().single_transformer_blocks[0]
    _randomise_(block)
    generator = torch.Generator().manual_seed(2)
    image, text, temb = (torch.randn(*shape, generator=generator) for shape in ((1, 16, 64), (1, 12, 64), (1, 64)))
    with torch.no_grad():
        before = block(image, text, temb)[1] - image
        scale_gates_(block, 0.25)
        after = block(image, text, temb)[1] - image
    torch.testing.assert_close(after, before / 4, rtol=1e-4, atol=1e-6)


def test_groups_of_copies_end_with_the_models() -> None:
    assert group_ends(SHALLOW) == tuple(range(1, 16))
    ends = group_ends(FULL)
    assert len(ends) == 15
    assert (ends[4], ends[-1]) == (19, 57)
    assert list(ends) == sorted(set(ends))


@torch.no_grad()
def test_copies_are_alike_and_strangers_are_not() -> None:
    torch.manual_seed(0)
    deep = split_(build_transformer(SHALLOW), FULL)
    groups = copies_of(deep)
    assert [len(group) for group in groups] == [*shares_of(19, 5), *shares_of(38, 10)]
    assert min(float(cosines(weights_of(group)).min()) for group in groups) > 0.999
    assert abs(float(cosines(weights_of([group[0] for group in groups[:5]])).max())) < 0.1


@torch.no_grad()
def test_noise_between_copies_parts_them_and_leaves_their_sum() -> None:
    torch.manual_seed(0)
    deep = split_(build_transformer(SHALLOW), FULL)
    before = [weights_of(group) for group in copies_of(deep)]
    disturb_(deep, 0.3)
    for old, group in zip(before, copies_of(deep), strict=True):
        new = weights_of(group)
        torch.testing.assert_close(new.sum(dim=0), old.sum(dim=0), rtol=0, atol=1e-5)
        assert 0.85 < float(cosines(new).mean()) < 0.95


def test_running_with_streams_is_the_models_own_forward() -> None:
    transformer = build_transformer(Depth(1, 2)).eval()
    _randomise_(transformer)
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, 16, 32, generator=generator)
    text = torch.randn(2, 12, 64, generator=generator), torch.randn(2, 64, generator=generator)
    with torch.no_grad():
        velocity, streams = run_with_streams(
            transformer, (noisy, torch.tensor([0.3, 0.7]), torch.ones(2)), text, (1, 3)
        )
    assert torch.equal(velocity, _forward(transformer))
    assert [stream.shape for stream in streams] == [(2, 28, 64)] * 2


def test_the_heads_read_the_last_double_block_and_t5_and_leave_no_hook() -> None:
    supervised = LayoutTeacher(Conditioned(build_transformer(Depth(1, 1)), TextEncoders()))
    t5_ids, clip_ids = supervised.model.text.tokenize(["a photo of a star"])
    inputs = torch.randn(1, 16, 32), torch.tensor([0.5]), torch.ones(1), t5_ids, clip_ids
    velocity, logits, words = supervised(*inputs)
    assert (velocity.shape, logits.shape, words.shape) == ((1, 16, 32), (1, 16, 72), (1, 12, 74))
    (logits.sum() + words.sum()).backward()
    blocks = supervised.model.transformer
    assert blocks.transformer_blocks[0].attn.to_q.weight.grad is not None
    assert blocks.single_transformer_blocks[0].attn.to_q.weight.grad is None
    assert supervised.model.text.t5.shared.weight.grad is not None
    for hook in supervised.hooks:
        hook.remove()
    supervised.model(*inputs)
    assert not supervised._features


def test_a_words_loss_is_of_where_it_is_drawn_and_in_what_colour() -> None:
    supervised = LayoutTeacher(Conditioned(build_transformer(Depth(1, 1)), TextEncoders()))
    t5_ids, _ = supervised.model.text.tokenize(["a photo of a red star"])
    star, red = SHAPES.index("star"), COLOR_NAMES.index("red")
    cells = torch.zeros(1, 18, 8, 8)
    cells[0, star, :, :4] = cells[0, len(SHAPES) + red, :, :4] = 1.0  # a red star fills the left half
    layout = pack(cells)  # (1, 16, 72)
    logits = torch.zeros(1, 12, 74)
    uniform = 0.6931472 + 0.2 * 2.3025851  # two words of 64 even chances, and one colour of ten
    assert float(supervised.misread(logits, t5_ids, layout)) == pytest.approx(uniform, rel=1e-5)
    place = int((t5_ids[0] == supervised.model.text.t5_tokenizer.convert_tokens_to_ids("▁star")).nonzero())
    logits[0, place, 64 + red] = 50.0
    assert float(supervised.misread(logits, t5_ids, layout)) == pytest.approx(0.6931472, rel=1e-4)


def test_t5_starts_out_on_the_order_of_words() -> None:
    attention = TextEncoders().t5.encoder.block[0].layer[0].SelfAttention
    with torch.no_grad():
        bias = attention.compute_bias(5, 5)[0]  # (heads, queries, keys)
    assert bias[0, 2].argmax() == 1, "the word before"
    assert bias[1, 2].argmax() == 3, "the word after"
    assert bias[2, 2, :2].min() > bias[2, 2, 2:].max(), "all before"
    assert bias[3, 2, 3:].min() > bias[3, 2, :3].max(), "all after"


def test_object_crops_show_one_object_on_grey() -> None:
    scenes = sample_scenes(24, 5)
    crops, captions = object_crops(render(scenes), scenes, 0)
    assert crops.shape == (24, 3, 64, 64)
    assert all(sum(shape in caption.split() for shape in SHAPES) == 1 for caption in captions)
    for row, caption in enumerate(captions):
        own = {
            (SHAPES[s], COLOR_NAMES[c]) for s, c in zip(scenes.shapes[row], scenes.colors[row], strict=True) if s >= 0
        }
        assert any(f"{color} {shape}" in caption for shape, color in own)
        filled = (crops[row] != BACKGROUND).any(dim=0).float().mean()
        assert 0.2 < filled <= 1.0, "the crop is filled by its object"


def test_a_fresh_transformer_predicts_zero() -> None:
    transformer = build_transformer(Depth(1, 1)).eval()
    initialise_(transformer)
    assert not _forward(transformer).any()


def test_packing_is_the_pipelines() -> None:
    from diffusers import FluxPipeline

    latents = torch.randn(2, 8, 8, 8)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 8, 8, 8))
    ids = FluxPipeline._prepare_latent_image_ids(1, 4, 4, torch.device("cpu"), torch.float32)
    assert torch.equal(position_ids("cpu")[1], ids)


def test_normalised_latents_have_unit_deviation_and_decode_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.shapes.vae.sample_scenes", lambda _count, seed: sample_scenes(96, seed))
    torch.manual_seed(0)
    vae = build_vae().eval()
    images = render(sample_scenes(4, 0))
    with torch.no_grad():
        before = vae.decode(encode(vae, images)).sample
        normalise_latents_(vae)
        latents = encode(vae, images)
        torch.testing.assert_close(vae.decode(latents).sample, before, rtol=1e-3, atol=1e-4)
    many = encode(vae, render(sample_scenes(96, 10**6)))
    assert (many.std(dim=(0, 2, 3)) - 1).abs().max() < 0.1


class _Quadratic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


def _train(folder: Path, schedule: Schedule, *, stop_at: int | None = None) -> Tensor:
    model = _Quadratic()

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == stop_at:
            raise KeyboardInterrupt
        noise = torch.randn(3, generator=torch.Generator().manual_seed(step))
        return (model.weight - noise).square().sum(), {}

    train("quadratic", model, loss_of_step, schedule, folder)
    return model.weight.detach()


def test_training_continues_after_a_kill_and_ends_the_same(tmp_path: Path) -> None:
    schedule = Schedule(steps=20, lr=0.1, warmup=2, ema=0.9, save_every_s=0.0)
    whole = _train(tmp_path / "whole", schedule)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "killed", schedule, stop_at=11)
    assert torch.equal(_train(tmp_path / "killed", schedule), whole)
    assert torch.equal(_train(tmp_path / "killed", schedule, stop_at=0), whole)  # finished: no step is taken again


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    schedule = replace(Schedule(steps=300, lr=1.0), warmup=10)
    factors = [schedule.factor(step) for step in range(301)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[50] == 1
    assert factors[300] == pytest.approx(0)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_degradation_of_level_zero_changes_nothing_and_grows_with_its_level() -> None:
    images = render(sample_scenes(6, 0))
    for kind in range(len(KINDS)):
        kinds = torch.full((6,), kind)
        errors = [
            float((degrade(images, kinds, torch.full((6,), level), 3).float() - images.float()).square().mean())
            for level in (0.0, 0.3, 0.6, 1.0)
        ]
        assert errors == sorted(errors)
        assert errors[0] < 1  # resampling may round
        assert errors[-1] > 10 * errors[0]


def test_spoil_some_spoils_about_its_share() -> None:
    images = render(sample_scenes(64, 0))
    changed = (spoil_some(images, 0.5, 1.0, 0) != images).flatten(1).any(dim=1)
    assert 16 < int(changed.sum()) < 48


def test_wrong_pictures_differ_from_what_the_caption_says() -> None:
    scenes = sample_scenes(60, 0)
    wrong = spoil_content(scenes, 0)
    assert wrong.captions == scenes.captions
    images = preference_images(scenes, 0)
    assert images.shape == (60, 4, 3, 64, 64)
    assert (images[:, 0] != images[:, 3]).flatten(1).any(dim=1).all()


def test_detector_targets_cover_each_objects_core() -> None:
    scenes = sample_scenes(32, 0)
    classes, _, reach, foreground = _targets(scenes, "cpu")
    for row in range(32):
        present = set(scenes.shapes[row][scenes.shapes[row] >= 0].tolist())
        assert set(classes[row].flatten(1).any(dim=1).nonzero()[:, 0].tolist()) == present
    assert reach.permute(0, 2, 3, 1)[classes.amax(dim=1) > 0].min() > 4
    assert foreground.mean() > 0.02


def test_the_detector_learns_a_batch() -> None:
    torch.manual_seed(0)
    network, scenes = DetectorNetwork(), sample_scenes(8, 0)
    images = render(scenes)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = detector_loss(network, images, scenes, "cpu")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


def test_missing_detector_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match=r"model\.safetensors"):
        ShapesDetector.load(tmp_path)


def test_a_picture_of_another_size_is_none_for_this_detector() -> None:
    pictures = [np.zeros((size, size, 3), np.uint8) for size in (64, 32)]
    with pytest.raises(DetectorError, match=r"\(32, 32, 3\); this detector takes \(64, 64, 3\)"):
        ShapesDetector(DetectorNetwork())(pictures)
