"""Exported pipelines and the command line, from a tiny pipeline to its pruned copy."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline

from fastflux.calibration.importance import DEFAULT_RANKING
from fastflux.calibration.recording import record_inputs
from fastflux.calibration.statistics import Calibration
from fastflux.calibration.sublayers import run_and_fit
from fastflux.calibration.trajectories import Trajectories
from fastflux.cli import main
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import load_transformer, revision_of
from fastflux.io.pipelines import export_pipeline, load_outline, load_pipeline
from fastflux.methods.linear_replacement import LinearReplacementConfig
from fastflux.methods.sublayer_replacement.search import Scoring, fill_
from fastflux.models.pruned import FastFluxTransformer2DModel, plan_of
from fastflux.models.sizes import sequence_length
from fastflux.plan import Replacement
from fastflux.pruning import prune_
from tests.fastflux.conftest import PROMPTS, DiesAtTheThird, draw


@pytest.fixture(scope="module")
def exported(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipeline: Any = load_pipeline(base)
    drive = Trajectories(pipeline, PROMPTS, steps=2, batch_size=2)
    prune_(pipeline.transformer, LinearReplacementConfig(ratio=0.34), drive, base_model="tiny")
    out = tmp_path_factory.mktemp("exported") / "fastflux-34"
    export_pipeline(base, pipeline.transformer, out)
    return out


def test_plain_flux_pipeline_loads_and_draws_exports(exported: Path, base: Path) -> None:
    pipeline = FluxPipeline.from_pretrained(exported)
    assert isinstance(pipeline.transformer, FastFluxTransformer2DModel)
    images = draw(pipeline)
    assert images.shape == (1, 3, 32, 32)
    assert torch.equal(images, draw(load_pipeline(exported)))
    assert not torch.equal(images, draw(load_pipeline(base)))


def test_diffusers_own_save_pretrained_keeps_exports_loadable(exported: Path, tmp_path: Path) -> None:
    pipeline = FluxPipeline.from_pretrained(exported)
    pipeline.save_pretrained(tmp_path / "again")
    index = json.loads((tmp_path / "again/model_index.json").read_text())
    assert index["transformer"] == ["fastflux", "FastFluxTransformer2DModel"]
    assert torch.equal(draw(load_pipeline(tmp_path / "again")), draw(pipeline))


def test_exports_stand_alone(exported: Path, base: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {path.name for path in base.iterdir()} | {"README.md"}
    assert not any(path.is_symlink() for path in exported.rglob("*"))
    assert (exported / "vae/diffusion_pytorch_model.safetensors").stat().st_nlink == 1


def test_exporting_a_dense_transformer_gives_the_base_again(base: Path, tmp_path: Path) -> None:
    export_pipeline(base, load_transformer(base / "transformer"), tmp_path / "same")
    assert torch.equal(draw(load_pipeline(tmp_path / "same")), draw(load_pipeline(base)))


def test_an_outline_has_the_sizes_and_no_weights(exported: Path, pipelines: Callable[[str], Path], family: str) -> None:
    for folder in (exported, pipelines(family)):
        outline: Any = load_outline(folder)
        whole: Any = load_pipeline(folder)
        assert outline.vae is None
        assert all(parameter.is_meta for parameter in outline.transformer.parameters())
        shapes = {name: value.shape for name, value in outline.transformer.state_dict().items()}
        assert shapes == {name: value.shape for name, value in whole.transformer.state_dict().items()}
        assert sequence_length(outline) == sequence_length(whole)


def test_existing_or_own_folders_are_refused(exported: Path, base: Path) -> None:
    transformer = load_transformer(exported / "transformer")
    with pytest.raises(FastFluxError, match="exists already"):
        export_pipeline(base, transformer, exported)
    with pytest.raises(FastFluxError, match="the base pipeline's own folder"):
        export_pipeline(base, transformer, base / "pruned")
    with pytest.raises(FastFluxError, match=r"There is no .*model_index.json"):
        export_pipeline(base / "vae", transformer, exported.parent / "other")


def test_batching_does_not_change_the_trajectories(pipelines: Callable[[str], Path], family: str) -> None:
    from fastflux.calibration.statistics import collect_statistics

    pipeline: Any = load_pipeline(pipelines(family))
    totals = []
    for size in (1, 3):
        statistics = collect_statistics(pipeline.transformer, Trajectories(pipeline, PROMPTS, steps=2, batch_size=size))
        totals.append([moments.xx for streams in statistics.values() for moments in streams.values()])
    for alone, together in zip(*totals, strict=True):
        torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-4)


def test_prune_command(base: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["prune", str(base), "--ratio", "0.34", "--prompts", str(prompts), "--steps", "2", "-o", str(out)]
    assert main([*command, "--ranking", "relative_output_error", "--device", "cpu"]) == 0
    assert "2 blocks replaced" in capsys.readouterr().err
    plan = plan_of(load_transformer(out / "transformer"))
    assert plan.base_model == "tiny"
    assert plan.base_revision == revision_of(base / "transformer")
    assert plan.config["ranking"] == "relative_output_error"
    card = (out / "README.md").read_text()
    assert f"- Plan hash: `{plan.hash}`" in card
    assert "own sampling of 3 prompts: 2 steps, guidance 3.5, noise from seed 0 on" in card
    assert main(["inspect", str(out)]) == 0
    told = capsys.readouterr().out
    assert plan.hash in told
    assert str(plan.replacements[0].block) in told


def test_a_written_ranking_is_followed(base: Path, prompts: Path, tmp_path: Path) -> None:
    calibration = ("--prompts", str(prompts), "--steps", "2", "--device", "cpu")
    written = tmp_path / "ranking.json"
    assert main(["rank", str(base), *calibration, "--ranking", "block_influence", "--json", str(written)]) == 0
    order = [entry["block"] for entry in json.loads(written.read_text())["blocks"]]
    command = ["prune", str(base), "--method", "block_removal", "--blocks", "2", "-o", str(tmp_path / "out")]
    assert main([*command, "--device", "cpu", "--ranking", str(written)]) == 0
    plan = plan_of(load_transformer(tmp_path / "out" / "transformer"))
    assert [str(replacement.block) for replacement in plan.replacements] == order[:2]


SANDWICH = (
    *("--method", "sandwich_training", "--blocks", "3", "--ranking", "end2start", "--steps", "2", "--device", "cpu"),
    *("--samples", "4", "--train-steps", "2", "--rank", "2"),
)


def test_prune_command_with_sandwich_training(
    base: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dies_at_the_third: DiesAtTheThird
) -> None:
    command = ["prune", str(base), "--prompts", str(prompts), *SANDWICH]
    assert main([*command, "-o", str(tmp_path / "again")]) == 130
    assert "goes on from what it finished" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
    assert main([*command, "-o", str(tmp_path / "again")]) == 0
    assert dies_at_the_third.calls == 4
    assert [path.name for path in tmp_path.iterdir()] == ["again"], "no progress is left behind"
    assert main([*command, "--activations", "disk", "--keep", "1", "-o", str(tmp_path / "whole")]) == 0
    assert torch.equal(draw(load_pipeline(tmp_path / "again")), draw(load_pipeline(tmp_path / "whole")))


def test_prune_command_folds_on_request(base: Path, prompts: Path, tmp_path: Path) -> None:
    command = ["prune", str(base), "--prompts", str(prompts), *SANDWICH]
    assert main([*command, "-o", str(tmp_path / "plain")]) == 0
    assert main([*command, "--fold", "-o", str(tmp_path / "folded")]) == 0
    plain, folded = load_pipeline(tmp_path / "plain"), load_pipeline(tmp_path / "folded")
    torch.testing.assert_close(draw(folded), draw(plain), rtol=1e-3, atol=1e-3)
    plan = plan_of(load_transformer(tmp_path / "folded/transformer"))
    assert sorted(item.kind for item in plan.replacements) == ["linear", "removed", "removed"]


def test_prune_command_without_calibration(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "l1"
    assert main(["prune", str(base), "--method", "l1_norm", "--ratio", "0.2", "-o", str(out)]) == 0
    assert "## Calibration\n\nNone:" in (out / "README.md").read_text()
    assert draw(load_pipeline(out)).shape == (1, 3, 32, 32)


def test_rank_command(base: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ranking.json"
    command = ["rank", str(base), "--prompts", str(prompts), "--steps", "2", "--device", "cpu", "--json", str(out)]
    assert main(command) == 0
    told = capsys.readouterr().out
    found = json.loads(out.read_text())["blocks"]
    scores = [entry[DEFAULT_RANKING] for entry in found]
    assert len(found) == 6
    assert scores == sorted(scores)
    assert all(entry["block"] in told for entry in found)
    assert [entry["ridge"] for entry in found] == [1e-6] * 6
    assert main([*command, "--ranking", "residual_r3"]) == 1
    assert "did you mean 'residual_r2'" in capsys.readouterr().err


def test_generate_command(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    command = ["generate", str(base), "--steps", "1", "--height", "32", "--width", "32", "--device", "cpu"]
    assert main([*command, "a red star", "a red ring", "-o", str(tmp_path / "many")]) == 0
    assert main([*command, "a red ring", "-o", str(tmp_path / "one.png")]) == 0
    with Image.open(tmp_path / "one.png") as alone, Image.open(tmp_path / "many/001.png") as second:
        assert alone.size == (32, 32)
        assert alone.tobytes() == second.tobytes()
    assert main([*command, "a", "b", "-o", str(tmp_path / "two.png")]) == 1
    assert "name a folder" in capsys.readouterr().err


def test_inspect_command_on_a_dense_model(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(base)]) == 0
    assert "the model is dense" in capsys.readouterr().out


def test_replacements_are_scored_by_what_sampling_ends_with(base: Path) -> None:
    pipeline = load_pipeline(base)
    drive = Trajectories(pipeline, [*PROMPTS, "a ring"], steps=2, batch_size=2)
    calibration = Calibration(lambda: drive(print), run=drive)
    few = calibration.trajectories(2)
    assert few.data == [drive.data[0], drive.data[len(drive.data) // 2]]
    dense, transformer = few.ends(), pipeline.transformer
    torch.testing.assert_close(dense[:1], replace(few, data=few.data[:1]).ends())
    inputs = record_inputs(transformer, drive, samples=4)
    states = calibration.block_states(transformer, inputs, calibration.store())
    scoring, block = Scoring(states, states, ["linear"], ridge=1e-6, trajectories=few), states.blocks[0]
    # Two trajectories of two steps, dense and with the block tried, and four samples twice through the block.
    assert scoring.forwards([block], []) == 2 * 2 * 2 * len(states.blocks) + 2 * 4
    error = scoring.errors(block)["linear"]
    statistics, _ = run_and_fit(states, block, [states.before(block)])
    fill_(transformer, Replacement(block, "linear"), statistics, 1e-6)
    assert error == pytest.approx(float((few.ends() - dense).square().mean() / dense.var()), rel=1e-5)
    assert error > 0
    with pytest.raises(FastFluxError, match="2 trajectories are asked for, but only a calibration on prompts"):
        Calibration(lambda: None).trajectories(2)
