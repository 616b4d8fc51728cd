"""Number formats of pruned models: computed in what suits the device, written in what the dense one is stored in."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastflux import workflow
from fastflux.cli import main
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import load_transformer, save_transformer, stored_dtype


@pytest.fixture(scope="module")
def half(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline, its transformer stored in bfloat16 as FLUX.1-dev's is."""
    folder = tmp_path_factory.mktemp("half") / "tiny"
    shutil.copytree(base, folder)
    transformer = load_transformer(base / "transformer", dtype=torch.bfloat16)
    save_transformer(transformer, folder / "transformer", overwrite=True)
    return folder


def pruned(folder: Path, out: Path, *arguments: str) -> dict[str, Any]:
    """The weights that `fastflux prune` wrote."""
    command = ["prune", str(folder), "--method", "block_removal", "--blocks", "1", "--ranking", "end2start"]
    assert main([*command, "--device", "cpu", "-o", str(out), *arguments]) == 0
    (path,) = (out / "transformer").glob("*.safetensors")
    return load_file(path)


def test_the_pruned_model_is_stored_as_the_dense_one(
    half: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = pruned(half, tmp_path / "out")
    assert "float32" not in caplog.text, "diffusers warns of modules to be kept in float32, also where there are none"
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    (path,) = (half / "transformer").glob("*.safetensors")
    dense = load_file(path)
    assert weights
    assert all(torch.equal(tensor, dense[name]) for name, tensor in weights.items()), "what is kept is kept bit for bit"
    assert sum(tensor.nbytes for tensor in weights.values()) < sum(tensor.nbytes for tensor in dense.values())


def test_another_format_is_written_where_it_is_asked_for(half: Path, base: Path, tmp_path: Path) -> None:
    wide = pruned(half, tmp_path / "wide", "--save-dtype", "float32")
    assert {tensor.dtype for tensor in wide.values()} == {torch.float32}
    narrow = pruned(base, tmp_path / "narrow", "--save-dtype", "float16")
    assert {tensor.dtype for tensor in narrow.values()} == {torch.float16}
    assert {tensor.dtype for tensor in pruned(base, tmp_path / "same").values()} == {torch.float32}


@pytest.mark.parametrize(
    ("device", "asked", "used"),
    [("cpu", [], torch.float32), ("meta", [], torch.bfloat16), ("meta", ["--dtype", "float16"], torch.float16)],
)
def test_a_cpu_computes_in_float32_and_other_devices_in_the_stored_format(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, asked: list[str], used: torch.dtype
) -> None:
    seen: list[torch.dtype] = []

    def loaded(_folder: Path, *, dtype: torch.dtype, **_: Any) -> Any:
        seen.append(dtype)
        raise FastFluxError("seen enough")

    monkeypatch.setattr(workflow, "load_pipeline", loaded)
    monkeypatch.setattr(workflow, "_device", lambda place: place.device)
    command = ["prune", str(half), "--method", "block_removal", "--blocks", "1", "--ranking", "end2start"]
    assert main([*command, "--device", device, *asked, "-o", str(tmp_path / "out")]) == 1
    assert seen == [used]


def test_the_format_of_most_parameters_counts(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"norm": torch.zeros(8), "weight": torch.zeros(8, 8, dtype=torch.bfloat16)}, path)
    assert stored_dtype(tmp_path) == torch.bfloat16
    save_file({"norm": torch.zeros(8, 16), "weight": torch.zeros(8, 8, dtype=torch.bfloat16)}, path)
    assert stored_dtype(tmp_path) == torch.float32
    save_file({"weight": torch.zeros(8, dtype=torch.int8)}, path)
    with pytest.raises(FastFluxError, match="are of the format I8"):
        stored_dtype(tmp_path)
    with pytest.raises(FastFluxError, match="give --dtype, and to prune --save-dtype"):
        stored_dtype(tmp_path)
    path.write_bytes(b"no weights")
    with pytest.raises(FastFluxError, match="truncated or corrupt"):
        stored_dtype(tmp_path)


def test_weights_that_diffusers_does_not_load_do_not_count(half: Path, tmp_path: Path) -> None:
    """A variant beside the weights, and the whole beside its shards."""
    transformer = load_transformer(half / "transformer", dtype=torch.bfloat16)
    wide = {"weight": torch.zeros(10**6)}
    for name, shard_size in (("whole", "1GB"), ("sharded", "20KB")):
        transformer.save_pretrained(tmp_path / name, max_shard_size=shard_size)
        save_file(wide, tmp_path / name / "diffusion_pytorch_model.fp32.safetensors")
        assert stored_dtype(tmp_path / name) == torch.bfloat16
    assert len(list((tmp_path / "sharded").glob("*-of-*.safetensors"))) > 1
    save_file(wide, tmp_path / "sharded" / "diffusion_pytorch_model.safetensors")
    assert stored_dtype(tmp_path / "sharded") == torch.bfloat16
    assert next(load_transformer(tmp_path / "sharded", dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16


def test_weights_that_float16_cannot_hold_are_an_error(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "large"
    shutil.copytree(base, folder)
    transformer: Any = load_transformer(base / "transformer")
    with torch.no_grad():
        transformer.proj_out.bias[0] = -1e6
    save_transformer(transformer, folder / "transformer", overwrite=True)
    command = ["prune", str(folder), "--method", "block_removal", "--blocks", "1", "--ranking", "end2start"]
    assert main([*command, "--device", "cpu", "-o", str(tmp_path / "out"), "--save-dtype", "float16"]) == 1
    assert "proj_out.bias holds 1e+06, and float16 ends at 65504" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
    pruned(folder, tmp_path / "out", "--save-dtype", "bfloat16")
