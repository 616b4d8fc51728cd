"""What is SD3's own: the block that is kept, guidance's doubled batches, and a pipeline from end to end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

import fastflux
from fastflux.calibration.recording import record_inputs
from fastflux.calibration.statistics import Calibration
from fastflux.calibration.trajectories import Trajectories
from fastflux.cli import main
from fastflux.errors import FastFluxError
from fastflux.io.pipelines import load_pipeline
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.methods.registry import amount
from fastflux.methods.sandwich_training import SandwichTrainingConfig, read_change
from fastflux.models.architecture import IMAGE_STREAM, STREAMS, architecture_of, example_inputs
from fastflux.models.folding import fold_
from fastflux.models.pruned import parameter_count, plan_of
from fastflux.models.sizes import drawing_sizes, sequence_length
from fastflux.models.surgery import get_block, replace_block_
from fastflux.plan import BlockRef, PruningPlan, Replacement
from fastflux.pruning import apply_plan_, prune_
from tests.fastflux.conftest import DiesAtTheThird, Drive, draw, make_replaced, make_tiny_sd3, run, seen_by, tiny_inputs
from tests.fastflux.test_sandwich_training import equal

LAST = BlockRef("transformer_blocks", 6)


@pytest.fixture
def base(pipelines: Callable[[str], Path]) -> Path:
    return pipelines("sd3")


def test_the_last_block_runs_but_is_kept() -> None:
    transformer = make_tiny_sd3()
    architecture = architecture_of(transformer)
    assert architecture.chain(transformer)[-1] == LAST
    assert architecture.blocks(transformer) == architecture.chain(transformer)[:-1]
    assert architecture.streams_read(LAST, transformer) == (IMAGE_STREAM,)
    assert architecture.streams_read(BlockRef("transformer_blocks", 5), transformer) == STREAMS
    with pytest.raises(FastFluxError, match=r"Cannot replace transformer_blocks\.6: SD3's last block"):
        replace_block_(transformer, Replacement(LAST, "linear"))
    plan = PruningPlan("tiny", "", "block_removal", {}, (Replacement(BlockRef(LAST.stack, 0), "removed"),))
    bad = PruningPlan.from_json({**plan.to_json(), "replacements": [{"block": str(LAST), "kind": "removed"}]})
    with pytest.raises(FastFluxError, match="is kept"):
        apply_plan_(transformer, bad)
    assert equal(transformer, make_tiny_sd3()), "a plan that does not fit changes nothing"


def test_ratios_count_all_blocks_and_end_at_those_that_may_be_pruned() -> None:
    transformer = make_tiny_sd3(num_layers=24)
    assert [amount(transformer, ratio, None) for ratio in (0.0, 0.05, 0.1, 0.2, 1.0)] == [0, 1, 2, 5, 23]
    assert amount(transformer, None, 23) == 23
    with pytest.raises(FastFluxError, match="Cannot replace 24 blocks: the transformer has 23"):
        amount(transformer, None, 24)


def test_example_inputs_are_latents() -> None:
    transformer = make_tiny_sd3()
    inputs = example_inputs(transformer, 2, 32, 48, 5)
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {
        "hidden_states": (2, 2, 4, 6),
        "encoder_hidden_states": (2, 5, 20),
        "pooled_projections": (2, 20),
        "timestep": (2,),
    }
    assert transformer(**inputs).sample.shape == (2, 2, 4, 6)
    with pytest.raises(FastFluxError, match="height is 24 pixels, but it must be a multiple of 16"):
        example_inputs(transformer, 1, 24, 32, 3)
    with pytest.raises(FastFluxError, match="position embedding ends at 128"):
        example_inputs(transformer, 1, 32, 144, 3)


SMALL: dict[str, Any] = {"ranking": "end2start", "samples": 32, "steps": 4, "rank": 2, "batch": 8}


def trained(drive: Drive, folder: Path | None = None, **settings: Any) -> Any:
    transformer = make_tiny_sd3()
    config = SandwichTrainingConfig(**{**SMALL, **settings})
    prune_(transformer, config, Calibration(drive(transformer), folder=folder, batch_size=8))
    return transformer


@pytest.mark.parametrize(("layers", "first"), [(1, 5), (3, 4), (5, 3)])
def test_sandwiches_at_the_end_adapt_the_kept_block(drive: Drive, tmp_path: Path, layers: int, first: int) -> None:
    transformer = trained(drive, tmp_path, layers=layers, blocks=1)
    (path,) = tmp_path.rglob("*.safetensors")
    changed = {block.index for block in read_change(path)}
    assert changed == ({5} if layers == 1 else set(range(first, 7)))
    dense = make_tiny_sd3()
    for index in range(5 if layers == 1 else 7):
        same = equal(transformer.transformer_blocks[index], dense.transformer_blocks[index])
        assert same == (index not in changed)
    assert get_block(transformer, LAST).state_dict().keys() == get_block(dense, LAST).state_dict().keys()


def test_progress_goes_on_bit_identical_and_every_block_can_go(
    drive: Drive, tmp_path: Path, dies_at_the_third: DiesAtTheThird
) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(drive, tmp_path, ratio=1.0)
    continued = trained(drive, tmp_path, ratio=1.0)
    assert dies_at_the_third.calls == 3 + 4
    assert len(plan_of(continued).replacements) == 6  # type: ignore[union-attr]
    assert equal(continued, trained(drive, ratio=1.0))


def test_controlnet_residuals_follow_their_own_blocks() -> None:
    pruned = make_replaced(make_tiny_sd3, {0, 2}, removed={3})
    outputs: list[torch.Tensor] = []
    inputs: list[torch.Tensor] = []
    for block in pruned.transformer_blocks:
        block.register_forward_pre_hook(lambda _, args, kwargs: inputs.append(kwargs[IMAGE_STREAM]), with_kwargs=True)
        block.register_forward_hook(lambda _, args, output: outputs.append(output[1]))
    residuals = [torch.full((1, 1, 1), float(value)) for value in range(1, 8)]
    run(pruned, {**tiny_inputs(pruned), "block_controlnet_hidden_states": residuals})  # type: ignore[dict-item]
    added = [(after - before).mean() for before, after in zip(outputs, inputs[1:], strict=False)]
    torch.testing.assert_close(torch.stack(added), torch.arange(1.0, 7.0))
    folded = make_replaced(make_tiny_sd3, {1, 2})
    fold_(folded)
    with pytest.raises(FastFluxError, match="pruned without folding"):
        run(folded, {**tiny_inputs(folded), "block_controlnet_hidden_states": residuals})  # type: ignore[dict-item]


@pytest.mark.parametrize("qk_norm", [None, "rms_norm"])
def test_slicing_takes_the_same_share_of_every_block(qk_norm: str | None) -> None:
    changes = {"num_attention_heads": 4, "attention_head_dim": 16, "caption_projection_dim": 64, "qk_norm": qk_norm}
    transformer = make_tiny_sd3(**changes)
    before = parameter_count(transformer)
    plan = prune_(transformer, L1NormConfig(0.25))
    assert 1 - parameter_count(transformer) / before == pytest.approx(0.25, abs=0.005)
    heads, channels = plan.config["heads"], plan.config["mlp_channels"]
    for block in transformer.transformer_blocks:
        assert block.attn.heads == heads
        assert block.attn.add_q_proj.out_features == block.attn.to_out[0].in_features == 16 * int(str(heads))
        assert block.ff.net[2].in_features == channels
    assert transformer.transformer_blocks[6].attn.to_add_out is None
    assert torch.isfinite(run(transformer)).all()


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 2), (5.0, 4)])
def test_guidance_doubles_the_batches_and_every_row_is_a_sample(base: Path, guidance: float, rows: int) -> None:
    pipeline: Any = load_pipeline(base)
    drive = Trajectories(pipeline, ["a red star", "a ring"], steps=3, guidance=guidance, batch_size=2)
    assert [len(kwargs["hidden_states"]) for kwargs in seen_by(pipeline, drive)] == [rows] * 3
    inputs = record_inputs(pipeline.transformer, drive, samples=3 * rows)
    assert set(inputs.rows) == {"hidden_states", "encoder_hidden_states", "pooled_projections", "timestep"}
    with pytest.raises(FastFluxError, match=f"{3 * rows} images and steps"):
        record_inputs(pipeline.transformer, drive, samples=3 * rows + 1)


def test_sizes_are_those_of_the_pipeline(base: Path) -> None:
    pipeline: Any = load_pipeline(base)
    assert drawing_sizes(pipeline) == {"height": 32, "width": 32, "max_sequence_length": 6}
    assert sequence_length(pipeline) == 12, "CLIP's tokens and T5's"
    (first, *_) = seen_by(pipeline, Trajectories(pipeline, ["a star"], steps=1, text_tokens=3))
    assert first["encoder_hidden_states"].shape[1] == sequence_length(pipeline, 3) == 9
    pipeline.tokenizer_3 = None
    assert drawing_sizes(pipeline)["max_sequence_length"] == 256
    with pytest.raises(FastFluxError, match="width is 144 pixels"):
        Trajectories(pipeline, ["a star"], width=144)


def test_the_command_line_from_end_to_end(
    base: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, ranking = tmp_path / "out", tmp_path / "ranking.json"
    calibration = ("--prompts", str(prompts), "--steps", "2", "--guidance", "5", "--device", "cpu")
    assert main(["rank", str(base), *calibration, "--json", str(ranking)]) == 0
    assert len(json.loads(ranking.read_text())["blocks"]) == 6
    command = ["prune", str(base), *calibration, "--method", "sandwich_training", "--ratio", "0.3", "--fold"]
    small = ("--samples", "8", "--train-steps", "2", "--rank", "2", "--ranking", str(ranking))
    assert main([*command, *small, "-o", str(out)]) == 0
    assert main(["inspect", str(out)]) == 0
    assert "FastFluxSD3Transformer2DModel" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert "StableDiffusion3Pipeline.from_pretrained" in card
    assert "Blocks replaced: 2 of 7" in card
    assert "- sd3\n" in card
    image = tmp_path / "image.png"
    sizes = ("--steps", "1", "--height", "32", "--width", "32")
    assert main(["generate", str(out), "a red star", *sizes, "--device", "cpu", "-o", str(image)]) == 0
    assert image.exists()
    pipeline = StableDiffusion3Pipeline.from_pretrained(out)
    assert isinstance(pipeline.transformer, fastflux.FastFluxSD3Transformer2DModel)
    assert torch.equal(draw(pipeline), draw(load_pipeline(out)))
    assert not torch.equal(draw(pipeline), draw(load_pipeline(base)))
