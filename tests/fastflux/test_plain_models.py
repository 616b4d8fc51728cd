"""Models that are not as they look, files that do not fit, pipelines of another kind: one sentence with the remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxFillPipeline, FluxImg2ImgPipeline, FluxPipeline, Transformer2DModel
from peft import LoraConfig
from safetensors.torch import load_file, save_file

import fastflux
from fastflux import workflow
from fastflux.cli import main
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import load_transformer, save_transformer
from fastflux.io.pipelines import export_pipeline, load_outline, load_pipeline
from fastflux.methods.registry import make_config
from fastflux.plan import PruningPlan
from fastflux.pruning import prune_
from tests.fastflux.conftest import make_tiny_flux
from tests.fastflux.test_sandwich_training import equal

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def with_lora(transformer: Any) -> None:
    transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))


def with_fused_lora(transformer: Any) -> None:
    with_lora(transformer)
    transformer.fuse_lora()


def quantised(transformer: Any) -> None:
    weight = transformer.proj_out.weight
    transformer.proj_out.weight = torch.nn.Parameter(weight.data.to(torch.int8), requires_grad=False)


def in_float8(transformer: Any) -> None:
    transformer.proj_out.weight.data = transformer.proj_out.weight.data.to(torch.float8_e4m3fn)


def partly_on_meta(transformer: Any) -> None:
    transformer.proj_out.to("meta")


def cast_by_layer(transformer: Any) -> None:
    transformer.enable_layerwise_casting(storage_dtype=torch.float16, compute_dtype=torch.float32)


def offloaded_in_groups(transformer: Any) -> None:
    transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )


def with_nan(transformer: Any) -> None:
    transformer.proj_out.weight.data[0, 0] = float("nan")


FAULTS: dict[Callable[[Any], Any], str] = {
    with_lora: r"LoRA layers .*unload_lora_weights\(\)",
    with_fused_lora: r"LoRA layers .*unload_lora_weights\(\)",
    lambda transformer: transformer.fuse_qkv_projections(): r"fused projections .*unfuse_qkv_projections\(\)",
    quantised: "weights of torch.int8",
    in_float8: "weights of torch.float8_e4m3fn",
    partly_on_meta: r"meta device \(proj_out\.",
    cast_by_layer: "without layerwise casting",
    offloaded_in_groups: "offloaded in groups",
    with_nan: r"proj_out\.weight holds values that are not finite",
}


@pytest.mark.parametrize("fault", FAULTS, ids=[message[:20] for message in FAULTS.values()])
def test_a_model_that_is_not_as_it_looks_is_neither_pruned_nor_saved(
    fault: Callable[[Any], Any], base: Path, tmp_path: Path
) -> None:
    transformer = make_tiny_flux()
    fault(transformer)
    config = make_config("block_removal", {"blocks": 1, "ranking": "end2start"})
    out = tmp_path / "out"
    for work in (
        lambda: prune_(transformer, config),
        lambda: save_transformer(transformer, out),
        lambda: export_pipeline(base, transformer, out),
    ):
        with pytest.raises(FastFluxError, match=FAULTS[fault]):
            work()
    assert not list(tmp_path.iterdir())


def test_a_lora_that_was_unloaded_and_projections_that_were_unfused_are_no_fault(tmp_path: Path) -> None:
    transformer = make_tiny_flux()
    with_lora(transformer)
    transformer.unload_lora()
    transformer.fuse_qkv_projections()
    transformer.unfuse_qkv_projections()
    save_transformer(transformer, tmp_path / "out")
    assert equal(load_transformer(tmp_path / "out"), make_tiny_flux())


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    """A pipeline to spoil."""
    shutil.copytree(base, tmp_path / "copy")
    return tmp_path / "copy"


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], file: str = WEIGHTS) -> None:
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file, metadata={"format": "pt"})


CONFIG, INDEX, VAE = "transformer/config.json", "model_index.json", "vae/diffusion_pytorch_model.safetensors"
REPLACED = PruningPlan("", "", "l1_norm", {}).to_json() | {"replacements": ["transformer_blocks.0"]}


def config(file: str = CONFIG, **values: Any) -> Callable[[Path], object]:
    return lambda folder: change(folder / file, **values)


def weights(alter: Callable[[dict[str, torch.Tensor]], object], file: str = WEIGHTS) -> Callable[[Path], object]:
    return lambda folder: rewrite(folder, alter, file)


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a block too few": (config(num_single_layers=3), "unexpected, first single_"),
    "no guidance": (config(guidance_embeds=False), "unexpected, first time_text"),
    "a block too many": (config(num_layers=3), "missing, first transformer_blo"),
    "endless": (config(num_layers=10**7), "num_layers in .*config.json is 10000000: expected"),
    "an endless encoder": (config("text_encoder/config.json", num_hidden_layers=10**7), "at most 1000"),
    "scaled float8": (weights(lambda w: w.update({"proj_out.weight_scale": torch.ones(1)})), "scaled float8"),
    "LoRA": (
        weights(lambda w: w.update({"a.base_layer.weight": w.pop("proj_out.weight")})),
        r"unload_lora_weights\(\)",
    ),
    "quantised": (config(quantization_config={"quant_method": "bitsandbytes"}), "is quantised: give the original"),
    "VAE": (weights(lambda w: w.pop("decoder.conv_in.weight"), VAE), "1 missing, first decoder.conv_in.weight"),
    "text encoder": (weights(lambda w: w.pop(min(w)), "text_encoder/model.safetensors"), "do not fit .*: 1 missing"),
    "empty entry": (config(INDEX, vae=[]), r"vae is \[\], but must name a library and a class"),
    "numbers": (config(INDEX, vae=[1, 2]), r"vae is \[1, 2\], but must name a library"),
    "unknown model": (config(INDEX, vae=["diffusers", "NoVae"]), "no class for .*vae"),
    "unknown scheduler": (config(INDEX, scheduler=["diffusers", "NoScheduler"]), "Cannot load the pipel"),
    "unknown pipeline": (config(INDEX, _class_name="NoPipeline"), "Cannot load the pipeline"),
    "no VAE": (lambda f: shutil.rmtree(f / "vae"), "component .*vae is missing"),
    "truncated": (lambda f: (f / VAE).write_bytes((f / VAE).read_bytes()[:-100]), "truncated or corrupt"),
    "no weights": (lambda f: (f / "text_encoder_2/model.safetensors").unlink(), "holds no .safetensors"),
    "no scheduler": (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "Cannot load the pipeline"),
    "nested": (lambda f: (f / INDEX).write_text("[" * 100_000), "Cannot read .* as JSON"),
    "no config": (lambda f: (f / "text_encoder/config.json").unlink(), "There is no .*text_encoder/config.json"),
    "replacement": (config(_class_name="FastFluxTransformer2DModel", pruning_plan=REPLACED), "is a JSON object"),
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_weights_that_do_not_fit_are_an_error(spoil: str, copy: Path) -> None:
    SPOILED[spoil][0](copy)
    with pytest.raises(FastFluxError, match=SPOILED[spoil][1]) as caught:
        load_pipeline(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [FluxFillPipeline, FluxImg2ImgPipeline])
def test_a_pipeline_of_another_kind_is_refused_before_it_is_loaded(
    kind: Any, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(copy / "model_index.json", _class_name=kind.__name__)
    for file in (copy / WEIGHTS, copy / VAE):
        file.write_bytes(b"not to be read")
    with pytest.raises(
        FastFluxError, match=f"is a {kind.__name__}, but .* with FluxPipeline or FluxKontextPipeline alone"
    ):
        load_outline(copy)
    assert main(["generate", str(copy), "a star", "-o", str(tmp_path / "a.png"), "--device", "cpu"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_card_names_the_pipeline_of_the_index(copy: Path, tmp_path: Path) -> None:
    change(copy / "model_index.json", _class_name="FluxImg2ImgPipeline")
    transformer = load_transformer(copy / "transformer")
    prune_(transformer, make_config("block_removal", {"blocks": 1, "ranking": "end2start"}))
    export_pipeline(copy, transformer, tmp_path / "out")
    assert "FluxImg2ImgPipeline.from_pretrained" in (tmp_path / "out/README.md").read_text()


def test_a_folder_of_a_variant_is_loaded_pruned_and_exported(base: Path, copy: Path, tmp_path: Path) -> None:
    FluxPipeline.from_pretrained(base).save_pretrained(tmp_path / "half", variant="fp16")
    pruned = fastflux.prune(
        tmp_path / "half",
        fastflux.BlockRemovalConfig(blocks=1, ranking="end2start"),
        output=tmp_path / "out",
        resources=fastflux.Resources(device="cpu"),
    )
    loaded = FluxPipeline.from_pretrained(tmp_path / "out")
    assert fastflux.plan_of(loaded.transformer) == pruned.plan
    for name, value in load_pipeline(base).text_encoder.state_dict().items():
        assert torch.equal(loaded.text_encoder.state_dict()[name], value)


PRUNE = "prune BASE -o out --prompts p.txt --device cpu"
REFUSED = {
    f"{PRUNE} --blocks 7": "Cannot replace 7 blocks: the transformer has 6",
    f"{PRUNE} --blocks 2 --ranking transformer_blocks.0,transformer_blocks.1": "The ranking lists 2 blocks",
    f"{PRUNE} --blocks 2 --height 33": "height is 33 pixels",
    f"{PRUNE} --blocks 2 --text-tokens 600": "600 text tokens",
    f"{PRUNE} --blocks 2 --method block_removal --fold": "--fold is for linear replacements",
    f"{PRUNE} --ratio 0.2 --method l1_norm --fold": "--fold is for linear replacements",
    f"{PRUNE} --ratio 0.999 --method l1_norm": "Cannot remove 99.9%",
    f"{PRUNE} --blocks 2 --method sandwich_training": "512 samples are asked for, but 2 prompts",
    PRUNE: "exactly one of the two",
    "prune BASE --prompts p.txt --blocks 2 -o /": "Cannot write /",
    "prune BASE --prompts p.txt --blocks 2 -o .": "the folder this runs in",
    f"prune BASE --prompts p.txt --blocks 2 -o {'x' * 300}": "File name too long",
    "prune BASE -o out --ratio 0.2": "give a file with --prompts",
    "prune BASE -o out --ratio 0.2 --prompts nowhere.txt": "Cannot read nowhere.txt: No such file",
    "prune PRUNED -o out --prompts p.txt --blocks 1": "is pruned already, by plan",
    "rank PRUNED --prompts p.txt": "is pruned already, by plan",
    "rank BASE --prompts p.txt --json p.txt/a.json": "Cannot write p.txt: ",
    "rank BASE --prompts p.txt --json .": "is a folder",
    "rank BASE --prompts p.txt --ranking random": "Unknown measured ranking 'random'",
    "generate BASE star -o a.jpg": "written as PNG, not as .jpg",
    "generate BASE -o a.png": "nothing to draw",
    "generate BASE star -o a.png --height 33": "height is 33 pixels",
    "inspect nowhere": "There is no nowhere",
    "inspect p.txt": "p.txt",
}


@pytest.fixture(scope="module")
def pruned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline, pruned; to be read, not changed."""
    transformer = load_transformer(base / "transformer")
    prune_(transformer, make_config("block_removal", {"blocks": 1, "ranking": "end2start"}))
    export_pipeline(base, transformer, folder := tmp_path_factory.mktemp("pruned") / "tiny")
    return folder


