"""What diffusers can do with a pruned model: a test for every row of the README's table."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from diffusers import (
    FirstBlockCacheConfig,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxImg2ImgPipeline,
    FluxPipeline,
)
from diffusers.hooks import apply_first_block_cache
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import load_transformer, save_transformer
from fastflux.io.pipelines import export_pipeline, load_pipeline
from fastflux.methods.block_removal import BlockRemovalConfig
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.models.architecture import architecture_of
from fastflux.models.folding import fold_
from fastflux.models.pruned import FastFluxTransformer2DModel, plan_of
from fastflux.models.sublayers import RemovedBlock
from fastflux.models.surgery import get_block
from fastflux.pruning import prune_
from tests.fastflux.conftest import FAMILIES, Make, make_replaced, make_replaced_flux, make_tiny_flux, run, tiny_inputs

README = Path(__file__).parents[2] / "README.md"
TESTED: set[str] = set()
Test = TypeVar("Test", bound=Callable[..., None])


def row(feature: str) -> Callable[[Test], Test]:
    """Name the row of the README's table that a test stands behind."""
    TESTED.add(feature)
    return lambda test: test


@pytest.fixture
def pruned() -> Any:
    """Double and single blocks replaced by linear layers, the first and the last among them, and one removed."""
    return make_replaced_flux({0, 2, 5}, removed={3})


@pytest.fixture
def sliced() -> Any:
    transformer = make_tiny_flux()
    prune_(transformer, L1NormConfig(ratio=0.2))
    return transformer


@pytest.fixture
def pruned_of(make: Make) -> Any:
    """The same of each family in turn."""
    return make_replaced(make, {0, 2, 5}, removed={3})


def stacked(transformer: Any) -> list[nn.Module]:
    return [get_block(transformer, block) for block in architecture_of(transformer).chain(transformer)]


def test_every_row_of_the_readme_is_tested() -> None:
    section = README.read_text().split("## What works with a pruned model")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("|")][2:]
    assert sorted(rows) == sorted(TESTED)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@row("`torch.compile(fullgraph=True)`")
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("per_block", [False, True])
def test_compiles_without_a_graph_break(per_block: bool, family: str) -> None:
    """On four blocks: compiling takes a second for each."""
    fewer = {"flux": {"num_single_layers": 2}, "sd3": {"num_layers": 4}}[family]
    pruned = make_replaced(partial(FAMILIES[family], **fewer), {1}, removed={2})
    expected = run(pruned)
    if per_block:
        pruned.compile_repeated_blocks(fullgraph=True, backend="eager")
        compiled = [block for block in stacked(pruned) if block._compiled_call_impl is not None]
        assert len(compiled) == len(stacked(pruned)) - 1, "all but the removed block, which computes nothing"
    else:
        pruned.compile(fullgraph=True, backend="eager")
    torch.testing.assert_close(run(pruned), expected)


@row("Gradient checkpointing")
def test_gradient_checkpointing_gives_the_same_gradients(pruned_of: Any) -> None:
    pruned = pruned_of

    def gradients() -> dict[str, Tensor]:
        pruned.zero_grad()
        pruned(**tiny_inputs(pruned), return_dict=False)[0].square().sum().backward()
        return {name: parameter.grad for name, parameter in pruned.named_parameters() if parameter.grad is not None}

    plain = gradients()
    calls: list[nn.Module] = []
    pruned.enable_gradient_checkpointing()
    for block in stacked(pruned):
        block.register_forward_pre_hook(lambda module, _: calls.append(module))
    checkpointed = gradients()
    assert len(calls) == 2 * len(stacked(pruned)) - 1, (
        "in the backward pass all run again but the removed block, which has nothing to save"
    )
    assert "transformer_blocks.0.linear_context.weight" in plain
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


@row("Group offload")
@pytest.mark.parametrize(
    "settings", [{"offload_type": "block_level", "num_blocks_per_group": 2}, {"offload_type": "leaf_level"}]
)
def test_group_offload(settings: dict[str, Any], pruned: Any, tmp_path: Path) -> None:
    expected = run(pruned)
    weight = pruned.transformer_blocks[0].linear.weight.detach().clone()
    cpu = torch.device("cpu")
    # To disk, because to the CPU from the CPU nothing would move.
    pruned.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_to_disk_path=str(tmp_path), **settings)
    moved = [tensor for path in tmp_path.glob("*.safetensors") for tensor in load_file(path).values()]
    assert any(tensor.shape == weight.shape and torch.equal(tensor, weight) for tensor in moved)
    for seed in (0, 0):
        assert torch.equal(run(pruned, tiny_inputs(pruned, seed)), expected)


def lora_of_the_dense_model(*targets: str) -> dict[str, Tensor]:
    dense = make_tiny_flux()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        dense.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(targets), init_lora_weights=False))
    return {f"transformer.{name}": value for name, value in get_peft_model_state_dict(dense).items()}


def pipeline_of(transformer: Any) -> Any:
    return FluxPipeline(
        scheduler=None, vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        transformer=transformer,
    )  # fmt: skip


