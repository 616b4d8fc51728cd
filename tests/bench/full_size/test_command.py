"""`python -m bench full_size` as a whole at reduced width on the CPU: pieces, kills, budgets, bad input."""

import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from msgspec import structs

from bench.cli import main
from bench.records.results import Measurement, MetricInfo, RunRecord, read_records
from bench.run import units
from bench.studies.full_size import calibrating, counting, equal, latency, replacement, run, workbench
from bench.studies.full_size.run import Ending, full_size
from bench.studies.full_size.variants import full_size_variants
from fastflux.errors import FastFluxError
from reports.full_size.document import full_size_document
from tests.bench.full_size.tiny import TINY

CHOSEN = ("dense", "fastflux-20", "run-20", "run_folded-20", "l1-4of24")
STAGES = (
    "flops", "replacement", "equal-latency", "latency-32", "cuda-graphs", "step-profile", "end-to-end", "calibration",
    "prune-20",
)  # fmt: skip


def small(runs: Path, **options: Any) -> bool:
    """Whether all was measured."""
    return ended(runs, **options) == Ending.MEASURED


def ended(runs: Path, **options: Any) -> Ending:
    return full_size(**{"changes": TINY, "device": "cpu", "dtype": "float32", "runs": runs, **options})


def place(runs: Path) -> Path:
    (folder,) = (runs / "flux-dev-random").iterdir()
    return folder


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few variants."""
    patch(monkeypatch)


def patch(monkeypatch: pytest.MonkeyPatch, chosen: tuple[str, ...] = CHOSEN) -> None:
    monkeypatch.setattr(
        workbench, "full_size_variants", lambda sizes: [v for v in full_size_variants(sizes) if v.id in chosen]
    )
    monkeypatch.setattr(equal, "SEARCH", {"tolerance": 0.02, "rounds": 1, "final_rounds": 1, "candidates": 2})


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages but the compiled one, whose steps are `test_compiled`, and the scorers."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(monkeypatch)
        assert small(runs, stages=STAGES)
    return runs


@pytest.fixture
def done(ran: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(ran, tmp_path, dirs_exist_ok=True))


@pytest.fixture
def calibrated(done: Path) -> Path:
    """The same before its blocks are pruned."""
    for name in ("prune-20", "progress"):
        shutil.rmtree(place(done) / name)
    return done


def records(runs: Path) -> dict[str, RunRecord]:
    return {record.variant: record for record in read_records(place(runs) / "records")}


def test_every_stage_measures(ran: Path) -> None:
    found = records(ran)
    assert set(found) == {*CHOSEN, "l1_equal-20", "replacement"}
    wanted = {
        "dense": {"flops_by_block", "parameters", "latency_32x32", "memory_32x32", "latency_32x32_graphs",
                  "latency_end_to_end", "memory_end_to_end", "calibration_cost", "calibration_precision",
                  "step_profile_32x32"},
        "fastflux-20": {"ranking_cost", "pruning_cost", "pruning_cost_by_block", "latency_32x32", "latency_end_to_end"},
        "l1_equal-20": {"equal_latency", "flops_by_block", "parameters", "latency_32x32", "memory_32x32",
                        "latency_end_to_end"},
        "replacement": {"replacement_block_32x32"},
    }  # fmt: skip
    for variant, names in wanted.items():
        status = {item.info.name: (item.status, item.reason) for item in found[variant].measurements}
        assert names <= status.keys(), variant
        # No CUDA here: graphs are skipped, and say why.
        assert {name for name in status if status[name][0] != "ok"} <= {
            f"latency_32x32{way}" for way in ("_graphs", "_compiled_graphs")
        }, status


def test_parameters_flops_and_times_are_of_the_same_model(ran: Path) -> None:
    found = records(ran)
    fast = found["fastflux-20"]
    plan = fast.plan
    assert len(plan["replacements"]) == 2  # type: ignore[arg-type]  # a list
    counted = fast.measurement("flops_by_block")
    assert counted.settings["blocks"]["linear"] == 2  # type: ignore[index,call-overload]
    cost = found["fastflux-20"].measurement("pruning_cost_by_block")
    assert len(cost.samples["seconds"]) == 2
    calibration = found["dense"].measurement("calibration_cost")
    assert (calibration.values["samples"], calibration.values["forwards"]) == (6, 3)
    assert calibration.values["ratio"] == pytest.approx(
        sum(calibration.samples["statistics/ms"]) / sum(calibration.samples["plain/ms"])
    )


def test_models_of_equal_latency_are_timed_beside_their_targets_in_every_later_stage(ran: Path) -> None:
    record = records(ran)["l1_equal-20"]
    assert record.label == "L1-norm at the latency of FastFLUX-20%"
    found = record.measurement("equal_latency")
    plan = record.plan
    assert {"heads": found.values["heads"], "mlp_channels": found.values["mlp_channels"]}.items() <= plan[
        "config"
    ].items()  # type: ignore[union-attr]
    for name in ("latency_32x32", "latency_end_to_end"):
        timed = record.measurement(name)
        assert timed.settings["target"] == "fastflux-20"
        assert {"dense", "fastflux-20", "l1_equal-20"} <= set(timed.settings["together"])  # type: ignore[arg-type]
        assert timed.values["ratio_to_target"] > 0
    counted = record.measurement("flops_by_block")
    assert counted.values["32x32.ratio_to_dense"] == found.values["flops_ratio_to_dense"]


def test_a_search_that_failed_leaves_nothing_to_time_and_what_it_finds_is_timed_by_stages_settled_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(*_: Any, **__: Any) -> Any:
        raise FastFluxError("no latency can be met")

    assert small(tmp_path, stages=["latency-32"])
    assert "l1_equal-20" not in records(tmp_path)
    with monkeypatch.context() as context:
        context.setattr(equal, "search_equal_latency", planted)
        assert ended(tmp_path, stages=["equal-latency", "latency-32"]) == Ending.FAILED
    found = records(tmp_path)["l1_equal-20"].measurements
    assert [(item.info.name, item.status) for item in found] == [("equal_latency", "failed")]
    assert small(tmp_path, stages=["equal-latency", "latency-32"], retry=True)
    timed = records(tmp_path)["l1_equal-20"].measurement("latency_32x32")
    assert timed.settings["together"] == ["dense", "l1_equal-20", "fastflux-20"], "its target alone is timed again"


def test_a_search_that_is_taken_again_lets_go_of_what_was_timed(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = equal.search_equal_latency
    found = records(done)["l1_equal-20"].measurement("equal_latency")
    heads = 3 - int(found.values["heads"])  # of the two that there are

    def other(*arguments: Any, **options: Any) -> Any:
        return structs.replace(search(*arguments, **options), heads=heads)

    monkeypatch.setattr(equal, "search_equal_latency", other)
    built: list[Any] = []
    build = latency.build
    monkeypatch.setattr(latency, "build", lambda variant, *rest: (built.append(variant), build(variant, *rest))[1])
    (place(done) / "equal-latency" / "fastflux-20.json").unlink()
    assert small(done, stages=["equal-latency", "latency-32"])
    assert [variant.widths[0] for variant in built if variant.target] == [heads], "the model found now is timed"
    assert len([1 for path in place(done).glob("latency-32/*.json") if "l1_equal" in path.read_text()]) == 1


def test_a_retry_in_small_budgets_comes_to_an_end_though_it_fails_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out")

    monkeypatch.setattr(replacement, "_measure", planted)
    changes = TINY | {"random.resolutions": "[32, 64, 96]"}
    options: dict[str, Any] = {"stages": ["replacement"], "changes": changes}
    assert ended(tmp_path, **options) == Ending.FAILED
    monkeypatch.setattr(units.Budget, "left", property(lambda _self: 0.0))
    endings = [ended(tmp_path, **options, budget=1.0, retry=first) for first in (True, False, False)]
    assert endings == [Ending.LEFT, Ending.LEFT, Ending.FAILED]


def test_what_is_done_is_not_done_again(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def notes() -> dict[Path, int]:
        paths = (path for stage in STAGES for path in (place(ran) / stage).glob("*.json"))
        return {path: path.stat().st_mtime_ns for path in paths}

    before = notes()
    assert len(before) > len(STAGES)
    assert small(ran, stages=STAGES)
    assert notes() == before
    assert capsys.readouterr().err.count("done before") == len(STAGES)


def test_its_document_has_every_table(ran: Path) -> None:
    text = full_size_document(place(ran) / "records")
    for title in ("FLOPs and parameters", "One step at 32x32, eager", "Folded and merged export",
                  "L1-norm pruning at equal latency", "Models of equal latency beside their targets",
                  "Where a step's time goes at 32x32, by block", "Where a step's time goes at 32x32, by operation",
                  "Whole pipeline calls", "A replaced block at 32x32", "Cost of pruning"):  # fmt: skip
        assert f"### {title}" in text
    assert "say nothing of quality" in text


def test_a_killed_run_goes_on_at_its_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_bench: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(calibrating, "_precision", killed)
        with pytest.raises(KeyboardInterrupt):
            small(tmp_path, stages=["calibration"])
    monkeypatch.setattr(calibrating, "_collect", lambda _bench: pytest.fail("the pass was taken again"))
    assert small(tmp_path, stages=["calibration"])
    assert records(tmp_path)["dense"].measurement("calibration_cost").values["samples"] == 6  # type: ignore[union-attr]


def test_blocks_of_an_order_that_was_found_before_are_not_counted(done: Path) -> None:
    (progress,) = {path.parent for path in place(done).rglob("progress/*/*.safetensors")}
    older = progress.with_name("another-order")
    shutil.copytree(progress, older)
    for path in older.iterdir():
        os.utime(path, (1, 1))
    (piece,) = (path for path in (place(done) / "prune-20").glob("*.json") if "whole" in path.read_text()[:9999])
    piece.unlink()
    assert small(done, stages=["calibration", "prune-20"])
    cost = records(done)["fastflux-20"].measurement("pruning_cost_by_block")
    assert cost.values["blocks"] == 2


def test_a_model_just_made_runs_once_untimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards: list[str] = []
    forward = calibrating._forward

    def counted(*arguments: Any) -> Any:
        inner = forward(*arguments)
        return lambda: (forwards.append("ran"), inner())[1]

    monkeypatch.setattr(calibrating, "_forward", counted)
    assert small(tmp_path, stages=["calibration"])
    batches = 3
    assert len(forwards) == (1 + 2 * batches) + (1 + 3 * batches), "the pass, and the check of its precision"
    precision = records(tmp_path)["dense"].measurement("calibration_precision")
    for kind in ("float64", "bfloat16"):
        ridges = [value for name, value in precision.values.items() if name.endswith(f".{kind}.ridge")]
        assert len(ridges) == 2
        assert all(ridge == 1e-6 if kind == "float64" else 1e-6 <= ridge <= 1e-3 for ridge in ridges)


def test_blocks_are_not_pruned_behind_a_calibration_without_memory_but_by_a_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(_bench: Any) -> Any:
        raise torch.OutOfMemoryError("out")

    with monkeypatch.context() as context:
        context.setattr(calibrating, "_collect", planted)
        assert ended(tmp_path, stages=["calibration", "prune-20"]) == Ending.FAILED
    cost = records(tmp_path)["fastflux-20"].measurement("pruning_cost")
    assert (cost.status, cost.reason) == ("failed", "the stage calibration failed (out of memory: out)")
    assert small(tmp_path, stages=["calibration", "prune-20"], retry=True)


def test_statistics_that_are_lost_behind_a_finished_pass_are_collected_again(calibrated: Path) -> None:
    statistics = place(calibrated) / "statistics.safetensors"
    statistics.unlink()
    with pytest.raises(FastFluxError, match="needs the statistics of the stage calibration"):
        small(calibrated, stages=["prune-20"])
    assert small(calibrated, stages=["calibration", "prune-20"])
    assert statistics.exists()
    statistics.unlink()
    before = {path: path.stat().st_mtime_ns for path in place(calibrated).glob("calibration/*.json")}
    assert small(calibrated, stages=["calibration", "prune-20"])
    assert {path: path.stat().st_mtime_ns for path in place(calibrated).glob("calibration/*.json")} == before, (
        "not needed"
    )


def test_an_error_of_ours_ends_a_piece_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_: Any, **__: Any) -> Any:
        raise FastFluxError("The normal equations are singular.")

    monkeypatch.setattr(calibrating, "fit_blocks", planted)
    assert ended(tmp_path, stages=["calibration", "prune-20"]) == Ending.FAILED
    found = records(tmp_path)
    precision = found["dense"].measurement("calibration_precision")
    assert (precision.status, precision.reason) == ("failed", "The normal equations are singular.")
    assert found["fastflux-20"].measurement("pruning_cost").status == "ok"  # type: ignore[union-attr]


def test_pruning_stops_behind_a_block_when_the_budget_is_spent(
    calibrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = SimpleNamespace(now=False)

    class Clock(run.Budget):
        def require(self, seconds: float = 0.0) -> None:
            if spent.now and seconds:
                raise run.BudgetSpentError("the time given by --budget is spent")

    monkeypatch.setattr(run, "Budget", Clock)
    monkeypatch.setattr(run.Store, "longest", lambda _self, _stage: 0.0)  # so that just the blocks ask for seconds
    spent.now = True
    assert not small(calibrated, stages=["prune-20"], budget=1000.0)
    files = list(place(calibrated).rglob("progress/*/*.safetensors"))
    assert [path.name[:3] for path in files] == ["000"]
    made = files[0].stat().st_mtime_ns
    spent.now = False
    assert small(calibrated, stages=["prune-20"])
    assert files[0].stat().st_mtime_ns == made, "the finished block was read, not made again"
    cost = records(calibrated)["fastflux-20"].measurement("pruning_cost")
    assert cost.values["training_steps"] == 4


def test_a_spent_budget_has_an_exit_status_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patch(monkeypatch, ("dense", "run-20"))
    longest = run.Store.longest
    monkeypatch.setattr(run.Store, "longest", lambda _self, _stage: 1e9)
    changes = [text for key, value in TINY.items() for text in ("--set", f"{key}={value}")]
    arguments = ["full_size", "--stages", "flops", "--budget", "1000", "--out", str(tmp_path), *changes]
    assert main(arguments) == 3
    assert "left are flops (1)" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(run.Store, "longest", longest)
    assert main(arguments) == 0


def test_pruning_ends_one_block_at_least_in_every_call(calibrated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units.Budget, "left", property(lambda _self: 0.0))
    endings = [ended(calibrated, stages=["prune-20"], budget=1.0) for _ in range(3)]  # the order, and two blocks
    assert endings == [Ending.LEFT, Ending.LEFT, Ending.MEASURED]


def test_a_failure_has_an_exit_status_of_its_own_and_is_not_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted: list[str] = []
    patch(monkeypatch, ("dense", "run-20"))
    monkeypatch.setattr(run, "_accept", lambda _records, target: accepted.append(target.name))
    monkeypatch.setattr(run, "require_acceptable", lambda *_: None)
    build = counting.build

    def planted(variant: Any, *rest: Any) -> Any:
        if variant.id == "run-20":
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\nmore")
        return build(variant, *rest)

    monkeypatch.setattr(counting, "build", planted)
    changes = [text for key, value in TINY.items() for text in ("--set", f"{key}={value}")]
    arguments = ["full_size", "--stages", "flops", "--out", str(tmp_path), *changes]
    assert main(arguments) == 1
    found = records(tmp_path)["run-20"].measurement("flops_by_block")
    assert found.reason.startswith("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED")
    capsys.readouterr()
    assert main([*arguments, "--accept", str(tmp_path / "kept")]) == 1
    assert "and flops (run-20) failed: measure again with --retry" in " ".join(capsys.readouterr().err.split())
    assert main([*arguments, "--accept", str(tmp_path / "kept"), "--retry"]) == 1
    assert not accepted
    monkeypatch.setattr(counting, "build", build)
    assert main([*arguments, "--accept", str(tmp_path / "kept"), "--retry"]) == 0
    assert accepted == ["flops"]


def test_a_stage_without_memory_to_begin_leaves_the_others_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(_bench: Any) -> int:
        raise torch.OutOfMemoryError("no room for the dense model")

    with monkeypatch.context() as context:
        context.setattr(workbench.Workbench, "room", planted)
        assert ended(tmp_path, stages=["latency-32", "calibration"]) == Ending.FAILED
    assert records(tmp_path)["dense"].measurement("calibration_cost").status == "ok"  # type: ignore[union-attr]
    assert small(tmp_path, stages=["latency-32"])


def test_a_variant_without_memory_fails_alone_and_can_be_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = latency.build

    def planted(variant: Any, *rest: Any) -> Any:
        if variant.id == "l1-4of24":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 17 GiB.\nmore")
        return build(variant, *rest)

    monkeypatch.setattr(latency, "build", planted)
    assert ended(tmp_path, stages=["latency-32"]) == Ending.FAILED
    found = records(tmp_path)
    failed = found["l1-4of24"].measurement("latency_32x32")
    assert failed.status == "failed"
    assert failed.reason == "no memory to make the model: CUDA out of memory. Tried to allocate 17 GiB."
    assert found["fastflux-20"].measurement("latency_32x32").status == "ok"  # type: ignore[union-attr]
    monkeypatch.setattr(latency, "build", build)
    assert ended(tmp_path, stages=["latency-32"]) == Ending.FAILED, "what failed is settled"
    assert records(tmp_path)["l1-4of24"].measurement("latency_32x32").status == "failed"  # type: ignore[union-attr]
    assert small(tmp_path, stages=["latency-32"], retry=True)
    assert records(tmp_path)["l1-4of24"].measurement("latency_32x32").status == "ok"  # type: ignore[union-attr]


def test_a_piece_without_memory_is_noted_and_the_next_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = replacement._measure

    def planted(bench: Any, pixels: int, info: Any) -> Any:
        if pixels == 32:
            raise torch.OutOfMemoryError("out")
        return measure(bench, pixels, info)

    monkeypatch.setattr(replacement, "_measure", planted)
    changes = TINY | {"random.resolutions": "[32, 64]"}
    assert ended(tmp_path, stages=["replacement"], changes=changes) == Ending.FAILED
    record = records(tmp_path)["replacement"]
    assert [item.status for item in record.measurements] == ["failed", "ok"]


@pytest.mark.parametrize(("kind", "word"), [("device", "memory on cpu"), ("disk", "disk below")])
def test_too_little_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, word: str
) -> None:
    if kind == "device":
        monkeypatch.setattr(workbench, "free_bytes", lambda _device: 1)
    else:
        monkeypatch.setattr(workbench, "free_disk", lambda _folder: 1)
    with pytest.raises(FastFluxError, match=rf"calibration needs at least .* GiB of {word}"):
        small(tmp_path, stages=["calibration"])
    assert not list(tmp_path.rglob("*.json"))


def test_wrong_wishes_are_said_before_the_work(tmp_path: Path) -> None:
    for wish, answer in (
        ({"stages": ["latncy-32"]}, "Unknown stage 'latncy-32'"),
        ({"profile_name": "shapes", "changes": {}}, "has weights of its own"),
        ({"changes": {"random.ratios": "[0.2]"}}, "equal_ratios hold 0.1, which is none of ratios"),
        ({"accept": tmp_path}, "--accept keeps runs of the profile as it is"),
        ({"accept": tmp_path, "changes": {}, "stages": ["scorers"]}, "--accept keeps figures of a GPU"),
        ({"device": "cuda:7"}, "no device 'cuda:7' here"),
        ({"stages": ["prune-20"]}, "run that one first"),
    ):
        with pytest.raises(FastFluxError, match=answer):
            small(tmp_path, **{"stages": ["replacement"], **wish})
    assert not list(tmp_path.rglob("*.json"))


def test_a_busy_gpu_is_refused_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = SimpleNamespace(require_idle=lambda: (_ for _ in ()).throw(FastFluxError("The device is not idle")))
    started: list[str] = []
    monkeypatch.setattr(run, "other_work", lambda _device: busy)
    monkeypatch.setattr(run, "usable_dtype", lambda *_, **__: torch.bfloat16)
    monkeypatch.setattr(run, "require_resources", lambda *_: None)
    monkeypatch.setattr(run, "_run", lambda *_: started.append("run") or Ending.MEASURED)
    with pytest.raises(FastFluxError, match="not idle"):
        small(tmp_path, stages=["latency-32"], device="cuda")
    assert not started
    assert small(tmp_path, stages=["latency-32"], device="cuda", allow_busy=True)
    assert started == ["run"]


def test_a_gpu_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "require_device", lambda device: device)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(FastFluxError, match="Tesla V100 has no bfloat16 arithmetic: give --dtype float16"):
        run.usable_dtype("bfloat16", "cuda", strict=True)
    assert run.usable_dtype("float16", "cuda", strict=True) == torch.float16


def test_a_dry_run_shows_needs_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main(["reproduce", "--profile", "flux-dev-random", "--dry-run", "--out", str(tmp_path)])
    shown = capsys.readouterr().err
    for stage in ("flops", "replacement", "latency-512", "latency-1024", "compiled", "cuda-graphs", "equal-latency",
                  "end-to-end", "calibration", "prune-20", "scorers"):  # fmt: skip
        assert stage in shown
    assert "22.2" in shown, "GiB of FLUX.1-dev's transformer in bfloat16"
    assert "never estimated" in " ".join(shown.split())
    assert not list(tmp_path.iterdir())


def test_the_main_job_does_not_end_well_when_a_piece_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "full_size", lambda **_: run.Ending.FAILED)
    assert main(["reproduce", "--profile", "flux-dev-random", "--out", str(tmp_path)]) == 1


def test_an_accepted_run_is_copied(tmp_path: Path) -> None:
    target = tmp_path / "reports" / "flops"
    (tmp_path / "reports" / "flops").mkdir(parents=True)
    (tmp_path / "reports" / "flops" / "NOTES.md").write_text("")
    info = MetricInfo("flops_by_block", "1", "", higher_is_better=False, reference="")
    flops = Measurement(info, "ok", values={"32x32.forward": 1.0})
    latency_too = structs.replace(flops, info=structs.replace(info, name="latency_32x32"))
    records, fuller = tmp_path / "records", tmp_path / "fuller"
    for folder, measurements in ((records, (flops,)), (fuller, (flops, latency_too))):
        RunRecord(
            profile="flux-dev-random", variant="dense", label="Dense", plan=None, base_model="", base_revision="",
            environment={}, sampling={}, measurements=measurements, created="2026-01-01T00:00:00",
        ).write(folder / "dense.json")  # fmt: skip
    run._accept(records, target)
    assert sorted(path.name for path in target.iterdir()) == ["NOTES.md", "dense.json"]
    run._accept(fuller, target)
    with pytest.raises(FastFluxError, match="hold latency_32x32 too, which this run lacks"):
        run._accept(records, target)
