"""The whole road on a tiny model, scored by the committed scorers: prune, generate, score, measure, continue."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from torch import nn

import bench.run.prune
import bench.run.reproduce
from bench.metrics.catalogue import metric_named
from bench.metrics.cost.latency_search import EqualLatency
from bench.metrics.quality.fid import FID
from bench.profiles.profile import load_profile
from bench.profiles.variants import chosen_variants
from bench.records.results import Measurement, RunRecord
from bench.run import score
from bench.run.base_model import BaseModel
from bench.run.evaluate import settle_here
from bench.run.evaluation import Evaluation
from bench.run.folders import locked
from bench.run.measure import unit
from bench.run.reproduce import reproduce, require_scores
from bench.samples.image_set import ImageSet
from bench.tables import needed_by
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import revision_of
from tests.fastflux.tiny_pipeline import write_tiny_pipeline

SEED = "seed1-10"
VARIANTS = ["fastflux-10", "l1-12", "l1_equal-10", SEED]
FOUND = 0.084


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three variants with one prompt of each style and task, and few steps."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch, runs)
        run(runs)
    return runs


def shorten(patch: pytest.MonkeyPatch, runs: Path) -> None:
    """Two steps of sampling and training, 32 calibration prompts, six latency rounds: the road, not the figures."""
    training = {"samples": 64, "steps": 2, "batch": 4}
    base, order = runs / "pipeline", runs / "shapes.json"
    if not order.exists():
        write_tiny_pipeline(base)
        blocks = [f"single_transformer_blocks.{index}" for index in (2, 0, 1, 3)] + [
            "transformer_blocks.1",
            "transformer_blocks.0",
        ]
        inputs = {"revision": revision_of(base / "transformer")}
        order.write_text(json.dumps({"inputs": inputs, "blocks": [{"block": block} for block in blocks]}))
    patch.setattr("bench.shapes.pictures.REFERENCE_IMAGES", 64)
    patch.setattr("bench.run.draw.BLOCKS", 1)

    def short(name: str, _changes: object = None):  # noqa: ANN202
        profile = load_profile(name)
        prompts = Path(profile.calibration_prompts).read_text(encoding="utf-8").splitlines(keepends=True)
        (runs / "calibration.jsonl").write_text("".join(prompts[:32]), encoding="utf-8")
        methods: dict[str, dict[str, Any]] = {name: {**settings} for name, settings in profile.methods.items()}
        for changed in methods.values():
            changed.update(training if "steps" in changed else {}, **({"rank": 2} if "rank" in changed else {}))
        shortened = replace(
            profile,
            pipeline=str(base),
            calibration_prompts=str(runs / "calibration.jsonl"),
            sampling=replace(profile.sampling, steps=2),
            calibration=replace(profile.calibration, steps=2),
            latency=replace(profile.latency, warmup=1, rounds=6, batch=1),
            methods=methods,
        )
        return bench.run.reproduce.with_ranking(shortened, order)

    def search(dense: nn.Module, target: object, inputs: object, **settings: object) -> EqualLatency:
        del dense, target, inputs, settings
        return EqualLatency(FOUND, 3, 200, 1.0, (0.99, 1.01), 6, (1.0,) * 6, (1.0,) * 6)

    patch.setattr(bench.run.reproduce, "load_profile", short)
    patch.setattr(bench.run.prune, "solve_equal_latency", search)


def run(runs: Path) -> None:
    reproduce(profile_name="shapes", variant_names=VARIANTS, limit=1, seeds=1, runs=runs, workers=1)


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
    for variant, record in found.items():
        # Another seed's time is its original's.
        timed = [] if variant == SEED else ["latency"]
        for name in ("hps", "geneval", "clip_score", "fid", "flops", "parameters", "memory", *timed):
            measurement = record.measurement(name)
            assert measurement.status == "ok", measurement.reason
        assert bool(timed) == bool(record.measurement("latency"))
    assert found["dense"].plan is None
    assert len(found["fastflux-10"].plan["replacements"]) == 1  # type: ignore[index, arg-type]
    assert found["fastflux-10"].measurement("flops").values["ratio_to_dense"] < 1  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_ratio_found_for_a_latency_is_pruned_to_and_told(quick: Path) -> None:
    record = records(quick)["l1_equal-10"]
    assert record.label == "FLUX-Pruning-8.4% (latency of FastFLUX-10%)"
    assert record.plan["config"]["ratio"] == FOUND  # type: ignore[index, call-overload]
    assert json.loads((quick / "shapes" / "l1_equal-10" / "equal_latency.json").read_text())["ratio"] == FOUND
    note = json.loads((quick / "shapes" / "equal_latency" / "l1_equal-10.json").read_text())
    assert note["inputs"]["l1_equal-10"]["target"]["method"] == "sandwich_training"


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
def test_single_blocks_are_removed_in_the_rankings_own_order(quick: Path) -> None:
    order = json.loads((quick / "shapes.json").read_text())["blocks"]
    drawn = {path.parent.name for path in (quick / RUN / "single_removals").glob("*/manifest.jsonl")}
    assert drawn == {order[0]["block"], order[-1]["block"]}, "one that matters least, and one that matters most"


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
    shorten(monkeypatch, quick)
    before = {name: record.to_json() for name, record in records(quick).items()}
    monkeypatch.setattr(Evaluation, "scorers", property(lambda _: pytest.fail("a scorer was loaded")))
    monkeypatch.setattr(BaseModel, "pipeline", property(lambda _: pytest.fail("the pipeline was loaded")))
    run(quick)
    assert {name: record.to_json() for name, record in records(quick).items()} == before


def flip(path: Path) -> None:
    """Another bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


