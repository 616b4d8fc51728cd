"""Pipelines of the families beside FLUX.1 and SD3, tiny: calibrated on prompts, exported, loaded by diffusers alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

import fastflux
from fastflux.calibration.images import NoisedImages
from fastflux.calibration.recording import record_inputs
from fastflux.errors import FastFluxError
from fastflux.io.pipelines import require_pipeline
from fastflux.models.sizes import sampling_arguments
from tests.fastflux.families import make
from tests.fastflux.tiny_pipeline import WORDS, flux_components, t5, tokenizer

PROMPTS = ("a red star", "a photo of a ring")
SIZES = {"height": 64, "width": 64}
TEMPLATE = "photo{% for message in messages %} {{ message['content'] }}{% endfor %}"


def chatting() -> Any:
    made = tokenizer(8)
    made.chat_template = TEMPLATE
    return made


def qwen3(kind: Any, width: int, layers: int) -> Any:
    return kind(
        Qwen3Config(
            vocab_size=len(WORDS), hidden_size=width, intermediate_size=8, num_hidden_layers=layers,
            num_attention_heads=1, num_key_value_heads=1, head_dim=4, pad_token_id=0,
        )
    ).eval()  # fmt: skip


def vae(channels: int = 2) -> Any:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=channels, shift_factor=0.1,
    )  # fmt: skip


def klein(name: str = "FLUX.2-klein") -> dict[str, Any]:
    flux2_vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=2,
    )  # fmt: skip
    return {
        "vae": flux2_vae,
        "text_encoder": qwen3(Qwen3ForCausalLM, 4, 27),  # of which it reads the layers 9, 18 and 27
        "tokenizer": chatting(),
        "transformer": make(name),
    }


def z_image() -> dict[str, Any]:
    encoder = qwen3(Qwen3Model, 12, 2)
    return {"vae": vae(), "text_encoder": encoder, "tokenizer": chatting(), "transformer": make("Z-Image")}


def chroma() -> dict[str, Any]:
    return {"vae": vae(), "text_encoder": t5(12), "tokenizer": tokenizer(6), "transformer": make("Chroma")}


def qwen25() -> Any:
    text = {
        "vocab_size": len(WORDS), "hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 2]}, "pad_token_id": 0,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1, "out_hidden_size": 12}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen_image() -> dict[str, Any]:
    return {
        "vae": AutoencoderKLQwenImage(
            base_dim=4, z_dim=2, num_res_blocks=1, latents_mean=[0.0, 0.0], latents_std=[1.0, 1.0]
        ),
        "text_encoder": qwen25(),
        "tokenizer": tokenizer(64),
        "transformer": make("Qwen-Image"),
    }


def longcat() -> dict[str, Any]:
    processor: Any = Qwen2VLProcessor
    return {
        "vae": vae(16),
        "text_encoder": qwen25(),
        "tokenizer": tokenizer(512),
        "text_processor": processor(
            image_processor=Qwen2VLImageProcessor(),
            tokenizer=tokenizer(512),
            video_processor=Qwen2VLVideoProcessor(),
            chat_template=TEMPLATE,
        ),
        "transformer": make("LongCat-Image"),
    }


def ovis() -> dict[str, Any]:
    encoder = qwen3(Qwen3Model, 12, 2)
    return {"vae": vae(), "text_encoder": encoder, "tokenizer": chatting(), "transformer": make("Ovis-Image")}


PIPELINES: Mapping[str, Callable[[], dict[str, Any]]] = {
    "Flux2KleinPipeline": klein, "ZImagePipeline": z_image, "ChromaPipeline": chroma, "QwenImagePipeline": qwen_image,
    "LongCatImagePipeline": longcat, "OvisImagePipeline": ovis,
}  # fmt: skip


def latents(pipeline: Any, steps: int = 2) -> Tensor:
    drawn: Tensor = pipeline(
        **sampling_arguments(pipeline, PROMPTS, guidance=2.0, **SIZES),
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))],
        output_type="latent",
    ).images
    return drawn


@pytest.mark.parametrize("name", PIPELINES)
def test_calibrated_exported_and_loaded_it_draws_the_same_bits(name: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        components = PIPELINES[name]()
    base = getattr(diffusers, name)(scheduler=FlowMatchEulerDiscreteScheduler(), **components)
    base.save_pretrained(tmp_path / "base")
    require_pipeline(tmp_path / "base")
    pipeline: Any = fastflux.load_pipeline(tmp_path / "base")
    pipeline.set_progress_bar_config(disable=True)
    dense = latents(pipeline)
    run = fastflux.Trajectories(pipeline, PROMPTS, steps=2, guidance=2.0, batch_size=2, **SIZES)
    plan = fastflux.prune_(pipeline.transformer, fastflux.LinearReplacementConfig(blocks=1), run)
    pruned = latents(pipeline)
    assert not torch.equal(pruned, dense)
    fastflux.export_pipeline(tmp_path / "base", pipeline.transformer, tmp_path / "out")
    loaded = getattr(diffusers, name).from_pretrained(tmp_path / "out")
    loaded.set_progress_bar_config(disable=True)
    assert fastflux.plan_of(loaded.transformer) == plan
    assert torch.equal(latents(loaded), pruned)
    assert name in (tmp_path / "out" / "README.md").read_text()
    trained: Any = fastflux.load_pipeline(tmp_path / "base")
    run = fastflux.Trajectories(trained, PROMPTS, steps=2, guidance=2.0, batch_size=2, **SIZES)
    config = fastflux.SandwichTrainingConfig(blocks=1, samples=4, steps=1, rank=1, batch=2)
    fastflux.prune_(trained.transformer, config, run)  # the prompts differ in length
    assert torch.isfinite(latents(trained)).all()
    with pytest.raises(FastFluxError, match="cannot be calibrated on pictures: give prompts"):
        NoisedImages(pipeline, [], steps=2, **SIZES)()


def few_steps(name: str) -> Any:
    """The pipeline of FLUX.1-schnell or of FLUX.2 klein, distilled."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = flux_components() if name == "FLUX.1-schnell" else klein()
    made["transformer"] = make(name)
    kind = made.pop("pipeline", diffusers.Flux2KleinPipeline)
    distilled = {} if name == "FLUX.1-schnell" else {"is_distilled": True}
    return kind(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **{"vae": vae(), **made}, **distilled)


