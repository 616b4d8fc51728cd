"""Saved transformers: strict loading, and one clear sentence for everything that is broken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from fastflux.calibration.statistics import Statistics
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import load_transformer, revision_of, save_transformer
from fastflux.methods.linear_replacement import LinearReplacementConfig
from fastflux.models.pruned import FastFluxTransformer2DModel, plan_of
from fastflux.plan import PruningPlan
from fastflux.pruning import prune_
from tests.fastflux.conftest import make_tiny_flux, run

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def saved(statistics: Statistics, folder: Path) -> Any:
    transformer = make_tiny_flux()
    prune_(transformer, LinearReplacementConfig(blocks=2), statistics, base_model="tiny")
    save_transformer(transformer, folder)
    return transformer


def test_dense_models_round_trip_as_diffusers_own(folder: Path) -> None:
    transformer = make_tiny_flux()
    save_transformer(transformer, folder)
    loaded = load_transformer(folder)
    assert type(loaded) is type(transformer)
    assert plan_of(loaded) is None
    assert torch.equal(run(loaded), run(transformer))


@pytest.mark.usefixtures("saved")
def test_a_second_round_trip_changes_nothing(folder: Path, tmp_path: Path) -> None:
    save_transformer(load_transformer(folder), tmp_path / "again")
    assert (tmp_path / "again/config.json").read_text() == (folder / "config.json").read_text()
    assert revision_of(tmp_path / "again") == revision_of(folder)


def test_without_a_plan_our_class_is_the_dense_model() -> None:
    dense = make_tiny_flux()
    ours = FastFluxTransformer2DModel.from_config(dense.config)
    ours.load_state_dict(dense.state_dict())
    assert torch.equal(run(ours.eval()), run(dense))


@pytest.mark.usefixtures("saved")
def test_the_folder_of_this_machine_is_not_recorded(folder: Path, tmp_path: Path) -> None:
    save_transformer(load_transformer(folder), tmp_path / "again")
    assert str(tmp_path) not in (tmp_path / "again/config.json").read_text()


def test_existing_folders_are_kept_unless_told_otherwise(saved: Any, folder: Path) -> None:
    with pytest.raises(FastFluxError, match="exists already"):
        save_transformer(saved, folder)
    save_transformer(saved, folder, overwrite=True)
    assert [path.name for path in folder.parent.iterdir()] == ["transformer"]


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    """Changes the weights in a folder."""

    def edit(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS, metadata={"format": "pt"})

    return edit


def cut(length: int) -> Callable[[Path], object]:
    return lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:length])


def config(**changes: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        held = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**held, **changes}))

    return edit


def planned(*blocks: str) -> Callable[[Path], object]:
    """Lets the config's plan name other blocks."""
    plan = PruningPlan("", "", "linear_replacement", {}).to_json()
    return config(pruning_plan=plan | {"replacements": [{"block": name, "kind": "linear"} for name in blocks]})


SINGLE = [f"single_transformer_blocks.{index}" for index in range(4)]
BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated weights": (cut(9999), "safetensors is truncated or corrupt"),
    "truncated header": (cut(5), "safetensors is truncated or corrupt"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "holds no .safetensors weights"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "There is no .*config.json"),
    "truncated config": (lambda folder: (folder / "config.json").write_text('{"a'), "Cannot read .* as JSON"),
    "config of another kind": (lambda folder: (folder / "config.json").write_text("[]"), "holds no JSON object"),
    "another class": (config(_class_name="FluxTransformer3DModel"), "did you mean"),
    "missing weight": (weights(lambda held: held.pop("proj_out.bias")), "1 missing, first proj_out.bias"),
    "unexpected weight": (weights(lambda held: held.update(spare=torch.zeros(1))), "1 unexpected, first spare"),
    "misshapen weight": (weights(lambda w: w.update({"proj_out.bias": torch.zeros(3)})), "Cannot load the model"),
    "missing shard": (
        lambda folder: (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "part-2.safetensors"}}'),
        "part-2.safetensors is missing",
    ),
    "plan of other blocks": (planned(*SINGLE), "do not fit their config.json|Cannot load the transformer"),
    "plan of a deeper model": (planned("single_transformer_blocks.30"), "no block single_transformer_blocks.30"),
    "plan of another architecture": (planned("layers.0"), "no block layers.0: its stacks are"),
    "no plan": (config(pruning_plan=None), "do not fit their config.json"),
    "plan of a newer version": (config(pruning_plan={"schema_version": 9}), "schema version 9"),
}


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize("breakage", BREAKAGES)
def test_broken_folders_get_one_clear_sentence(breakage: str, folder: Path) -> None:
    break_it, message = BREAKAGES[breakage]
    break_it(folder)
    with pytest.raises(FastFluxError, match=message) as caught:
        load_transformer(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("saved")
def test_from_pretrained_is_strict_too(folder: Path) -> None:
    _, info = FastFluxTransformer2DModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    weights(lambda held: held.pop("proj_out.bias"))(folder)
    with pytest.raises(FastFluxError, match=r"1 missing, first proj_out.bias"):
        FastFluxTransformer2DModel.from_pretrained(folder)


@pytest.mark.usefixtures("saved")
def test_the_dense_class_has_no_values_for_replaced_blocks(folder: Path) -> None:
    dense = FluxTransformer2DModel.from_pretrained(folder)
    assert any(weight.is_meta for weight in dense.parameters())
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        run(dense)


@pytest.mark.usefixtures("saved")
def test_the_dense_class_makes_up_what_it_lacks_where_it_is_told_to(folder: Path) -> None:
    dense, info = FluxTransformer2DModel.from_pretrained(folder, low_cpu_mem_usage=False, output_loading_info=True)
    assert info["missing_keys"], "which diffusers warns of, and the documents too: a folder cannot refuse"
    assert not any(weight.is_meta for weight in dense.parameters())
    assert not torch.allclose(run(dense.eval()), run(load_transformer(folder)), atol=1e-3)
