"""Transformers of single files. (diffusers converts the authors' own layout for full-size models alone.)"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import fastflux
from fastflux.cli import main
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import load_transformer
from fastflux.io.pipelines import load_pipeline
from tests.fastflux.conftest import Make, make_tiny_flux


def test_a_single_file_takes_the_place_of_the_pipelines_transformer(
    family: str, make: Make, pipelines: Any, tmp_path: Path
) -> None:
    folder, other = pipelines(family), make(seed=7)
    file = tmp_path / "mine.safetensors"
    save_file(dict(other.state_dict()), file)
    loaded: Any = load_pipeline(folder, checkpoint=file).transformer
    for name, value in other.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    command = ["prune", str(folder), "--checkpoint", str(file), "--method", "block_removal", "--blocks", "1"]
    assert main([*command, "--ranking", "end2start", "--device", "cpu", "-o", str(tmp_path / "out")]) == 0
    pruned = load_transformer(tmp_path / "out/transformer")
    plan = fastflux.plan_of(pruned)
    assert plan.base_model == "mine"
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in pruned.state_dict().items())


@pytest.mark.parametrize("fault", ["a block more", "a weight less", "a scale"])
def test_a_file_of_another_model_is_refused(fault: str, base: Path, tmp_path: Path) -> None:
    weights = dict(make_tiny_flux(num_single_layers=5 if fault == "a block more" else 4).state_dict())
    if fault == "a weight less":
        del weights["proj_out.bias"]
    if fault == "a scale":
        weights["proj_out.scale_weight"] = torch.ones(1)
    save_file(weights, tmp_path / "mine.safetensors")
    with pytest.raises(FastFluxError, match=r"mine\.safetensors"):
        load_pipeline(base, checkpoint=tmp_path / "mine.safetensors")


def test_a_single_file_alone_needs_its_pipeline(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "flux1-dev.safetensors"
    save_file(dict(make_tiny_flux().state_dict()), file)
    command = ["--method", "block_removal", "--blocks", "1", "--ranking", "end2start", "-o", str(tmp_path / "out")]
    assert main(["prune", str(file), *command]) == 1
    assert "is a single file: give the folder or hub id of the pipeline" in capsys.readouterr().err
    assert main(["prune", str(base), "--checkpoint", str(tmp_path / "none.safetensors"), *command]) == 1
    assert "There is no file" in capsys.readouterr().err
