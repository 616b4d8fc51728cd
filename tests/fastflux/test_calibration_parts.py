"""Calibration in parts: the same statistics, and a killed run goes on behind its last part."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fastflux.__main__ import main
from fastflux.calibration import parts as calibration_parts
from fastflux.calibration.parts import collect_in_parts
from fastflux.calibration.statistics import Statistics, collect_statistics
from fastflux.calibration.trajectories import Trajectories
from fastflux.errors import FastFluxError
from fastflux.io.pipelines import load_pipeline

PROMPTS = ("a red star", "a blue ring", "a green cross", "two stars", "a ring")


@pytest.fixture
def run(base: Path) -> Trajectories:
    return Trajectories(load_pipeline(base), PROMPTS, steps=1, batch_size=2)


def alike(first: Statistics, second: Statistics) -> bool:
    return all(
        torch.allclose(moments.xy, second[block][name].xy, rtol=1e-9, atol=1e-12)
        and moments.count == second[block][name].count
        for block, streams in first.items()
        for name, moments in streams.items()
    )


def test_parts_give_what_one_pass_gives(run: Trajectories, tmp_path: Path) -> None:
    told: list[int] = []
    transformer: Any = run.pipeline.transformer
    parts = collect_in_parts(transformer, run, tmp_path, every=1, advance=told.append)
    assert alike(collect_statistics(transformer, run), parts)
    assert sum(told) == len(PROMPTS)
    assert [path.name.rpartition("-")[2] for path in tmp_path.iterdir()] == ["5.safetensors"]


def test_a_killed_pass_goes_on_behind_its_last_part(run: Trajectories, tmp_path: Path) -> None:
    def die(done: int) -> None:
        told.append(done)
        if len(told) == 3:
            raise KeyboardInterrupt

    told: list[int] = []
    transformer: Any = run.pipeline.transformer
    with pytest.raises(KeyboardInterrupt):
        collect_in_parts(transformer, run, tmp_path, every=2, advance=die)
    told.clear()
    again = collect_in_parts(transformer, run, tmp_path, every=2, advance=told.append)
    assert told == [2, 2, 1], "the first two prompts were done"
    assert alike(collect_statistics(transformer, run), again)


def test_parts_of_another_precision_are_not_taken(
    run: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer: Any = run.pipeline.transformer
    told: list[int] = []
    collect_in_parts(transformer, run, tmp_path, every=2)
    monkeypatch.setattr(calibration_parts, "exact_by_default", lambda *_: False)
    collect_in_parts(transformer, run, tmp_path, every=2, advance=told.append)
    assert told == [0, 2, 2, 1]


def test_a_method_without_statistics_refuses_to_save_them(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prune", str(base), "--method", "sandwich_training", "--blocks", "1", "--save-every", "2"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 1
    assert "sandwich_training collects none: leave it away" in " ".join(capsys.readouterr().err.split())


def test_parts_of_other_weights_or_prompts_are_not_taken(run: Trajectories, tmp_path: Path) -> None:
    transformer: Any = run.pipeline.transformer
    collect_in_parts(transformer, run, tmp_path, every=2)
    told: list[int] = []
    with torch.no_grad():
        transformer.proj_out.weight.mul_(2.0)
    collect_in_parts(transformer, run, tmp_path, every=2, advance=told.append)
    assert told[0] == 0
    with pytest.raises(FastFluxError, match="every 0 prompts"):
        collect_in_parts(transformer, run, tmp_path, every=0)


def test_the_command_prunes_to_the_same_weights(base: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS[:3]))
    common = ["prune", str(base), "--blocks", "1", "--prompts", str(prompts), "--steps", "1", "--device", "cpu"]
    for name, extra in (("plain", []), ("parts", ["--save-every", "1"])):
        assert main([*common, "-o", str(tmp_path / name), *extra]) == 0
    plain, parts = (load_pipeline(tmp_path / name).transformer.state_dict() for name in ("plain", "parts"))
    assert all(torch.equal(plain[name], parts[name]) for name in plain)
    assert not list(tmp_path.rglob("statistics-*"))
