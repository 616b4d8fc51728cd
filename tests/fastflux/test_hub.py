"""Pipelines by hub id, with the hub played by a function."""

from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from fastflux.cli import main
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import is_hub_id, load_transformer, local_pipeline
from fastflux.models.pruned import plan_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [("black-forest-labs/FLUX.1-dev", True), ("flux", False), ("/a/b", False), ("a/b/c", False), ("a b/c", False)],
)
def test_what_reads_as_a_hub_id(text: str, expected: bool) -> None:
    assert is_hub_id(text) == expected


def test_a_model_of_the_hub_is_pruned_under_its_name(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiffusionPipeline, "download", lambda name: str(base) if name == "me/tiny" else "")
    out = tmp_path / "out"
    command = ["prune", "me/tiny", "--method", "block_removal", "--blocks", "1", "--ranking", "end2start"]
    assert main([*command, "--device", "cpu", "-o", str(out)]) == 0
    plan = plan_of(load_transformer(out / "transformer"))
    assert plan.base_model == "me/tiny"


def test_what_is_neither_folder_nor_on_the_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(_name: str) -> str:
        raise OSError("gated repository")

    monkeypatch.setattr(DiffusionPipeline, "download", refuse)
    with pytest.raises(FastFluxError, match=r"gated repository.*hf auth login"):
        local_pipeline(Path("black-forest-labs/FLUX.1-dev"))
    with pytest.raises(FastFluxError, match="no hub id"):
        local_pipeline(tmp_path / "missing")
    assert local_pipeline(tmp_path) == tmp_path


def test_an_output_that_cannot_be_written_is_told_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_name: str) -> str:
        raise AssertionError("it is being fetched")

    monkeypatch.setattr(DiffusionPipeline, "download", refuse)
    assert main(["prune", "me/tiny", "--method", "l1_norm", "--ratio", "0.1", "-o", str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err
