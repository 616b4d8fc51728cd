"""The suite's parts: what is kept between runs, whose baseline is found, the clock and the yardstick."""

import ast
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import bench.regression.suite
import bench.regression.yardstick
from bench.profiles.profile import ROOT
from bench.progress import announce
from bench.records.environment import sha256_of_sources
from bench.regression.baseline import NoVerdictError, find_baseline, require_kinds, require_same_device, slug
from bench.regression.inputs import Suite
from bench.regression.suite import OwnTime, SuiteRun
from bench.regression.yardstick import Yardstick
from fastflux.errors import FastFluxError
from tests.bench.made_snapshots import made_snapshot
from tests.fastflux.tiny_pipeline import write_tiny_pipeline


def test_pruned_models_are_kept_until_the_code_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = (ROOT / "prompts" / "shapes" / "calibration.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "prompts.jsonl").write_text("".join(prompts[:4]))
    write_tiny_pipeline(tmp_path / "pipeline")
    orders = ("linear_replacement", "block_removal", "sandwich_training")
    changes = {f"methods.{method}.ranking": "start2end" for method in orders} | {
        "pipeline": str(tmp_path / "pipeline"), "calibration_prompts": str(tmp_path / "prompts.jsonl"),
    }  # fmt: skip

    def run() -> SuiteRun:
        return SuiteRun(Suite(variants=("brll-10",), limit=1), tmp_path / "run", changes=changes)

    first = run()
    assert not first.is_pruned
    first.prune()
    assert first.is_pruned
    assert run().is_pruned
    for version in ("1", "2"):
        monkeypatch.setattr(bench.regression.suite, "sha256_of_sources", lambda _, version=version: version)
        changed = run()
        assert not changed.is_pruned
        changed.prune()
    assert len(list((tmp_path / "run").glob("models-*"))) == 2


def test_the_hash_of_sources_changes_with_any_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "deep" / "b.py").write_text("y = 1\n")
    before = sha256_of_sources(tmp_path)
    (tmp_path / "deep" / "b.py").write_text("y = 2\n")
    assert sha256_of_sources(tmp_path) != before


@pytest.mark.parametrize("variant", ["fastsd3-10", "l1_equal-10"])
def test_variants_that_cannot_be_checked_are_refused(tmp_path: Path, variant: str) -> None:
    with pytest.raises(FastFluxError, match="is no variant for regression checks"):
        SuiteRun(Suite(variants=(variant,)), tmp_path)


def test_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match="did you mean 'fastflux-1"):
        SuiteRun(Suite(variants=("fastflux-1",)), tmp_path)


def test_the_baseline_of_this_device_comes_first(tmp_path: Path) -> None:
    with pytest.raises(NoVerdictError, match=r"a-cpu/shapes\.json"):
        find_baseline(tmp_path, "A CPU!", "shapes")
    for device in ("a-cpu", "another"):
        (tmp_path / device).mkdir()
        (tmp_path / device / "shapes.json").touch()
    assert find_baseline(tmp_path, "A CPU!", "shapes").parent.name == "a-cpu"
    assert find_baseline(tmp_path, "Another (R)", "shapes").parent.name == "a-cpu"  # told apart by what it holds
    assert slug("AMD EPYC 7763 64-Core") == "amd-epyc-7763-64-core"


def test_another_device_matters_to_what_depends_on_it() -> None:
    snapshot = made_snapshot()
    require_same_device(snapshot, "another CPU", ["quality", "cost"])
    require_same_device(snapshot, "a CPU", ["latency"])
    with pytest.raises(NoVerdictError, match="latency and render cannot be compared"):
        require_same_device(snapshot, "another CPU", ["quality", "latency", "render"])


def test_kinds_are_known_and_in_order() -> None:
    assert require_kinds(["cost", "quality"]) == ("quality", "cost")
    with pytest.raises(FastFluxError, match="no kind of checks 'beauty'"):
        require_kinds(["beauty"])


def test_stages_tell_the_time_that_is_left(capsys: Any) -> None:
    done: list[str] = []
    announce({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, {"a": 100.0, "b": 200.0})
    told = capsys.readouterr().err
    assert "1/2 a, about 5 min left" in told
    assert "2/2 b, about 3 min left" in told
    assert done == ["a", "b"]


def test_the_clock_leaves_out_waiting_for_a_core_and_nothing_else(tmp_path: Path) -> None:
    stat = tmp_path / "schedstat"
    stat.write_text("1000 2000000000 3\n")
    clock = OwnTime(stat)
    began, wall = clock(), time.perf_counter()
    time.sleep(0.05)
    stat.write_text("1000 2040000000 4\n")  # 40 ms of these it had to wait
    assert clock() - began == pytest.approx(time.perf_counter() - wall - 0.04, abs=0.02)
    assert clock.__name__ == "perf_counter less waiting for a core"


def test_without_the_systems_word_the_clock_is_the_walls(tmp_path: Path) -> None:
    clock = OwnTime(tmp_path / "absent")
    assert clock() == pytest.approx(time.perf_counter(), abs=0.5)
    assert clock.__name__ == "perf_counter"


def test_the_yardstick_is_the_same_work_each_time_and_none_of_our_code() -> None:
    step = Yardstick(batch=2, tokens=5, dim=8, layers=3)
    first = step()
    assert first.shape == (2, 5, 8)
    assert torch.equal(first, Yardstick(2, 5, 8, 3)())
    assert torch.isfinite(first).all()
    tree = ast.parse(Path(bench.regression.yardstick.__file__).read_text())
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert modules == {"dataclasses", "torch", "torch.nn"}


def test_a_step_that_fails_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = SuiteRun(Suite(variants=("l1-12",), limit=1), tmp_path)
    monkeypatch.setattr(
        bench.regression.suite,
        "interleave",
        lambda *_, **__: SimpleNamespace(times={}, faults={"l1-12": "out of memory"}),
    )
    run.__dict__["models"] = {"dense": run.evaluation.main.outline.transformer}
    monkeypatch.setattr(run.evaluation.main, "step_inputs", lambda *_: {
        "hidden_states": torch.zeros(1, 4, 4), "encoder_hidden_states": torch.zeros(1, 2, 4),
    })  # fmt: skip
    with pytest.raises(FastFluxError, match="l1-12 cannot be timed: out of memory"):
        run.time(1)