RUN = "shapes-limit1-seeds1"
#: By run: no damage lies where another one makes everything anew.
DAMAGE = {
    "records, weights, a picture": {
        f"{RUN}/results/fastflux-10.json": flip,
        f"{RUN}/results/dense.json": cut,
        f"{RUN}/l1_equal-10/images/hps-anime-000_0.png": flip,
        "shapes/l1-12/transformer/diffusion_pytorch_model.safetensors": flip,
    },
    "weights cut short, a manifest, a search": {
        "shapes/l1-12/transformer/diffusion_pytorch_model.safetensors": cut,
        f"{RUN}/fastflux-10/manifest.jsonl": cut,
        "shapes/l1_equal-10/equal_latency.json": cut,
    },
    "a config, what pruning cost, scores": {
        "shapes/l1-12/transformer/config.json": cut,
        "shapes/prune/l1_equal-10.json": flip,
        f"{RUN}/score/fastflux-10+hps.json": flip,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_damaged_is_made_again_with_the_same_figures(
    quick: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    shorten(monkeypatch, quick)
    before = {name: image_values(record) for name, record in records(quick).items()}
    whole = {name: (quick / name).read_bytes() for name in DAMAGE[what]}
    for name, damage in DAMAGE[what].items():
        damage(quick / name)
    run(quick)
    assert {name: image_values(record) for name, record in records(quick).items()} == before
    for name, data in whole.items():
        if "results" not in name and "score" not in name and "prune/" not in name:  # which hold dates
            assert (quick / name).read_bytes() == data, name


def test_runs_of_other_lengths_share_the_pruned_models(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, quick)
    profile = bench.run.reproduce.load_profile("shapes")
    variants = chosen_variants(profile, needed_by(()), VARIANTS)
    evaluation = Evaluation(profile, quick / "shapes-limit2-seeds1", variants, limit=2, models=quick / "shapes")
    settle_here(evaluation, "prune")
    assert not evaluation.pruner.worked
    assert not (quick / "shapes-limit2-seeds1").exists()


def test_missing_weights_are_one_sentence_before_the_work(tmp_path: Path) -> None:
    profile = replace(load_profile("shapes"), pipeline=str(tmp_path / "nowhere"))
    evaluation = Evaluation(profile, tmp_path / "run", chosen_variants(profile, needed_by(["table6"])))
    with pytest.raises(FastFluxError, match="nowhere"):
        settle_here(evaluation, "prune")


@pytest.mark.slow
def test_a_metric_that_fails_fails_alone_and_is_tried_again(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, quick)
    (quick / "shapes-limit1-seeds1" / "score" / "dense+fid.json").unlink()

    def broken(_self: FID, _images: ImageSet) -> None:
        raise ValueError("the covariance is singular\nat line 3")

    with monkeypatch.context() as patch:
        patch.setattr(FID, "__call__", broken)
        run(quick)
    found = {m.info.name: (m.status, m.reason) for m in records(quick)["dense"].measurements}
    assert found.pop("fid") == ("failed", "ValueError: the covariance is singular")
    assert found["hps"] == ("ok", "")
    run(quick)
    assert records(quick)["dense"].measurement("fid").status == "ok"  # type: ignore[union-attr]


def newer(monkeypatch: pytest.MonkeyPatch, name: str, stage: str) -> None:
    """Let the stage know the metric in a version that nothing was measured by."""
    known = metric_named
    later = dataclasses.replace(known(name), info=replace(known(name).info, version="99"))
    monkeypatch.setattr(f"bench.run.{stage}.metric_named", lambda given: later if given == name else known(given))


# The last run of all: what it scores is of that version.
@pytest.mark.slow
def test_a_score_of_another_version_is_made_again(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, quick)
    newer(monkeypatch, "clip_score", "score")
    folder = quick / "shapes-limit1-seeds1" / "score"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    run(quick)
    again = {path.name for path in folder.glob("*.json") if path.stat().st_mtime_ns != before[path.name]}
    assert again == {path for path in before if "clip_score" in path}


def test_changed_weights_of_a_metric_ask_for_its_own_scores_alone(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(str(load_profile("shapes").metrics["hps"].model), weights)

    def inputs(**changes: str) -> dict[str, Any]:
        profile = load_profile("shapes", changes)
        (dense,) = chosen_variants(profile, needed_by(()), ["dense"])
        evaluation = Evaluation(profile, tmp_path, [dense], limit=1)
        return {name: given for unit in score.units(evaluation, dense) for name, given in unit.inputs.items()}

    before = inputs()
    assert inputs(**{"metrics.hps.model": str(weights)}) == before
    flip(next(weights.glob("*.safetensors")))
    after = inputs(**{"metrics.hps.model": str(weights)})
    assert {name for name in before if after[name] != before[name]} == {"dense,hps"}


def test_a_cost_is_known_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = load_profile("shapes")
    variants = chosen_variants(profile, needed_by(()), ["fastflux-10"])
    evaluation = Evaluation(profile, tmp_path, variants, limit=1)
    before = unit(evaluation, variants).inputs
    newer(monkeypatch, "pruning_cost", "measure")
    after = unit(evaluation, variants).inputs
    assert before.keys() == after.keys() == {"dense", "fastflux-10"}
    assert all(before[name] != after[name] for name in before)


@pytest.mark.parametrize(("status", "refused"), [(("failed", "failed"), True), (("failed", "ok"), False)])
def test_a_run_without_any_score_does_not_end_well(status: tuple[str, str], refused: bool, tmp_path: Path) -> None:
    taken = {
        "ok": lambda info: Measurement(info, "ok", values={"mean": 1.0}),
        "failed": lambda info: Measurement.failed(info, "no weights"),
    }
    infos = [metric_named(name).info for name in ("hps", "clip_score")]
    scores = [taken[each](info) for each, info in zip(status, infos, strict=True)]
    cost = Measurement(metric_named("flops").info, "ok", values={"forward": 1.0})
    record = RunRecord("shapes", "dense", "D", None, "b", "r", {}, {}, (cost, *scores), "2026-01-01T00:00:00+00:00")
    if not refused:
        require_scores([record])
        return
    with pytest.raises(FastFluxError, match="No picture could be scored, by hps because no weights"):
        require_scores([record])
