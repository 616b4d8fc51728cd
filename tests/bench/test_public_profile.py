"""The profile of FLUX.1-dev from end to end, with random models of the public architectures made small."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bench.run.reproduce
from bench.cli import main
from bench.profiles.profile import load_profile, read_all_prompts
from bench.records.results import RunRecord
from bench.run.reproduce import reproduce
from bench.studies.ranking import rank
from fastflux.errors import FastFluxError
from tests.bench.metrics.tiny_mask2former import saved
from tests.fastflux.test_family_pipelines import few_steps
from tests.fastflux.tiny_pipeline import write_tiny_pipeline

STYLES = ("anime", "concept-art", "paintings", "photo")
TASKS = {
    "single_object": {"include": [{"class": "dog", "count": 1}]},
    "two_object": {"include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}]},
    "counting": {"include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 3}]},
    "colors": {"include": [{"class": "dog", "count": 1, "color": "red"}]},
    "position": {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}]},
    "color_attr": {
        "include": [{"class": "dog", "count": 1, "color": "red"}, {"class": "cat", "count": 1, "color": "blue"}]
    },
}
FEW = {"steps": "4", "guidance": "0"}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, tiny_hps: tuple[str, Path], tiny_clip: Path) -> dict[str, str]:
    """All files that a user gives, as `--set` takes them, with settings that make the run short."""
    folder = tmp_path_factory.mktemp("given")
    write_tiny_pipeline(folder / "pipeline")
    (folder / "hpdv2").mkdir()
    for style in STYLES:
        (folder / "hpdv2" / f"{style}.json").write_text(json.dumps([f"{style} a star", f"{style} a ring"]))
    lines = [json.dumps({"tag": tag, **rest, "prompt": f"a photo of {tag}"}) for tag, rest in TASKS.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    architecture, checkpoint = tiny_hps
    calibration = [
        json.dumps({"id": f"c{index}", "set": "calibration", "prompt": f"a {word}"})
        for index, word in enumerate(("star", "ring", "red star", "blue ring"))
    ]
    (folder / "calibration.jsonl").write_text("\n".join(calibration) + "\n")
    return {
        "pipeline": str(folder / "pipeline"),
        "prompts": json.dumps([f"hpdv2:{folder / 'hpdv2'}", f"geneval:{folder / 'metadata.jsonl'}"]),
        "calibration_prompts": str(folder / "calibration.jsonl"),
        "disk_mib": "1",
        "device": "cpu",
        "dtype": "float32",
        "metrics.hps.checkpoint": str(checkpoint),
        "metrics.hps.model": architecture,
        "metrics.geneval.weights": str(saved(folder / "detector", sees=16)),
        **{f"metrics.{name}.model": str(tiny_clip) for name in ("geneval.clip", "clip_score", "retrieval", "paired")},
        "sampling.height": "32",
        "sampling.width": "32",
        "sampling.steps": "2",
        "sampling.samples": "{hps = 1, geneval = 1}",
        "calibration.steps": "2",
        "latency.warmup": "1",
        "latency.rounds": "6",
        "methods.sandwich_training.samples": "8",
        "methods.sandwich_training.steps": "2",
        "methods.sandwich_training.rank": "2",
        "methods.l1_norm.samples": "8",
        "methods.l1_norm.steps": "2",
    }


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where records go: below the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.mark.slow
def test_the_whole_road_with_public_scorers(given: dict[str, str], tmp_path: Path) -> None:
    reproduce(
        profile_name="flux-dev", tables=("table1", "table2"), variant_names=["fastflux-20", "l1-12"],
        changes=given, runs=tmp_path / "runs", workers=1,
    )  # fmt: skip
    folder = tmp_path / "runs" / "flux-dev" / "results"
    records = {path.stem: RunRecord.read(path) for path in folder.glob("*.json")}
    assert set(records) == {"dense", "fastflux-20", "l1-12"}
    for variant, record in records.items():
        found = {m.info.name: m for m in record.measurements}
        names = {"hps", "geneval", "clip_score", "retrieval", "flops", "latency", "latency_end_to_end"} | (
            {"paired"} if variant != "dense" else set()
        )
        for name in names:
            assert found[name].status == "ok", (variant, name, found[name].reason)
        assert found["hps"].info.reference == "HPS v2.0"
        assert found["geneval"].info.reference.startswith("GenEval, variant")
        assert set(TASKS) < set(found["geneval"].values)
    assert (
        records["dense"].measurement("latency").settings["run"]
        == records["l1-12"].measurement("latency").settings["run"]
    )  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FLUX.1-schnell", "FLUX.2-klein"])
def test_few_step_models_are_pruned_and_evaluated_at_their_steps(
    name: str, given: dict[str, str], tmp_path: Path
) -> None:
    few_steps(name).save_pretrained(tmp_path / "few")
    settings = {f"{part}.{name}": value for part in ("sampling", "calibration") for name, value in FEW.items()}
    settings["pipeline"], settings["prompts"] = str(tmp_path / "few"), json.dumps(json.loads(given["prompts"])[:1])
    settings["without"] = json.dumps([f"metrics.{name}" for name in ("geneval", "clip_score", "retrieval", "paired")])
    options = [f"--set={key}={value}" for key, value in (given | settings).items()]
    where = [f"--out={tmp_path / 'runs'}", "--variants=fastflux-20", "--workers=1"]
    assert main(["reproduce", "--profile=flux-dev", *options, *where]) == 0
    record = RunRecord.read(tmp_path / "runs" / "flux-dev" / "results" / "fastflux-20.json")
    for measured in ("hps", "latency_end_to_end"):
        assert record.measurement(measured).status == "ok", measured


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("metrics.hps.checkpoint", "/nowhere/HPS_v2_compressed.pt", "download HPS_v2_compressed.pt"),
        ("metrics.hps.checkpoint", '""', "metrics.hps: checkpoint is not set: .* by --set metrics.hps.checkpoint=PATH"),
        ("metrics.hps.version", "v2.1", "is HPS v2.0, and v2.1 was asked for"),
        ("metrics.geneval.weights", "/nowhere", "/nowhere"),
        ("sampling.samples", "{hps = 1}", "has prompts of the set geneval, .* set sampling.samples.geneval"),
        ("prompts", '["hpdv2:/nowhere"]', "/nowhere/anime.json"),
        ("prompts", '["parti:/nowhere"]', "Unknown kind of prompt file 'parti'"),
        ("pipeline", "nobody/nothing", "nobody/nothing"),
    ],
)
def test_what_is_missing_is_told_before_the_long_work(
    given: dict[str, str], key: str, value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(bench.run.reproduce, "execute", lambda *_, **__: pytest.fail("it worked"))
    with pytest.raises(FastFluxError, match=message.replace("(", r"\(")):
        reproduce(
            profile_name="flux-dev", variant_names=["dense"], changes={**given, key: value}, runs=tmp_path / "runs"
        )


def test_the_profiles_prompts_come_from_their_files(given: dict[str, str]) -> None:
    prompts = read_all_prompts(load_profile("flux-dev", given))
    assert [prompt.set for prompt in prompts].count("hps") == 8
    assert [prompt.set for prompt in prompts].count("geneval") == 6
    again = {**given, "prompts": json.dumps([*json.loads(given["prompts"]), json.loads(given["prompts"])[0]])}
    with pytest.raises(FastFluxError, match="two prompts of flux-dev have the id"):
        read_all_prompts(load_profile("flux-dev", again))


@pytest.mark.slow
def test_the_blocks_are_ranked_by_public_scorers(given: dict[str, str], tiny_clip: Path, tmp_path: Path) -> None:
    settings = {key: value for key, value in given.items() if not key.startswith("sampling.samples")}
    settings |= {"ranking.fid.model": str(tiny_clip)}
    path = rank(profile_name="flux-dev", samples=2, workers=1, changes=settings, runs=tmp_path / "runs")
    found = json.loads(path.read_text())
    assert len(found["blocks"]) == 6
    assert all(entry["fid"] > 0 for entry in found["blocks"])
    public = {**settings, "ranking.fid.model": "inception"}
    with pytest.raises(FastFluxError, match=r"metrics\.fid: checkpoint is not set: download"):
        rank(profile_name="flux-dev", samples=2, workers=1, changes=public, runs=tmp_path / "other")


@pytest.mark.slow
def test_other_models_images_are_drawn_and_scored(
    given: dict[str, str], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    images = tmp_path / "drawn"
    assert main(["draw", given["pipeline"], "--profile", "flux-dev", "--steps", "1", "-o", str(images), *settings]) == 0
    assert (images / "manifest.jsonl").is_file()
    assert main(["score", str(images), "--name", "mine", "--label", "Mine", "--profile", "flux-dev", *settings]) == 0
    assert "Mine:" in capsys.readouterr().out
    record = RunRecord.read(runs / "flux-dev" / "external" / "external-mine.json")
    assert {m.info.name: m.status for m in record.measurements} == dict.fromkeys(
        ("hps", "geneval", "clip_score", "retrieval"), "ok"
    )


@pytest.mark.usefixtures("runs")
def test_images_in_hps_layout_are_scored_and_others_are_refused(
    given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    generator = np.random.default_rng(0)
    for style in STYLES:
        (tmp_path / "layout" / style).mkdir(parents=True)
        for index in range(2):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "layout" / style / f"{index:05d}.jpg")
    options = ["--name", "dalle", "--profile", "flux-dev", "--metrics", "hps", *settings]
    assert main(["score", str(tmp_path / "layout"), *options]) == 0
    assert "averaged" in capsys.readouterr().out
    assert main(["score", str(tmp_path), *options]) == 1
    assert "holds neither manifest.jsonl" in capsys.readouterr().err
    assert main(["score", str(tmp_path / "layout"), "--name", "a/b", "--profile", "flux-dev", *settings]) == 1
    assert "is no id" in capsys.readouterr().err
