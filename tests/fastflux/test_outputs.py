"""What `fastflux prune` may delete, what it copies, and that it tells what it cannot write before it works."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastflux import workflow
from fastflux.cli import main
from fastflux.errors import FastFluxError
from fastflux.files import MARKER
from fastflux.io.checkpoint import load_transformer, save_transformer
from fastflux.io.pipelines import export_pipeline, foreign_to_pipeline, load_pipeline, require_output
from tests.fastflux.conftest import DiesAtTheThird, make_replaced_flux, make_tiny_flux

L1 = ("--method", "l1_norm", "--ratio", "0.2", "--device", "cpu")
SANDWICH = (
    *("--method", "sandwich_training", "--blocks", "3", "--ranking", "end2start", "--steps", "2", "--device", "cpu"),
    *("--samples", "4", "--train-steps", "2", "--rank", "2"),
)


@pytest.fixture
def models(base: Path, tmp_path: Path) -> Path:
    """A folder of the user's: a base pipeline of their own, LoRAs, prompts and a ranking."""
    shutil.copytree(base, tmp_path / "models/base")
    (tmp_path / "models/loras").mkdir()
    (tmp_path / "models/loras/mine.safetensors").write_bytes(b"mine")
    (tmp_path / "models/prompts.txt").write_text("a red star\na blue ring\n")
    return tmp_path / "models"


@pytest.fixture
def out(base: Path, tmp_path: Path) -> Path:
    """An earlier output."""
    export_pipeline(base, make_replaced_flux({1}), tmp_path / "out")
    return tmp_path / "out"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing_loads(*_: object, **__: object) -> None:
    raise AssertionError("the work has begun")


def refused(capsys: pytest.CaptureFixture[str], told: str, *arguments: object) -> None:
    assert main([str(argument) for argument in ("prune", *arguments)]) == 1
    error = capsys.readouterr().err
    assert re.search(told, error), error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("models", "the base pipeline lies in it"),
        ("models/base", "the base pipeline's own folder"),
        ("models/base/transformer", "the base pipeline's own folder"),
        ("models/base/new", "the base pipeline's own folder"),
        ("link", "the base pipeline lies in it"),
        ("models/loras", "would delete mine.safetensors"),
        ("models/prompts.txt", "the file of prompts lies in it"),
        ("models/prompts.txt/below", "Not a directory"),
        (".", "or one around it"),
        ("/", "or one around it"),
        ("x" * 300, "name too long"),
        ("/proc/out", "Cannot write /proc/out"),
    ],
)
def test_overwriting_deletes_nothing_of_the_users_and_is_refused_before_the_work(
    output: str, told: str, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workflow, "load_pipeline", nothing_loads)
    monkeypatch.chdir(models.parent)
    (models.parent / "link").symlink_to("models")
    before = files_of(models)
    refused(capsys, told, "models/base", *SANDWICH, "--prompts", "models/prompts.txt", "-o", output, "--overwrite")
    assert files_of(models) == before


@pytest.mark.parametrize("place", ["work", "prompts.txt", "order.json", "pictures"])
def test_inputs_in_an_earlier_output_keep_it(
    place: str, base: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "load_pipeline", nothing_loads)
    elsewhere = out.parent / "prompts.txt"
    elsewhere.write_text("a red star\n")
    inside = out / "vae" / place
    options: list[object] = ["--prompts", elsewhere, "--work", inside]
    if place == "prompts.txt":
        inside.write_text("a red star\n")
        options = ["--prompts", inside]
    elif place == "order.json":
        inside.write_text(json.dumps({"blocks": [{"block": f"single_transformer_blocks.{at}"} for at in range(4)]}))
        options = ["--prompts", elsewhere, "--ranking", inside]
    elif place == "pictures":
        inside.mkdir()
        (inside / "one.png").touch()
        (inside / "one.txt").write_text("a red star")
        options = ["--images", inside]
    refused(capsys, "lies in it", base, "--ratio", "0.2", *options, "-o", out, "--overwrite")
    assert out.is_dir()


def test_an_output_that_the_base_links_into_is_kept(base: Path, out: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "linked", ignore=lambda *_: ["vae"])
    (tmp_path / "linked/vae").symlink_to(out / "vae")
    with pytest.raises(FastFluxError, match="the base pipeline lies in it"):
        export_pipeline(tmp_path / "linked", make_tiny_flux(), out, overwrite=True)
    assert (out / "vae/config.json").is_file()


@pytest.mark.parametrize(
    "name", ["loras/mine.safetensors", "notes.txt", "transformer/mine.safetensors", "vae/old/config.json", ".git/HEAD"]
)
def test_an_earlier_output_with_something_foreign_is_kept(name: str, base: Path, out: Path) -> None:
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    told = name if name.startswith("transformer") else "/".join(name.split("/")[: 1 + name.startswith("vae")])
    with pytest.raises(FastFluxError, match=f"would delete {re.escape(told)}, which"):
        export_pipeline(base, make_tiny_flux(), out, overwrite=True)
    assert (out / name).read_text() == "mine"