@pytest.mark.parametrize("name", ["FLUX.1-schnell", "FLUX.2-klein"])
def test_few_steps_are_calibrated_at_the_levels_that_are_drawn(name: str) -> None:
    pipeline = few_steps(name)
    run = fastflux.Trajectories(pipeline, PROMPTS, steps=4, guidance=4.0, batch_size=2, **SIZES)
    inputs = record_inputs(pipeline.transformer, run, samples=8)
    assert inputs.shared["guidance"] is None
    levels = torch.linspace(1, 0.25, 4)
    expected = 3 * levels / (1 + 2 * levels)  # what a shift of 3 makes of them
    torch.testing.assert_close(inputs.rows["timestep"].sort().values, expected.repeat_interleave(2).sort().values)
    with pytest.raises(FastFluxError, match="ran 8 images and steps"):  # no second forward for guidance
        record_inputs(pipeline.transformer, run, samples=9)


def test_a_pruned_kontext_edits_a_picture(tmp_path: Path) -> None:
    made = {**flux_components(), "transformer": make("FLUX.1-dev"), "vae": vae()}
    made.pop("pipeline")
    base = diffusers.FluxKontextPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **made)
    base.save_pretrained(tmp_path / "base")
    pipeline: Any = fastflux.load_pipeline(tmp_path / "base")
    run = fastflux.Trajectories(pipeline, PROMPTS, steps=2, guidance=2.0, batch_size=2, **SIZES)
    plan = fastflux.prune_(pipeline.transformer, fastflux.LinearReplacementConfig(blocks=1), run)
    fastflux.export_pipeline(tmp_path / "base", pipeline.transformer, tmp_path / "out")
    loaded = diffusers.FluxKontextPipeline.from_pretrained(tmp_path / "out")
    assert fastflux.plan_of(loaded.transformer) == plan
    tokens: list[int] = []
    loaded.transformer.x_embedder.register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[1]))
    edits = [
        kind(
            torch.full((1, 3, 64, 64), 0.5), "a ring", num_inference_steps=1,
            generator=torch.Generator().manual_seed(0), output_type="latent", max_area=64 * 64, _auto_resize=False,
            **SIZES,
        ).images
        for kind in (pipeline, loaded)
    ]  # fmt: skip
    assert tokens == [32]  # 16 of the noise, and the picture's behind them
    torch.testing.assert_close(*edits)