@pytest.mark.parametrize("line", REFUSED)
def test_what_needs_no_forward_is_refused_in_one_sentence_before_any_weight_is_read(
    line: str, base: Path, pruned: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workflow, "load_pipeline", lambda *_, **__: pytest.fail("the long work has begun"))
    (tmp_path / "p.txt").write_text("a red star\na ring\n")
    assert main([{"BASE": str(base), "PRUNED": str(pruned)}.get(word, word) for word in line.split()]) == 1
    error = capsys.readouterr().err
    assert REFUSED[line] in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]


def test_a_damaged_picture_is_found_before_any_weight_is_read(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workflow, "load_pipeline", lambda *_, **__: pytest.fail("the long work has begun"))
    (tmp_path / "b.png").write_bytes(b"\x89PNG cut")
    (tmp_path / "b.txt").write_text("a star")
    assert main(["rank", str(base), "--images", str(tmp_path), "--device", "cpu"]) == 1
    assert "b.png is damaged or no picture" in capsys.readouterr().err


def test_nothing_is_drawn_of_values_that_are_not_finite(copy: Path, tmp_path: Path) -> None:
    rewrite(copy, lambda weights: weights["proj_out.weight"].fill_(float("nan")))
    assert (
        main(["generate", str(copy), "a star", "-o", str(tmp_path / "a.png"), "--steps", "2", "--device", "cpu"]) == 1
    )
    assert not (tmp_path / "a.png").exists()


