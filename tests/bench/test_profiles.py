"""Profiles and variants: the paper's rows, and what unknown names and impossible wishes get."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

import bench.run.reproduce
import bench.studies.ranking
from bench.cli import main
from bench.metrics.catalogue import metrics
from bench.profiles import profile as profiles
from bench.profiles.profile import load_profile, require_disk
from bench.profiles.variants import SEEDED, SEEDS, chosen_variants, paper_variants, require_current_rankings, with_ratio
from bench.records.variant_id import VariantId
from bench.run.evaluation import Evaluation
from bench.tables import MAIN, TABLES, needed_by
from fastflux.calibration.importance import DEFAULT_RANKING
from fastflux.errors import FastFluxError
from fastflux.methods.sandwich_training import SandwichTrainingConfig


def test_the_variants_are_the_papers() -> None:
    variants = {variant.id: variant for variant in paper_variants(load_profile("shapes"))}
    assert list(variants) == [
        "dense", "fastflux-05", "fastflux-10", "fastflux-15", "fastflux-20", "fastflux-25", "fastflux-30",
        "plus-18", "plus-26", "plus-35",
        "l1-12", "l1-21", "l1-27", "l1_equal-10", "l1_equal-15", "l1_equal-20",
        "width-12", "width-21", "width-27", "width_equal-10", "width_equal-15", "width_equal-20",
        "l1_long-21", "l1_long-27",
        "brll-10", "removal-10", "removal_st-10", "layers1-10", "layers5-10", "reuse-10", "r2-10", "start2end-10",
        "end2start-10", "half1-20", "half1-30", "half2-20", "half2-30", "influence-20", "influence-30",
        "sd3", "fastsd3-10", "fastsd3-20", "plussd3-20", "flux2", "fastflux2-10", "fastflux2-20", "plusflux2-20",
        *(str(VariantId.parse(name).seeded(seed)) for name in SEEDED for seed in SEEDS),
    ]  # fmt: skip
    assert variants["fastflux-05"].label == "FastFLUX-5%"
    assert variants["l1-21"].label == "FLUX-Pruning-21%"
    repeat, own = variants["layers1_seed2-10"], variants["layers1-10"].config
    assert (repeat.label, repeat.name.repeated) == ("ST of 1 layer, seed 2", VariantId("layers1", "10"))
    assert isinstance(own, SandwichTrainingConfig)
    assert repeat.config == replace(own, seed=2)


def test_variants_are_trained_as_the_profile_says() -> None:
    profile = load_profile("shapes")
    configs = {variant.id: variant.config for variant in paper_variants(profile)}
    for variant in ("fastflux-20", "start2end-10"):
        config = configs[variant]
        assert isinstance(config, SandwichTrainingConfig)
        assert config.samples == profile.methods["sandwich_training"]["samples"]
    with pytest.raises(FastFluxError, match="Unknown setting of l1_norm 'stesp'"):
        paper_variants(structs.replace(profile, methods={"l1_norm": {"stesp": 1}}))


def test_another_models_settings_are_laid_over_the_profiles() -> None:
    profile = load_profile("shapes")
    other = profile.of("sd3")
    own, theirs = (found.methods["sublayer_replacement"] for found in (profile, other))
    assert (own["keep"], theirs["keep"], theirs["fitted"]) == ("transformer_blocks.4-18", "", own["fitted"])
    assert Path(other.method_prompts["sublayer_replacement"]).name == "distillation.jsonl"
    configs = {variant.id: variant.config for variant in paper_variants(profile)}
    assert configs["plussd3-20"].steps == theirs["steps"] != own["steps"]  # type: ignore[union-attr]
    assert configs["plus-26"].steps == own["steps"]  # type: ignore[union-attr]
    with pytest.raises(FastFluxError, match=r"others\.sd3\.methods: Unknown setting of sublayer_replacement 'stesp'"):
        load_profile("shapes", {"others.sd3.methods.sublayer_replacement.stesp": "1"})


def test_a_ranking_file_decides_the_order_and_must_be_of_the_same_weights(tmp_path: Path) -> None:
    order = ["single_transformer_blocks.4", "transformer_blocks.0"]
    path = tmp_path / "ranking.json"
    ranking = {"inputs": {"revision": "abc"}, "blocks": [{"block": block} for block in order]}
    path.write_text(json.dumps(ranking | {"halves": {"orders": [order, order[::-1]]}}))
    profile = structs.replace(load_profile("shapes"), methods={"linear_replacement": {"ranking": str(path)}})
    configs = {variant.id: variant.config for variant in paper_variants(profile)}
    assert {"half1-20", "influence-20"}.isdisjoint(configs)  # they are FastFLUX's, which has no file here
    trained = structs.replace(profile, methods={"sandwich_training": {"ranking": str(path)}})
    halves = {variant.id: variant.config for variant in paper_variants(trained)}
    assert halves["half1-30"].ranking == ",".join(order)  # type: ignore[union-attr]
    assert halves["influence-30"].ranking == "block_influence"  # type: ignore[union-attr]
    assert halves["half2-30"].ranking == ",".join(order[::-1])  # type: ignore[union-attr]
    assert configs["brll-10"].ranking == ",".join(order)  # type: ignore[union-attr]
    assert configs["fastflux-10"].ranking == DEFAULT_RANKING  # type: ignore[union-attr]
    require_current_rankings(profile, "abc")
    with pytest.raises(FastFluxError, match=r"ranks the weights abc, but .* holds def: run `python -m bench rank"):
        require_current_rankings(profile, "def")


FASTFLUX = tuple(f"fastflux-{ratio}" for ratio in ("05", "10", "15", "20", "25", "30"))
PLUS = ("plus-18", "plus-26", "plus-35")


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (
            ["table3"],
            [*("dense", "fastflux-10", "sd3", "fastsd3-10", "fastsd3-20"), *("flux2", "fastflux2-10", "fastflux2-20")],
        ),
        (["table4"], ["dense", "fastflux-10", "brll-10"]),
        (["table5"], ["dense", "fastflux-10", "r2-10", "start2end-10", "end2start-10"]),
        (["table6"], ["dense", *FASTFLUX]),
        (["beyond"], ["dense", "fastflux-20", *PLUS, "width_equal-20"]),
    ],
)
def test_a_table_brings_just_the_variants_it_needs(tables: list[str], expected: list[str]) -> None:
    assert [variant.id for variant in chosen_variants(load_profile("shapes"), needed_by(tables))] == expected
    assert len(chosen_variants(load_profile("shapes"), needed_by(MAIN))) == 25
    assert len(chosen_variants(load_profile("shapes"), needed_by(TABLES))) == 47 + len(SEEDED) * len(SEEDS)


def test_named_variants_bring_the_dense_model_along() -> None:
    chosen = chosen_variants(load_profile("shapes"), needed_by(TABLES), ["l1-12"])
    assert [variant.id for variant in chosen] == ["dense", "l1-12"]
    chosen = chosen_variants(load_profile("shapes"), needed_by(TABLES), ["fastsd3-10"])
    assert [variant.id for variant in chosen] == ["dense", "sd3", "fastsd3-10"]
    chosen = chosen_variants(load_profile("shapes"), needed_by(TABLES), ["l1_equal-15"])
    assert [variant.id for variant in chosen] == ["dense", "fastflux-15", "l1_equal-15"]


def test_a_variant_as_fast_as_another_gets_the_ratio_found_and_its_label() -> None:
    variants = {variant.id: variant for variant in paper_variants(load_profile("shapes"))}
    met = with_ratio(variants["l1_equal-10"], 0.084, variants["fastflux-10"])
    assert met.label == "FLUX-Pruning-8.4% (latency of FastFLUX-10%)"
    assert met.config == replace(variants["l1_equal-10"].config, ratio=0.084)  # type: ignore[type-var]


def test_the_profile_of_another_model_draws_and_calibrates_at_its_guidance() -> None:
    profile = load_profile("shapes")
    other = profile.of("sd3")
    assert (other.title, other.sampling.guidance, other.calibration.guidance) == ("SD3-Shapes", 1.0, 1.0)
    assert other.sampling.seed == profile.sampling.seed
    assert profile.of("") is profile


def test_too_little_disk_is_said_with_the_need(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match="free some space"):
        require_disk(tmp_path / "not" / "yet", 10**9)
    require_disk(tmp_path, 1)


def test_every_profile_can_be_read_and_names_its_variants() -> None:
    for path in sorted(profiles.FOLDER.glob("*.toml")):
        profile = load_profile(path.stem)
        assert profile.name == path.stem
        variants = {variant.id: variant for variant in paper_variants(profile)}
        assert variants["dense"].label == profile.title
        assert set(profile.metrics) <= metrics().keys()


def test_the_profile_of_sd3_has_its_own_names_and_no_sliced_variants() -> None:
    variants = {variant.id: variant for variant in paper_variants(load_profile("sd3"))}
    assert variants["fastflux-10"].label == "FastSD3-10%"
    assert not [name for name in variants if name.startswith("l1")]
    assert {"brll-10", "removal-10", "seed1-20"} <= variants.keys()


def test_blocks_can_be_ranked_afresh_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = tmp_path / "order.json"
    blocks = [{"block": "transformer_blocks.3"}, {"block": "single_transformer_blocks.1"}]
    order.write_text(json.dumps({"inputs": {"revision": "any"}, "blocks": blocks}))
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(bench.studies.ranking, "rank", lambda **options: asked.append(options) or order)
    monkeypatch.setattr(bench.run.reproduce, "require_current_rankings", lambda *_: None)
    seen: list[Evaluation] = []

    def stop(evaluation: Evaluation) -> None:
        seen.append(evaluation)
        raise FastFluxError("far enough")

    monkeypatch.setattr(bench.run.reproduce, "nodes_of", stop)
    assert main(["reproduce", "--only", "table6", "--rank", "--workers", "1", f"--out={tmp_path}"]) == 1
    configs = {variant.id: variant.config for variant in seen[0].variants}
    assert configs["fastflux-10"].ranking == "transformer_blocks.3,single_transformer_blocks.1"  # type: ignore[union-attr]
    assert (asked[0]["profile_name"], asked[0]["workers"]) == ("shapes", 1)