@pytest.fixture
def diffusers_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What diffusers logs, which it does not pass on to the root logger."""
    logger = logging.getLogger("diffusers")
    level, disabled = logger.level, logging.root.manager.disable
    logger.setLevel(logging.WARNING)  # another test's command line may have silenced it
    logging.disable(logging.NOTSET)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)
    logging.disable(disabled)


@row("LoRA of the base model")
@pytest.mark.parametrize("through", ["pipeline", "transformer"])
def test_a_lora_of_the_base_model_reaches_the_blocks_that_are_left(
    through: str, pruned: Any, diffusers_log: pytest.LogCaptureFixture
) -> None:
    before = run(pruned)
    lora = lora_of_the_dense_model(
        "to_q", "to_out.0", "add_k_proj", "proj_mlp", "norm1.linear", "norm.linear", "x_embedder"
    )
    if through == "pipeline":
        pipeline_of(pruned).load_lora_weights(lora, adapter_name="style")
    else:
        pruned.load_lora_adapter(lora, adapter_name="style")
    loaded = get_peft_model_state_dict(pruned, adapter_name="style")
    gone = (
        "transformer_blocks.0.",
        "single_transformer_blocks.0.",
        "single_transformer_blocks.1.",
        "single_transformer_blocks.3.",
    )
    expected = {
        name: value for full, value in lora.items() if not (name := full.removeprefix("transformer.")).startswith(gone)
    }
    assert 0 < len(expected) < len(lora)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    assert type(pruned.transformer_blocks[0].linear) is nn.Linear
    assert "transformer_blocks.0.attn.to_q.lora_A.weight" in diffusers_log.text
    assert not torch.equal(run(pruned), before)


@row("LoRA of the base model")
def test_a_lora_of_the_base_model_does_not_fit_a_sliced_one(sliced: Any) -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        sliced.load_lora_adapter(lora_of_the_dense_model("to_q"), adapter_name="style")


@row("ControlNet")
def test_controlnet_residuals_follow_their_own_blocks(pruned: Any) -> None:
    inputs, outputs = [], []
    for block in stacked(pruned):
        block.register_forward_pre_hook(
            lambda _, args, kwargs: inputs.append(kwargs["hidden_states"]), with_kwargs=True
        )
        block.register_forward_hook(lambda _, args, output: outputs.append(output[1]))
    double = [torch.full((1, 1, 1), value) for value in (1.0, 2.0)]
    single = [torch.full((1, 1, 1), value) for value in (3.0, 4.0)]
    residuals = {"controlnet_block_samples": double, "controlnet_single_block_samples": single}
    run(pruned, {**tiny_inputs(pruned), **residuals})
    added = [(after - before).mean() for before, after in zip(outputs, inputs[1:], strict=False)]
    # Two residuals for two double blocks, two for four single blocks; what follows the last one goes into norm_out.
    torch.testing.assert_close(torch.stack(added), torch.tensor([1.0, 2.0, 3.0, 3.0, 4.0]))


@row("ControlNet")
def test_a_controlnet_of_the_base_model_steers_a_pruned_pipeline(base: Path, pruned: Any) -> None:
    controlnet = FluxControlNetModel.from_transformer(
        make_tiny_flux(), num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2
    )
    for layer in (*controlnet.controlnet_blocks, *controlnet.controlnet_single_blocks):
        nn.init.ones_(layer.weight)
    pipeline = FluxControlNetPipeline.from_pipe(load_pipeline(base), transformer=pruned, controlnet=controlnet)
    free, steered = (
        pipeline(
            "a ring",
            control_image=torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
            controlnet_conditioning_scale=scale,
            height=64,
            width=64,
            num_inference_steps=2,
            output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).images
        for scale in (0.0, 1.0)
    )
    assert torch.isfinite(steered).all()
    assert not torch.equal(steered, free)


@row("ControlNet")
@pytest.mark.parametrize("kind", ["controlnet_block_samples", "controlnet_single_block_samples"])
def test_a_folded_model_refuses_controlnet(kind: str) -> None:
    folded = make_replaced_flux({1, 2})
    fold_(folded)
    run(folded)
    with pytest.raises(FastFluxError, match="pruned without folding"):
        run(folded, {**tiny_inputs(folded), kind: [torch.zeros(1, 1, 1)]})
    apart = make_replaced_flux({0, 2})
    fold_(apart)  # which finds nothing to merge
    run(apart, {**tiny_inputs(apart), kind: [torch.zeros(1, 1, 1)]})


def ip_adapter_of_the_dense_model() -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    image = {"proj.weight": draw(4 * 12, 6), "proj.bias": draw(4 * 12), "norm.weight": draw(12), "norm.bias": draw(12)}
    layers = {
        f"{block}.to_{part}_ip.{kind}": draw(16, 12) if kind == "weight" else draw(16)
        for block in range(2)
        for part in "kv"
        for kind in ("weight", "bias")
    }
    return {"image_proj": image, "ip_adapter": layers}


def with_image(transformer: Any) -> Tensor:
    image = torch.randn((2, 1, 6), generator=torch.Generator().manual_seed(3))
    output: Tensor = transformer(
        **tiny_inputs(transformer), joint_attention_kwargs={"ip_adapter_image_embeds": [image]}, return_dict=False
    )[0]
    return output.detach()


@row("IP-Adapter")
def test_an_ip_adapter_keeps_weights_and_scales_with_their_blocks(pruned: Any) -> None:
    before = run(pruned)
    adapter = ip_adapter_of_the_dense_model()
    pruned._load_ip_adapter_weights(adapter)
    processor = pruned.transformer_blocks[1].attn.processor
    assert torch.equal(processor.to_k_ip[0].weight, adapter["ip_adapter"]["1.to_k_ip.weight"])
    assert not any("to_k_ip" in name and "blocks.1." not in name for name in pruned.state_dict())
    pipeline = pipeline_of(pruned)
    pipeline.set_ip_adapter_scale([0.25, 0.5])
    assert processor.scale == [0.5]
    assert not torch.allclose(with_image(pruned), before)
    pipeline.set_ip_adapter_scale(0.0)
    torch.testing.assert_close(with_image(pruned), before)
    pipeline.unload_ip_adapter()
    torch.testing.assert_close(run(pruned), before)


@row("IP-Adapter")
def test_a_sliced_model_refuses_an_ip_adapter(sliced: Any) -> None:
    with pytest.raises(FastFluxError, match="l1_norm left 1 in every block"):
        sliced._load_ip_adapter_weights(ip_adapter_of_the_dense_model())


def steps(transformer: Any, calls: list[int] | None = None) -> list[Tensor]:
    """Outputs of three steps of one sampling; ``calls`` counts the runs of the last block's linear layer."""
    if calls is not None:
        transformer.single_transformer_blocks[3].linear.register_forward_hook(lambda *_: calls.append(1))
    inputs = [tiny_inputs(transformer, seed) for seed in range(3)]
    with transformer.cache_context("sampling"):
        return [run(transformer, step) for step in inputs]


