"""What a run takes, told beforehand: counts by hand, and nothing made."""

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

import bench.run.dry_run
import bench.run.reproduce
from bench.cli import main
from bench.metrics.quality.hps import HPSSettings
from bench.profiles.profile import load_profile
from bench.profiles.variants import chosen_variants
from bench.run.dry_run import RunPlan, plan_run
from bench.run.evaluation import Evaluation
from bench.run.graph import Node
from bench.samples.prompts import prompts_hash, read_prompts
from bench.tables import needed_by
from fastflux.errors import FastFluxError


def evaluation(folder: Path, tables: tuple[str, ...], **changes: object) -> Evaluation:
    profile = replace(load_profile("shapes"), **changes)  # type: ignore[arg-type]  # fields by name
    return Evaluation(profile, folder, chosen_variants(profile, needed_by(tables)), limit=1)


def test_the_counts_are_those_of_the_run(tmp_path: Path) -> None:
    plan = plan_run(evaluation(tmp_path, ("table4",)))
    assert plan.variants == 3  # dense, FastFLUX-10%, w/o ST
    # A prompt of each style once, of each task four times; and ten prompts without each of eight blocks.
    assert plan.images == 3 * (4 * 1 + 6 * 4) + 8 * 10
    drawn = sum(node.steps for node in plan.nodes if node.stage.startswith("draw"))
    assert drawn == plan.images * 10
    assert [node.steps for node in plan.nodes if node.stage == "calibration"] == [128 * 10 * 1.4]
    assert plan.training_steps == 200 * 5, "Sandwich Training of the 5 blocks at 10%"
    assert plan.weights_bytes > 10 * 2**20
    assert 1e8 < plan.flops_per_step < 1e9
    assert plan.hours() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("workers", "hours"), [(1, 1.0), (2, 0.75), (8, 0.75)])
def test_hours_are_those_of_the_steps_as_far_as_they_can_go_at_once(workers: int, hours: float) -> None:
    nodes = [
        Node("prune", "a", steps=3600),
        Node("prune", "b", steps=1800),
        Node("draw", "a", 0, ("prune:a",), steps=1800),
    ]
    assert RunPlan(1, 10, nodes, 0, 0, 1.0, 0.5).hours(workers) == pytest.approx(hours)


def test_a_method_may_have_prompts_of_its_own_and_then_no_other_is_pruned_anew(tmp_path: Path) -> None:
    own, shared = (
        {variant.id: made.pruning_inputs(variant) for variant in made.variants}
        for made in (evaluation(tmp_path, ("beyond",), **changes) for changes in ({}, {"method_prompts": {}}))
    )
    differing = {name for name in own if own[name] != shared[name]}
    assert differing == {"plus-18", "plus-26", "plus-35"}
    path = load_profile("shapes").method_prompts["sublayer_replacement"]
    assert {own[name]["calibration_prompts"] for name in differing} == {prompts_hash(read_prompts(Path(path)))}


def test_missing_files_are_found_before_the_work(tmp_path: Path) -> None:
    for changes, message in (
        ({"metrics": {"hps": HPSSettings()}}, r"metrics\.hps: checkpoint is not set"),
        ({"prompts": ("absent.jsonl",)}, "Cannot read"),
        ({"calibration_prompts": "absent.jsonl"}, "Cannot read"),
        ({"pipeline": "absent"}, "There is no .*absent"),
    ):
        with pytest.raises(FastFluxError, match=message):
            plan_run(evaluation(tmp_path, ("table4",), **changes))


def test_a_dry_run_says_what_it_takes_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.run.dry_run, "_timed", lambda _evaluation: 0.01)
    monkeypatch.setattr(bench.run.reproduce, "execute", lambda *_, **__: pytest.fail("it worked"))
    assert main(["reproduce", "--dry-run", "--only", "table4", "--set", "sampling.steps=5"]) == 0
    shown = capsys.readouterr().err
    assert "images to draw" in shown
    assert "10 ms" in shown


@pytest.mark.parametrize(("options", "variants"), [([], 25), (["--all"], 75), (["--variants", "plus-26"], 2)])
def test_without_options_the_papers_tables_are_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], variants: int
) -> None:
    monkeypatch.setattr(bench.run.dry_run, "_timed", lambda _evaluation: 0.01)
    assert main(["reproduce", "--dry-run", *options]) == 0
    assert re.search(rf"variants\s+│ {variants}\s", capsys.readouterr().err)


def test_all_tables_and_some_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--dry-run", "--all", "--only", "table4"]) == 1
    assert "--all makes all tables, --only some" in capsys.readouterr().err


def test_values_are_read_as_toml_or_as_text() -> None:
    profile = load_profile("shapes", {"sampling.steps": "5", "title": "a name", "prompts": '["a", "b"]'})
    assert (profile.sampling.steps, profile.title, profile.prompts) == (5, "a name", ("a", "b"))