def test_the_plan_tells_calibrations_apart(base: Path, tmp_path: Path) -> None:
    def hash_of(name: str, **settings: Any) -> str:
        data = fastflux.CalibrationSettings(**{"prompts": ["a red star"], "steps": 2, **settings})
        config = fastflux.LinearReplacementConfig(blocks=1, ranking="start2end")
        place = fastflux.Resources(device="cpu")
        return fastflux.prune(base, config, data, output=tmp_path / name, resources=place).plan.hash

    hashes = [
        hash_of("a"), hash_of("b", guidance=4.0), hash_of("c", prompts=["a ring"]), hash_of("d", calibration_seed=1),
    ]  # fmt: skip
    assert len(set(hashes)) == 4
    assert hash_of("e") == hashes[0]
    assert fastflux.plan_of(load_transformer(tmp_path / "e/transformer")).hash == hashes[0]  # type: ignore[union-attr]


def test_a_transformer_of_no_known_family_is_loaded_but_not_pruned(copy: Path, tmp_path: Path) -> None:
    transformer = Transformer2DModel(num_attention_heads=1, attention_head_dim=4, in_channels=4, norm_num_groups=2)
    shutil.rmtree(copy / "transformer")
    transformer.save_pretrained(copy / "transformer")
    change(copy / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    loaded: Any = load_pipeline(copy).transformer
    assert all(torch.equal(value, transformer.state_dict()[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(FastFluxError, match="Unknown transformer class"):
        fastflux.prune(copy, fastflux.L1NormConfig(ratio=0.2), output=tmp_path / "out")