@row("FirstBlockCache")
@pytest.mark.parametrize("enable", [FastFluxTransformer2DModel.enable_cache, apply_first_block_cache])
def test_the_first_block_cache_runs_all_blocks_at_threshold_0_and_few_at_a_high_one(
    enable: Callable[[Any, Any], None],
) -> None:
    plain = steps(make_replaced_flux({0, 2, 5}, removed={3}))
    careful, calls = make_replaced_flux({0, 2, 5}, removed={3}), list[int]()
    enable(careful, FirstBlockCacheConfig(threshold=0.0))
    for cached, computed in zip(steps(careful, calls), plain, strict=True):
        assert torch.equal(cached, computed)
    all_calls = len(calls)
    hasty, calls = make_replaced_flux({0, 2, 5}, removed={3}), list[int]()
    enable(hasty, FirstBlockCacheConfig(threshold=1e9))
    cached = steps(hasty, calls)
    assert torch.equal(cached[0], plain[0])
    assert not torch.equal(cached[2], plain[2])
    assert 3 * len(calls) == all_calls > 0, "only the first of the three steps runs the last block"


@row("FirstBlockCache")
def test_the_first_block_cache_needs_a_first_block() -> None:
    transformer = make_tiny_flux()
    prune_(transformer, BlockRemovalConfig(blocks=1, ranking="start2end"))
    assert isinstance(transformer.transformer_blocks[0], RemovedBlock)
    with pytest.raises(FastFluxError, match=r"transformer_blocks\.0 is removed"):
        transformer.enable_cache(FirstBlockCacheConfig())
    assert not transformer.is_cache_enabled


@row("`from_pipe`")
def test_from_pipe_takes_the_transformer_by_name(base: Path, tmp_path: Path) -> None:
    transformer = load_transformer(base / "transformer")
    plan = prune_(transformer, BlockRemovalConfig(blocks=1, ranking="end2start"))
    export_pipeline(base, transformer, tmp_path / "out")
    pipeline: Any = load_pipeline(tmp_path / "out")
    other = FluxImg2ImgPipeline.from_pipe(pipeline, transformer=pipeline.transformer)
    assert plan_of(other.transformer) == plan
    with pytest.raises(ValueError, match="transformer"):
        FluxImg2ImgPipeline.from_pipe(pipeline)


@row("Saving and loading in bfloat16")
def test_bfloat16_models_draw_the_same_after_a_round_trip(pruned: Any, folder: Path) -> None:
    pruned.to(torch.bfloat16)
    inputs = {name: value if name.endswith("_ids") else value.bfloat16() for name, value in tiny_inputs(pruned).items()}
    save_transformer(pruned, folder)
    loaded = FastFluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.bfloat16).eval()
    assert loaded.dtype == torch.bfloat16
    assert load_file(next(folder.glob("*.safetensors")))["transformer_blocks.0.linear.weight"].dtype == torch.bfloat16
    assert torch.equal(run(loaded, inputs), run(pruned, inputs))
