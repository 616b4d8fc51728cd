"""Block-level offload: the same numbers, each block on the device for its forward alone, also where blocks change."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastflux.calibration.statistics import collect_statistics
from fastflux.cli import main
from fastflux.io.pipelines import load_pipeline
from fastflux.models import offload
from fastflux.models.architecture import architecture_of
from fastflux.models.offload import offload_blocks_
from fastflux.models.surgery import RUNS_ON, get_block, replace_block_
from fastflux.plan import BlockRef, Replacement
from tests.fastflux.conftest import Drive, make_replaced_flux, make_tiny_flux, run, tiny_inputs


def test_a_block_is_brought_for_its_forward_and_unload_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = make_tiny_flux()
    events: list[tuple[str, int]] = []
    load, unload = offload._load, offload._unload
    monkeypatch.setattr(offload, "_load", lambda module, *rest: (events.append(("in", id(module))), load(module)))
    monkeypatch.setattr(offload, "_unload", lambda module, *rest: (events.append(("out", id(module))), unload(module)))
    blocks = [get_block(transformer, block) for block in architecture_of(transformer).chain(transformer)]
    # The hooks' own return values would change the forward.
    for name in ("_load", "_unload"):
        traced = getattr(offload, name)
        monkeypatch.setattr(offload, name, lambda module, *rest, traced=traced: traced(module) and None)
    offload_blocks_(transformer, "cpu")
    run(transformer)
    assert events == [event for block in blocks for event in (("in", id(block)), ("out", id(block)))]
    assert not any(hasattr(module, RUNS_ON) for module in transformer.modules() if module not in blocks)


def test_weights_are_elsewhere_for_the_forward_alone_and_come_home_as_they_left() -> None:
    layer, seen = nn.Linear(3, 3), []
    before = layer.weight.data
    offload.offload_(layer, "meta")
    layer.register_forward_hook(lambda module, *_: seen.append(module.weight.device.type), prepend=True)
    layer(torch.ones(1, 3, device="meta"))
    assert seen == ["meta"]
    assert layer.weight.data_ptr() == before.data_ptr(), "a forward copies nothing back"


def test_out_of_memory_halfway_leaves_the_module_whole_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(3, 3)
    before = layer.weight.data_ptr()
    offload.offload_(layer, "meta")
    to, asked = torch.Tensor.to, []

    def planted(tensor: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        asked.append(tensor)
        if len(asked) == 2:
            raise torch.OutOfMemoryError("planted")
        return to(tensor, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", planted)
        with pytest.raises(torch.OutOfMemoryError):
            offload._load(layer)  # without the hook that would let go behind a forward
    assert len(asked) == 2, "the weight was loaded, the bias was not"
    assert {parameter.device.type for parameter in layer.parameters()} == {"cpu"}
    assert layer.weight.data_ptr() == before
    assert layer(torch.ones(1, 3, device="meta")).is_meta


def test_a_whole_model_runs_with_each_block_brought_to_another_device() -> None:
    """Mixed devices would be an error of torch: there is no number on the meta device, but every place is checked."""
    transformer = make_replaced_flux([1, 3])
    inputs = {name: value.to("meta") for name, value in tiny_inputs(transformer).items()}
    offload_blocks_(transformer, "meta")
    replace_block_(transformer, Replacement(BlockRef("transformer_blocks", 0), "linear"))
    with torch.no_grad():
        assert transformer(**inputs, return_dict=False)[0].is_meta
    chain = architecture_of(transformer).chain(transformer)
    kept = [parameter for block in chain[2:] for parameter in get_block(transformer, block).parameters()]
    assert {parameter.device.type for parameter in kept} == {"cpu"}
    assert next(get_block(transformer, chain[0]).parameters()).is_meta, "a replaced block stays where it runs"


def test_what_training_changed_comes_home() -> None:
    layer = nn.Linear(3, 3)
    offload.offload_(layer, "cpu")
    with offload.resident([layer]), torch.no_grad():
        layer.weight.fill_(2.0)
        layer(torch.ones(1, 3))
    assert torch.equal(layer.weight, torch.full((3, 3), 2.0))


@pytest.mark.gpu
def test_on_a_gpu_only_the_running_block_is_there(drive: Drive) -> None:
    transformer = make_tiny_flux()
    wanted = run(transformer)
    offload_blocks_(transformer, "cuda")
    blocks = [get_block(transformer, block) for block in architecture_of(transformer).chain(transformer)]
    there: list[int] = []
    for block in blocks:
        block.register_forward_hook(lambda *_: there.append(sum(next(b.parameters()).is_cuda for b in blocks)))
    collect_statistics(transformer, drive(transformer))
    assert set(there) <= {0, 1}
    assert torch.allclose(run(transformer).cpu(), wanted, atol=1e-4)


def test_the_command_prunes_offloaded_to_the_same_weights(base: Path, prompts: Path, tmp_path: Path) -> None:
    common = ["prune", str(base), "--blocks", "1", "--prompts", str(prompts), "--steps", "2", "--device", "cpu"]
    for name, extra in (("plain", []), ("offloaded", ["--offload"])):
        assert main([*common, "-o", str(tmp_path / name), *extra]) == 0
    plain, offloaded = (load_pipeline(tmp_path / name).transformer.state_dict() for name in ("plain", "offloaded"))
    assert all(torch.equal(plain[name], offloaded[name]) for name in plain)


def test_what_cannot_be_offloaded_is_said_before_the_work(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prune", str(base), "--method", "l1_norm", "--ratio", "0.1", "--train-steps", "2", "--offload"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 1
    assert "train the model as a whole" in capsys.readouterr().err


def test_modules_that_find_no_room_are_at_home_again(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [nn.Linear(3, 3) for _ in range(2)]
    for layer in layers:
        offload.offload_(layer, "cpu")

    def planted(*_: Any, **__: Any) -> Any:
        monkeypatch.undo()  # the way home is free
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(layers[1], "to", planted)
    with pytest.raises(torch.OutOfMemoryError), offload.resident(layers):
        pytest.fail("there was no room")
    loaded: list[int] = []
    monkeypatch.setattr(offload, "_load", lambda module: loaded.append(id(module)))
    with torch.no_grad():
        for layer in layers:
            layer(torch.ones(3))
    assert loaded == [id(layer) for layer in layers], "they come for their forward as before"
