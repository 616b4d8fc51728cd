"""`python -m bench regress` on the committed weights with little training: what it catches, refuses and leaves."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

import bench.regression.run
from bench.cli import main
from bench.metrics.cost.timing import OtherWork
from bench.profiles.profile import load_profile
from bench.regression.baseline import NoVerdictError, Snapshot
from bench.regression.history import read_history
from bench.regression.run import Options, _look_around
from bench.regression.suite import render_hashes, threads
from bench.run.base_model import BaseModel
from bench.shapes import WEIGHTS
from fastflux.calibration.trajectories import Trajectories
from fastflux.io.checkpoint import load_transformer, read_ranking, save_transformer
from fastflux.io.pipelines import export_pipeline
from fastflux.methods.sandwich_training import SandwichTrainingConfig
from fastflux.models.sublayers import LinearReplacementBlock
from fastflux.pruning import prune_

VARIANT = "trained"
#: Sandwich Training at its shortest.
TRAINING = {"blocks": 8, "samples": 64, "steps": 25, "batch": 16, "lr": 3e-3, "linear_lr": 1e-3}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model trained on few prompts for 8 seconds (model), and its baseline (baseline.json)."""
    folder = tmp_path_factory.mktemp("regress")
    profile = load_profile("shapes")
    base = BaseModel(profile, folder)
    base.pipeline.transformer = model = base.dense()
    prompts = [prompt.prompt for prompt in base.calibration_prompts[:32]]
    drive = Trajectories(base.pipeline, prompts, steps=4, guidance=3.0, batch_size=32, height=64, width=64, seed=1)
    ranking = read_ranking(Path(profile.methods["sandwich_training"]["ranking"]))
    with threads(1):
        prune_(model, SandwichTrainingConfig(ranking=ranking, **TRAINING), drive, base_revision=base.revision)
    save_transformer(model, folder / "model")
    assert regress(folder, "--update", "--reason", "a test") == 0
    return folder


def regress(
    folder: Path, *arguments: str, model: Path | None = None, out: Path | None = None, baseline: Path | None = None,
    name: str = VARIANT, rounds: int = 2,
) -> int:  # fmt: skip
    """The command on five prompts of each HPS style, with few steps and rounds; `folder` is the fixture's."""
    given = ["--model", f"{name}={model or folder / 'model'}", "--baseline", str(baseline or folder / "baseline.json")]
    changes = ("sampling.steps=4", 'without=["metrics.geneval"]', 'prompts=["prompts/shapes/hps.jsonl"]')
    fewer = ["--limit", "5", "--rounds", str(rounds), *(part for change in changes for part in ("--set", change))]
    return main(["regress", *given, *fewer, "--out", str(out or folder), *arguments])


def outcomes(folder: Path) -> dict[str, str]:
    """By check, "failure", "error" or "" from the JUnit XML of the last run."""
    cases = ET.parse(folder / "junit.xml").getroot().iter("testcase")  # noqa: S314  # our own file
    return {str(case.get("name")): next((kind for kind in ("failure", "error") if case.find(kind) is not None), "")
            for case in cases}  # fmt: skip


def worse(folder: Path) -> set[str]:
    return {name for name, outcome in outcomes(folder).items() if outcome == "failure"}


# -- without a change


@pytest.mark.slow
def test_a_baseline_holds_all_that_a_comparison_needs(place: Path) -> None:
    baseline = Snapshot.read(place / "baseline.json")
    assert baseline.reason == "a test"
    assert [record.variant for record in baseline.records] == ["dense", VARIANT]
    assert len(baseline.yardstick_ms) == 8
    for record in baseline.records:
        hps, latency = record.measurement("hps"), record.measurement("latency")
        assert len(hps.samples) == 20
        assert len(latency.samples["ms"]) == 8
        assert record.environment["device"] == baseline.device
        assert {"prompts", "steps"} <= record.sampling.keys()
        assert record.inputs["scorers"]
        assert record.base_revision
    assert set(baseline.render) == {"dense", VARIANT}


@pytest.mark.slow
def test_without_a_change_everything_passes_and_is_told_in_all_forms(place: Path, capsys: Any) -> None:
    before = len(read_history([place / "history.jsonl"]))
    assert regress(place, "--checks", "quality,cost,render") == 0
    assert set(outcomes(place).values()) == {""}
    assert (place / "summary.md").read_text().startswith("### Regression checks: PASSED: 14 passed")
    assert "PASSED: 14 passed" in capsys.readouterr().out
    assert len(read_history([place / "history.jsonl"])) == before + 1
    assert Snapshot.read(place / "run.json").reason == ""


# -- planted faults: each is caught, and by nothing that it does not concern


@pytest.mark.slow
def test_hashes_are_the_same_for_any_number_of_threads_and_change_with_a_weight(tmp_path: Path) -> None:
    base = BaseModel(load_profile("shapes", {"sampling.steps": "2"}), tmp_path)
    prompts = base.calibration_prompts[:2]
    model = base.dense()
    first = render_hashes(base, {"dense": model}, prompts)
    with threads(2):
        assert render_hashes(base, {"dense": model}, prompts) == first
    with torch.no_grad():
        model.proj_out.weight.mul_(1.05)  # type: ignore[operator, union-attr]
    assert set(render_hashes(base, {"dense": model}, prompts)["dense"].values()).isdisjoint(first["dense"].values())