@pytest.mark.parametrize("damage", ["{", "[]", '"text"', '{"vae": ["diffusers", "AutoencoderKL"]}'])
def test_what_is_no_pipeline_is_all_foreign(damage: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(damage)
    (tmp_path / "weights").touch()
    assert "weights" in foreign_to_pipeline(tmp_path)


def test_outputs_and_what_diffusers_writes_can_be_overwritten(
    pipelines: Callable[[str], Path], family: str, out: Path, tmp_path: Path
) -> None:
    whole: Any = load_pipeline(pipelines(family))
    whole.save_pretrained(tmp_path / "sharded", max_shard_size="2KB")
    (tmp_path / "empty").mkdir()
    for folder in (out, tmp_path / "sharded", tmp_path / "empty"):
        assert foreign_to_pipeline(folder) == []
        export_pipeline(pipelines(family), load_transformer(pipelines(family) / "transformer"), folder, overwrite=True)
        assert files_of(folder).keys() == files_of(pipelines(family)).keys()


@pytest.mark.parametrize("name", ["vae", "text_encoder", "tokenizer", "scheduler", "."])
def test_a_transformer_takes_the_place_of_no_other_folder(name: str, models: Path) -> None:
    before = files_of(models)
    with pytest.raises(FastFluxError, match="would delete"):
        save_transformer(make_tiny_flux(), models / "base" / name, overwrite=True)
    (models / "base/transformer/diffusion_pytorch_model_lora.safetensors").write_bytes(b"mine")
    with pytest.raises(FastFluxError, match=r"would delete diffusion_pytorch_model_lora\.safetensors"):
        save_transformer(make_tiny_flux(), models / "base/transformer", overwrite=True)
    (models / "base/transformer/diffusion_pytorch_model_lora.safetensors").unlink()
    assert files_of(models) == before


def test_a_transformer_in_shards_can_be_overwritten(tmp_path: Path) -> None:
    make_tiny_flux().save_pretrained(tmp_path / "sharded", max_shard_size="2KB")
    save_transformer(make_tiny_flux(), tmp_path / "sharded", overwrite=True)
    assert len(list((tmp_path / "sharded").iterdir())) == 2


def test_a_linked_output_is_written_through_after_the_run(base: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(out)
    assert main(["prune", str(base), *L1, "-o", str(tmp_path / "link"), "--overwrite"]) == 0
    assert (tmp_path / "link").is_symlink()
    assert json.loads((out / "transformer/config.json").read_text())["pruning_plan"]["method"] == "l1_norm"


def test_the_users_progress_is_kept(base: Path, models: Path, tmp_path: Path) -> None:
    (tmp_path / "out.progress").mkdir()
    (tmp_path / "out.progress/mine.txt").write_text("mine")
    command = ["prune", str(base), "--prompts", str(models / "prompts.txt"), *SANDWICH, "-o", str(tmp_path / "out")]
    assert main(command) == 0
    assert files_of(tmp_path / "out.progress") == {"mine.txt": b"mine"}
    assert not (tmp_path / "out.progress-2").exists()
    work = tmp_path / "work"
    assert main([*command, "--overwrite", "--work", str(work)]) == 0
    assert len(list(work.rglob("*.safetensors"))) == 3


def test_what_others_put_beside_the_progress_stays(
    base: Path, models: Path, tmp_path: Path, dies_at_the_third: DiesAtTheThird
) -> None:
    command = ["prune", str(base), "--prompts", str(models / "prompts.txt"), *SANDWICH, "-o", str(tmp_path / "out")]
    assert main(command) == 130
    progress = tmp_path / "out.progress"
    assert (progress / MARKER).is_file()
    (progress / "mine.txt").write_text("mine")
    assert main(command) == 0
    assert files_of(progress).keys() == {MARKER, "mine.txt"}


def test_an_error_leaves_no_empty_progress(base: Path, models: Path, tmp_path: Path) -> None:
    command = ["prune", str(base), "--prompts", str(models / "prompts.txt"), *SANDWICH, "-o", str(tmp_path / "out")]
    assert main([*command, "--layers", "4"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]


def test_progress_that_cannot_be_kept_is_told_before(
    base: Path, models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "load_pipeline", nothing_loads)
    command = (base, "--prompts", models / "prompts.txt", *SANDWICH, "-o", models / "out", "--work")
    refused(capsys, "Cannot write .*prompts.txt: Not a directory", *command, models / "prompts.txt")
    refused(capsys, "Cannot write /proc/work", *command, "/proc/work")


# -- what is copied


@pytest.fixture
def snapshot(base: Path, tmp_path: Path) -> Path:
    """The base as the hub's cache has it: links from a snapshot to blobs, and a single-file checkpoint beside."""
    home = tmp_path / "hub/models--someone--tiny"
    folder = home / "snapshots/0123"
    (home / "blobs").mkdir(parents=True)
    extra = {"flux1-dev.safetensors": b"24 GB", "LICENSE.md": b"terms", "NOTICE": b"notice", "dev_grid.jpg": b"grid"}
    for number, (name, data) in enumerate({**files_of(base), **extra, ".gitattributes": b""}.items()):
        blob = home / f"blobs/{number:040x}"
        blob.write_bytes(data)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(os.path.relpath(blob, (folder / name).parent))
    return folder


def test_what_the_index_names_is_copied_and_the_licence(base: Path, snapshot: Path, tmp_path: Path) -> None:
    (snapshot / "loras").mkdir()
    (snapshot / "loras/mine.safetensors").write_bytes(b"mine")
    export_pipeline(snapshot, make_tiny_flux(), tmp_path / "out")
    assert files_of(tmp_path / "out").keys() == {*files_of(base), "LICENSE.md", "NOTICE"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert torch.equal(
        load_pipeline(tmp_path / "out").vae.state_dict()["encoder.conv_in.weight"],
        load_pipeline(base).vae.state_dict()["encoder.conv_in.weight"],
    )


def test_further_copies_of_weights_stay_behind(base: Path, models: Path, tmp_path: Path) -> None:
    mine = models / "base"
    pipeline: Any = load_pipeline(mine)
    pipeline.text_encoder_2.save_pretrained(mine / "text_encoder_2", max_shard_size="1KB")
    (mine / "text_encoder_2/model.safetensors").unlink()
    shards = set(files_of(mine))
    for name in (
        *("vae/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.bin", "vae/.DS_Store"),
        *("text_encoder_2/model.fp16-00001-of-00002.safetensors", "text_encoder_2/model.safetensors.index.fp16.json"),
        *("text_encoder_2/pytorch_model.bin.index.json", "text_encoder/flax_model.msgpack"),
    ):
        (mine / name).write_bytes(b"another copy")
    assert len([name for name in shards if name.startswith("text_encoder_2/model-")]) > 1
    export_pipeline(mine, make_tiny_flux(), tmp_path / "out")
    assert files_of(tmp_path / "out").keys() == shards
    load_pipeline(tmp_path / "out")


def test_weights_of_a_variant_alone_get_plain_names(models: Path, tmp_path: Path) -> None:
    vae = models / "base/vae"
    (vae / "diffusion_pytorch_model.safetensors").rename(vae / "diffusion_pytorch_model.fp16.safetensors")
    export_pipeline(models / "base", make_tiny_flux(), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out/vae").glob("*.safetensors")] == [
        "diffusion_pytorch_model.safetensors"
    ]


@pytest.mark.parametrize(
    ("link", "target", "told"),
    [
        ("vae/loop", "..", "is no file"),
        ("vae/itself", "itself", "a link to nothing"),
        ("vae/nowhere", "nothing", "a link to nothing"),
        ("vae/secret.json", "../../prompts.txt", "is a link out of the pipeline's folder"),
        ("vae/loras", "../../loras", "is a link out of the pipeline's folder"),
        ("LICENSE", "../prompts.txt", "is a link out of the pipeline's folder"),
        ("vae", "../loras", "is a link out of the pipeline's folder"),
        ("vae", ".", "component .*vae is missing"),
        ("vae", "..", "is a link out of the pipeline's folder"),
    ],
)
def test_links_that_lead_round_or_out_are_refused(
    link: str, target: str, told: str, models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "load_pipeline", nothing_loads)
    path = models / "base" / link
    if path.is_dir():
        shutil.rmtree(path)
    path.symlink_to(target)
    refused(capsys, told, models / "base", *L1, "-o", models / "out")
    assert not (models / "out").exists()


def test_links_beside_the_components_do_not_matter(models: Path) -> None:
    (models / "base/loop").symlink_to(".")
    (models / "base/secret").symlink_to(models / "prompts.txt")
    export_pipeline(models / "base", make_tiny_flux(), models / "out")
    assert not {"loop", "secret"} & {path.name for path in (models / "out").iterdir()}


def test_a_component_may_stand_for_another_one(models: Path) -> None:
    shutil.rmtree(models / "base/tokenizer_2")
    (models / "base/tokenizer_2").symlink_to("tokenizer")
    export_pipeline(models / "base", make_tiny_flux(), models / "out")
    assert files_of(models / "out/tokenizer_2") == files_of(models / "base/tokenizer")
    assert not (models / "out/tokenizer_2").is_symlink()


@pytest.mark.parametrize("name", ["../loras", "/etc", ".", "vae/..", ".hidden"])
def test_names_of_components_that_lead_out_are_refused(name: str, models: Path) -> None:
    index = json.loads((models / "base/model_index.json").read_text())
    index[name] = ["diffusers", "AutoencoderKL"]
    (models / "base/model_index.json").write_text(json.dumps(index))
    for act in (load_pipeline, lambda folder: require_output(folder, models / "out", overwrite=False)):
        with pytest.raises(FastFluxError, match="which cannot be a folder's name"):
            act(models / "base")


def test_a_dense_export_keeps_a_card_that_people_wrote(base: Path, out: Path) -> None:
    (out / "README.md").write_text("mine")
    export_pipeline(base, make_tiny_flux(), out, overwrite=True)
    assert (out / "README.previous.md").read_text() == "mine"
