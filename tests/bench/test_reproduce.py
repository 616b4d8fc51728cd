"""The whole road on the committed weights, as small as it goes: prune, generate, score, measure, report, continue."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

import bench.reproduce
import bench.run.evaluation
import bench.run.reproduce
from bench.__main__ import main
from bench.metrics.cost.latency_search import EqualLatency
from bench.profiles.profile import load_profile
from bench.profiles.variants import chosen_variants
from bench.records.results import RunRecord
from bench.reproduce import reproduce
from bench.run.base_model import BaseModel
from bench.run.evaluation import IMAGE_METRICS, Evaluation
from bench.run.folders import locked
from bench.samples.image_set import ImageSet
from bench.tables import needed_by
from fastflux.errors import FastFluxError

VARIANTS = ["fastflux-10", "l1-12", "l1_equal-10"]
FOUND = 0.084


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three variants with one prompt of each style and task, and few steps."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        run(runs)
    return runs


def shorten(patch: pytest.MonkeyPatch) -> None:
    """Two sampling steps, two training steps, six latency rounds: this tests the road, not the figures."""
    training = {"samples": 64, "steps": 2, "batch": 4}

    def short(name: str, _changes: object = None):  # noqa: ANN202
        profile = load_profile(name)
        return replace(
            profile,
            sampling=replace(profile.sampling, steps=2),
            calibration=replace(profile.calibration, steps=2),
            latency=replace(profile.latency, warmup=1, rounds=6),
            methods={
                name: settings | training if "steps" in settings else settings
                for name, settings in profile.methods.items()
            },
        )

    def search(dense: nn.Module, target: object, inputs: object, **settings: object) -> EqualLatency:
        del dense, target, inputs, settings
        return EqualLatency(FOUND, 3, 200, 1.0, (0.99, 1.01), 6, (1.0,) * 6, (1.0,) * 6)

    for module in (bench.reproduce, bench.run.reproduce):
        patch.setattr(module, "load_profile", short)
    patch.setattr(bench.run.evaluation, "solve_equal_latency", search)


def run(runs: Path) -> None:
    reproduce(profile_name="shapes", variant_names=VARIANTS, limit=1, seeds=1, runs=runs)


def records(runs: Path) -> dict[str, RunRecord]:
    folder = runs / "shapes-limit1-seeds1" / "results"
    return {path.stem: RunRecord.read(path) for path in folder.glob("*.json")}


def image_values(record: RunRecord) -> dict[str, dict[str, float]]:
    names = ("hps", "geneval", "clip_score", "fid", "flops", "parameters")
    return {name: dict(record.measurement(name).values) for name in names}  # type: ignore[union-attr]


@pytest.mark.slow
def test_every_measurement_is_there(quick: Path) -> None:
    found = records(quick)
    assert set(found) == {"dense", *VARIANTS}
    for record in found.values():
        for name in ("hps", "geneval", "clip_score", "fid", "flops", "parameters", "memory", "latency"):
            measurement = record.measurement(name)
            assert measurement is not None
            assert measurement.status == "ok", measurement.reason
    assert found["dense"].plan is None
    assert len(found["fastflux-10"].plan["replacements"]) == 5  # type: ignore[index, arg-type]
    assert found["fastflux-10"].measurement("flops").values["ratio_to_dense"] < 1  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_ratio_found_for_a_latency_is_pruned_to_and_told(quick: Path) -> None:
    record = records(quick)["l1_equal-10"]
    assert record.label == "FLUX-Pruning-8.4% (latency of FastFLUX-10%)"
    assert record.plan["config"]["ratio"] == FOUND  # type: ignore[index, call-overload]
    note = json.loads((quick / "shapes" / "l1_equal-10" / "equal_latency.json").read_text())
    assert note["found"]["ratio"] == FOUND
    assert note["inputs"]["target"]["method"] == "sandwich_training"


@pytest.mark.slow
def test_the_run_says_where_its_records_are(quick: Path) -> None:
    folder = (quick / "shapes-limit1-seeds1").resolve()
    note = json.loads((folder / "run.json").read_text())
    assert {name: note[name] for name in ("profile", "device", "limit", "seeds", "worked")} == {
        "profile": "shapes", "device": "cpu", "limit": 1, "seeds": 1, "worked": True,
    }  # fmt: skip
    assert note["folder"] == str(folder)
    assert {path.stem for path in Path(note["records"]).glob("*.json")} == {"dense", *VARIANTS}
    assert note["ranking"].endswith("shapes.json")
    assert note["tables"][0] == "table1"
    assert {"prune", "generate", "score", "measure"} <= note["seconds"].keys()


def test_a_folder_that_another_run_holds_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path / "shapes"), pytest.raises(FastFluxError, match=r"another run works in .*shapes"):
        run(tmp_path)


@pytest.mark.slow
def test_tables_are_written(quick: Path) -> None:
    reports = quick / "shapes-limit1-seeds1" / "reports"
    text = (reports / "table6.md").read_text()
    assert "FLUX-Shapes" in text
    assert (reports / "table1.tex").read_text().count("\\toprule") >= 1
    # Drawn with the ranking's own order: four blocks that matter most and four that matter least.
    assert len(list((quick / "shapes-limit1-seeds1" / "single_removals").glob("*/manifest.jsonl"))) == 8
    for grid in ("image_grid", "block_removals"):
        assert (reports / f"{grid}.png").stat().st_size > 1000
    assert '<figure class="table" id="table1">' in (reports / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_all_variants_draw_from_the_same_noise(quick: Path) -> None:
    folder = quick / "shapes-limit1-seeds1"
    seeds = [
        [image.seed for image in ImageSet.read(folder / name / "manifest.jsonl").images]
        for name in ("dense", *VARIANTS)
    ]
    assert all(other == seeds[0] for other in seeds)
    assert len(set(seeds[0])) == 10


@pytest.mark.slow
def test_a_second_run_measures_nothing_again(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    before = {name: record.to_json() for name, record in records(quick).items()}
    monkeypatch.setattr(Evaluation, "scorers", property(lambda _: pytest.fail("a scorer was loaded")))
    monkeypatch.setattr(BaseModel, "pipeline", property(lambda _: pytest.fail("the pipeline was loaded")))
    run(quick)
    assert {name: record.to_json() for name, record in records(quick).items()} == before


@pytest.mark.slow
def test_what_was_lost_is_made_again_with_the_same_figures(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    before = {name: image_values(record) for name, record in records(quick).items()}
    folder = quick / "shapes-limit1-seeds1"
    record = folder / "results" / "fastflux-10.json"
    record.write_text(record.read_text()[:200])  # a truncated record
    manifest = folder / "fastflux-10" / "manifest.jsonl"
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:4]))
    (folder / "fastflux-10" / "images" / "hps-anime-000_0.png").write_bytes(b"no image")
    pruned = quick / "shapes" / "l1-12"
    (pruned / "transformer" / "config.json").unlink()
    (pruned / "pruning.json").unlink()
    run(quick)
    assert {name: image_values(record) for name, record in records(quick).items()} == before


def test_runs_of_other_lengths_share_the_pruned_models(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    profile = bench.reproduce.load_profile("shapes")
    variants = chosen_variants(profile, needed_by(()), VARIANTS)
    evaluation = Evaluation(profile, quick / "shapes-limit2-seeds1", variants, limit=2, models=quick / "shapes")
    evaluation.prune()
    assert not evaluation.worked
    assert not (quick / "shapes-limit2-seeds1").exists()


def test_missing_weights_are_one_sentence_before_the_work(tmp_path: Path) -> None:
    profile = replace(load_profile("shapes"), pipeline=str(tmp_path / "nowhere"))
    evaluation = Evaluation(profile, tmp_path / "run", chosen_variants(profile, needed_by(["table6"])))
    with pytest.raises(FastFluxError, match="nowhere"):
        evaluation.prune()


def test_the_command_line_ends_with_one_sentence_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--profile", "shpes"]) == 1
    error = capsys.readouterr().err
    assert "shapes" in error
    assert "Traceback" not in error


def test_records_are_plain_json(quick: Path) -> None:
    for path in (quick / "shapes-limit1-seeds1" / "results").glob("*.json"):
        assert json.loads(path.read_text())["profile"] == "shapes"


def test_the_versions_known_without_a_scorer_are_the_scorers(tmp_path: Path) -> None:
    evaluation = Evaluation(load_profile("shapes"), tmp_path, ())
    found = {metric.info.name: metric.info.version for metric in evaluation.scorers}
    assert found.items() <= IMAGE_METRICS.items()
    assert set(found) == set(evaluation.profile.metrics)


@pytest.mark.slow
def test_a_figure_of_another_version_is_measured_again(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    path = quick / "shapes-limit1-seeds1" / "results" / "l1-12.json"
    old = json.loads(path.read_text())
    for measurement in old["measurements"]:
        if measurement["info"]["name"] in ("clip_score", "pruning_cost"):
            measurement["info"]["version"] = "0"
            measurement["values"] = dict.fromkeys(measurement["values"], -1.0)
    path.write_text(json.dumps(old))
    run(quick)
    record = records(quick)["l1-12"]
    for name in ("clip_score", "pruning_cost"):
        measurement = record.measurement(name)
        assert measurement.info.version != "0"  # type: ignore[union-attr]
        assert min(measurement.values.values()) >= 0  # type: ignore[union-attr]