@pytest.mark.slow
def test_weights_rounded_too_far_are_caught_by_quality_alone(place: Path, tmp_path: Path) -> None:
    """To two bits, in an exported pipeline. Finer faults are held against whole records (test_regression_verdicts)."""
    model = load_transformer(place / "model")
    with torch.no_grad():
        for weight in (weight for weight in model.parameters() if weight.ndim == 2):
            step = weight.abs().max() / 2
            weight.copy_((weight / step).round() * step)
    export_pipeline(WEIGHTS / "pipeline", model, tmp_path / "rounded")
    assert regress(place, "--checks", "quality,cost", model=tmp_path / "rounded", out=tmp_path) == 1
    assert f"{VARIANT} HPS averaged" in worse(tmp_path) <= {f"{VARIANT} HPS averaged", f"{VARIANT} CLIP score"}
    summary = (tmp_path / "summary.md").read_text()
    assert "REGRESSED" in summary
    assert summary.index("**regressed**") < summary.index("| passed |")


@pytest.mark.slow
def test_a_slower_block_and_one_more_product_are_caught_by_latency_and_flops_alone(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    forward = LinearReplacementBlock.forward

    def slower(self: LinearReplacementBlock, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Elementwise work, which counts no FLOPs, and a product that takes no time; the result is unchanged."""
        for _ in range(100):
            hidden_states.exp()
        torch.mm(hidden_states.new_ones(1, 1), hidden_states.new_ones(1, 1))
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(LinearReplacementBlock, "forward", slower)
    assert regress(place, "--checks", "latency,cost", out=tmp_path) == 1
    assert worse(tmp_path) == {f"{VARIANT} latency ratio to dense", f"{VARIANT} FLOPs"}
    assert "latency is open after 2 rounds: 2 more" in capsys.readouterr().err
    [dense, *_] = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["records"]
    measured = {measurement["info"]["name"] for measurement in dense["measurements"]}
    assert measured == {"flops", "parameters", "memory", "latency"}, "and none of an earlier run"


# -- no verdict: never "passed", and before the long work


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.regression.run, "_measure", lambda *_: pytest.fail("the long work began"))


def refused(folder: Path, words: str, capsys: Any) -> None:
    """The end of a run without a verdict: told on stderr, in the summary and in the JUnit XML."""
    assert words in " ".join(capsys.readouterr().err.split())
    assert "NO VERDICT" in (folder / "summary.md").read_text()
    assert outcomes(folder) == {"verdict": "error"}


def rewritten(place: Path, folder: Path, value: object, *way: str | int) -> Path:
    """A copy of the baseline with another value in a place."""
    data = inner = json.loads((place / "baseline.json").read_text())
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    (folder / "other.json").write_text(json.dumps(data))
    return folder / "other.json"


@pytest.mark.slow
def test_no_baseline(place: Path, tmp_path: Path, no_work: None, capsys: Any) -> None:
    assert regress(place, baseline=tmp_path / "absent.json", out=tmp_path) == 1
    refused(tmp_path, "make one with --update", capsys)
    (tmp_path / "folder").mkdir()
    assert regress(place, baseline=tmp_path / "folder", out=tmp_path) == 1


@pytest.mark.slow
def test_an_update_never_loses_what_the_baseline_holds(place: Path, tmp_path: Path, no_work: None, capsys: Any) -> None:
    records = json.loads((place / "baseline.json").read_text())["records"]
    fuller_one = rewritten(place, tmp_path, [*records, {**records[1], "variant": "fastflux-20"}], "records")
    before = (tmp_path / "other.json").read_text()
    assert regress(place, "--update", "--reason", "fewer", baseline=fuller_one, out=tmp_path) == 1
    assert "holds fastflux-20 too" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "other.json").read_text() == before


@pytest.mark.slow
def test_an_update_takes_the_place_of_what_another_scorer_judged(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    now = Snapshot.read(place / "baseline.json")
    scorers = {measurement.info.name: index for index, measurement in enumerate(now.dense.measurements)}
    way = ("records", 0, "measurements", scorers["hps"], "settings", "weights_sha256")
    earlier = rewritten(place, tmp_path, "others", *way)
    monkeypatch.setattr(bench.regression.run, "_measure", lambda *_: now)
    assert regress(place, baseline=earlier, out=tmp_path) == 1  # no verdict without --update
    assert regress(place, "--update", "--reason", "another scorer", baseline=earlier, out=tmp_path) == 0
    assert "not compared: hps of the baseline was scored by something else" in " ".join(capsys.readouterr().err.split())
    assert Snapshot.read(earlier).reason == "another scorer"
    assert Snapshot.read(earlier).records == now.records


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "value", "words"),
    [
        (("schema_version",), 99, "schema version 99"),
        (("records",), None, "is no whole one"),
        (("yardstick_ms",), [1.0], "is no whole one"),
        (("records", 0, "sampling", "prompts"), "others", "sampling's prompts (others there"),
        (("records", 0, "base_revision"), "others", "the base model's weights (others there"),
        (("suite", "threads"), 7, "the suite's threads (7 there, 1 here)"),
    ],
)
def test_a_baseline_of_something_else(
    place: Path, tmp_path: Path, no_work: None, capsys: Any, way: tuple[str | int, ...], value: object, words: str
) -> None:
    assert regress(place, baseline=rewritten(place, tmp_path, value, *way), out=tmp_path) == 1
    refused(tmp_path, words, capsys)


@pytest.mark.slow
def test_a_baseline_cut_short(place: Path, tmp_path: Path, no_work: None, capsys: Any) -> None:
    (tmp_path / "cut.json").write_text((place / "baseline.json").read_text()[:500])
    assert regress(place, baseline=tmp_path / "cut.json", out=tmp_path) == 1
    refused(tmp_path, "cannot be read", capsys)


@pytest.mark.slow
def test_a_variant_that_the_baseline_lacks(place: Path, tmp_path: Path, no_work: None, capsys: Any) -> None:
    assert regress(place, name="another", out=tmp_path) == 1
    refused(tmp_path, f"holds {VARIANT}, not another", capsys)


@pytest.mark.slow
def test_a_baseline_of_another_device(place: Path, tmp_path: Path, no_work: None, capsys: Any) -> None:
    changed = rewritten(place, tmp_path, "another CPU", "records", 0, "environment", "device")
    assert regress(place, baseline=changed, out=tmp_path) == 1
    refused(tmp_path, "--checks quality,cost", capsys)
    with pytest.raises(pytest.fail.Exception, match="the long work began"):  # what does not depend on the device
        regress(place, "--checks", "quality,cost", baseline=changed, out=tmp_path)


@pytest.mark.parametrize(("device", "require"), [("cuda", False), ("cpu", True)])
def test_a_busy_device(monkeypatch: pytest.MonkeyPatch, device: str, require: bool) -> None:
    run: Any = SimpleNamespace(device=device)
    monkeypatch.setattr(bench.regression.run, "other_work", lambda _: OtherWork(busy=True, text="97% utilised"))
    with pytest.raises(NoVerdictError, match="97% utilised"):
        _look_around(run, Options(require_idle=require))
    monkeypatch.setattr(bench.regression.run, "other_work", lambda _: OtherWork(busy=None, text="not told"))
    with pytest.raises(NoVerdictError, match="not told"):
        _look_around(run, Options(require_idle=True))


def test_other_work_on_a_cpu_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.regression.run, "other_work", lambda _: OtherWork(busy=True, text="other work takes 40%"))
    run: Any = SimpleNamespace(device="cpu")
    assert _look_around(run, Options()) == "other work takes 40%"


@pytest.mark.slow
def test_a_model_of_another_base_or_none_is_an_error(place: Path, tmp_path: Path, no_work: None, capsys: Any) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in (place / "model").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    config = json.loads((model / "config.json").read_text())
    config["pruning_plan"]["base_revision"] = "others"
    (model / "config.json").write_text(json.dumps(config))
    assert regress(place, model=model, out=tmp_path) == 1
    refused(tmp_path, "was pruned from the weights others", capsys)
    assert regress(place, model=tmp_path / "nowhere", out=tmp_path) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--update"], "--update needs --reason"),
        (["--model", "mine"], "--model needs --baseline"),
        (["--checks", "beauty"], "no kind of checks 'beauty'"),
        (["--tolerance", "hps=much"], "--tolerance hps=much: expected a number"),
        (["--tolerance", "beauty=1"], "Unknown tolerance 'beauty'"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--model", "a=b", "--variants", "l1-12", "--baseline", "c.json"], "--model or --variants, not both"),
        (["--model", "dense=b", "--baseline", "c.json"], "none dense"),
        (["--model", "a=b", "--model", "a=c", "--baseline", "c.json"], "a name of its own"),
    ],
)
def test_command_lines_that_make_no_sense(
    arguments: Sequence[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["regress", *arguments]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_a_busy_machines_snapshot_survives_its_file(tmp_path: Path) -> None:
    from tests.bench.made_snapshots import made_snapshot

    snapshot = replace(made_snapshot(noise=0.1), reason="why")
    snapshot.write(tmp_path / "deep" / "b.json")
    assert Snapshot.read(tmp_path / "deep" / "b.json") == snapshot


def test_a_crash_is_no_regression_and_leaves_no_earlier_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("summary.md", "junit.xml", "run.json"):
        (tmp_path / name).write_text("PASSED", encoding="utf-8")

    def crash(*_: object) -> int:
        left = {path.name for path in tmp_path.iterdir()} - {".lock"}
        assert not left, "what an earlier run told is gone before anything is measured"
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(bench.regression.run, "_regress", crash)
    with pytest.raises(RuntimeError):
        bench.regression.run.regress(Options(out=tmp_path))
    assert "out of memory" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert ET.parse(tmp_path / "junit.xml").getroot().get("errors") == "1"  # noqa: S314  # written by us
