"""The importance of every block of a tiny model by removing it, with four prompts and two steps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import bench.studies.ranking
from bench.cli import main
from bench.metrics.quality.fid import FID
from bench.profiles.profile import load_profile
from bench.records.results import Measurement
from bench.studies.ranking import Parts, committed_ranking, frechet_distance, noise, rank
from fastflux.calibration.importance import MEASURED_RANKINGS, listed_blocks
from fastflux.errors import FastFluxError
from fastflux.plan import BlockRef
from tests.fastflux.tiny_pipeline import write_tiny_pipeline

Shorten = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def shorten(tmp_path_factory: pytest.TempPathFactory) -> Shorten:
    """Gives runs four calibration prompts, two steps, and few resamples of the order's noise."""
    profile = load_profile("shapes")
    folder = tmp_path_factory.mktemp("given")
    write_tiny_pipeline(folder / "pipeline")
    prompts = folder / "calibration.jsonl"
    lines = Path(profile.calibration_prompts).read_text().splitlines(keepends=True)
    prompts.write_text("".join(lines[:4]))
    shortened = replace(
        profile,
        pipeline=str(folder / "pipeline"),
        calibration_prompts=str(prompts),
        sampling=replace(profile.sampling, steps=2),
        calibration=replace(profile.calibration, steps=2),
    )

    def shorten(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(bench.studies.ranking, "load_profile", lambda _name, _changes=None: shortened)
        patch.setattr(bench.studies.ranking, "RESAMPLES", 5)
        patch.setattr(bench.studies.ranking, "HALVINGS", 2)
        patch.setattr("bench.shapes.pictures.REFERENCE_IMAGES", 2)

    return shorten


@pytest.fixture(scope="module")
def ranked(shorten: Shorten, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The order that two workers found."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        return rank(profile_name="shapes", samples=1, workers=2, runs=tmp_path_factory.mktemp("runs"))


def read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data


@pytest.mark.slow
def test_every_block_is_scored_and_the_least_important_comes_first(ranked: Path) -> None:
    found = read(ranked)
    assert len(listed_blocks(",".join(entry["block"] for entry in found["blocks"]))) == 6
    scores = [entry["importance"] for entry in found["blocks"]]
    assert scores == sorted(scores)
    assert -1 <= scores[0] <= scores[-1] <= 0
    for entry in found["blocks"]:
        assert entry["fid"] > 0  # against the dense model's images of the same noise: 0 only if nothing was removed
        assert entry["importance_error"] > 0
        assert all(name in entry for name in MEASURED_RANKINGS)
    assert set(found["spearman"]) == {*MEASURED_RANKINGS, "start2end"}
    assert all(-1 <= value <= 1 for value in found["spearman"].values())
    assert found["cost"]["importance"]["forwards"] == 4 * 2 * 7
    assert found["cost"]["one calibration pass"]["forwards"] == 4 * 2
    assert (found["halves"]["images"], 0 <= found["halves"]["first_11"] <= 11) == (2, True)


def test_the_frechet_distance_is_fids() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(200, 6))
    covariance = np.cov(one, rowvar=False)
    assert frechet_distance(one, one + 2.0) == pytest.approx(6 * 4.0)
    assert frechet_distance(one, 3 * (one - one.mean(axis=0))) == pytest.approx(
        np.square(one.mean(axis=0)).sum() + 4 * np.trace(covariance)
    )


@pytest.mark.parametrize(("spread", "repeats", "error"), [(1.0, True, 0.05), (0.0, False, 0.1)])
def test_an_order_within_its_noise_is_told_from_one_that_repeats(spread: float, repeats: bool, error: float) -> None:
    rng = np.random.default_rng(1)
    dense = rng.normal(size=(64, 3))
    blocks = [BlockRef("transformer_blocks", index) for index in range(20)]
    without = {
        block: Parts(dense + 0.2 * rng.normal(size=dense.shape) + spread * place, rng.normal(size=64) - spread * place)
        for place, block in enumerate(blocks)
    }
    errors, halves = noise(Parts(dense, np.zeros(64)), without, samples=2)
    assert (halves["first_5"] > 4.5) is repeats
    assert (halves["spearman"] > 0.9) is repeats
    assert (max(errors.values()) < error) is repeats
    # More images make the order stabler, and the halves' orders are of all blocks, much or little alike.
    stabler = [step["spearman"] for step in halves["repeats"]]
    assert stabler == sorted(stabler)
    assert [step["images"] for step in halves["repeats"]] == [64, 256, 1024, 4096]
    assert all(sorted(order) == sorted(map(str, blocks)) for order in halves["orders"])
    alike = len(set(halves["orders"][0][:5]) & set(halves["orders"][1][:5]))
    assert (alike >= 4) is repeats


@pytest.mark.slow
def test_an_interrupted_run_goes_on_at_its_block_and_is_accepted_where_the_profile_reads(
    ranked: Path, shorten: Shorten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read(ranked)
    names = [before["blocks"][place]["block"] for place in (0, 2, 5)]
    lost = [ranked.parent / "removal" / f"{name}.json" for name in names]
    expected = [read(path)["results"] for path in lost]
    for path in lost:
        path.unlink()
    drawn: list[str] = []

    def counted(pipeline: Any, prompts: Any, sampling: Any, folder: Path, inputs: Any) -> Path:
        drawn.append(folder.name)
        return real(pipeline, prompts, sampling, folder, inputs)

    real = bench.studies.ranking.generate
    monkeypatch.setattr(bench.studies.ranking, "generate", counted)
    shorten(monkeypatch)
    monkeypatch.setattr(bench.studies.ranking, "RANKINGS", tmp_path)
    assert rank(profile_name="shapes", samples=1, accept=True, workers=1, runs=ranked.parents[3]) == ranked
    assert sorted(drawn) == sorted(names)
    assert [read(path)["results"] for path in lost] == expected, "one worker finds what two found"
    assert [entry["block"] for entry in read(ranked)["blocks"]] == [entry["block"] for entry in before["blocks"]]
    assert read(committed_ranking(load_profile("shapes")))["blocks"] == read(ranked)["blocks"]


@pytest.mark.slow
def test_a_metric_that_fails_stops_the_ranking_and_puts_the_block_back(
    ranked: Path, shorten: Shorten, monkeypatch: pytest.MonkeyPatch
) -> None:
    def incomplete(self: FID, images: Any) -> Any:
        return Measurement.failed(self.info, "planted")

    monkeypatch.setattr(FID, "__call__", incomplete)
    shorten(monkeypatch)
    next(path for path in sorted(ranked.parent.glob("removal/*_blocks.*.json"))).unlink()
    with pytest.raises(FastFluxError, match="planted"):
        rank(profile_name="shapes", samples=1, workers=1, runs=ranked.parents[3])


def test_no_samples_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "--samples", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err
