"""How long the hot paths take, by pytest-benchmark. `nox -s benchmark` names this file; `nox -s tests` does not see it.

Sizes are those of a FLUX-Shapes run, on its committed weights, prompts and records. Nothing is asserted of the times:
they are compared with those of earlier runs on the same machine.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.metrics.detection import Detection
from bench.metrics.quality.geneval_judge import judge
from bench.metrics.quality.hps import HPS, HPSSettings
from bench.profiles.profile import ROOT
from bench.samples.image_set import ImageSet, Pixels
from bench.samples.prompts import COLORS, read_prompts
from bench.settings import PlaceOrName
from bench.shapes import WEIGHTS
from fastflux.calibration.least_squares import LinearStatistics
from fastflux.io.checkpoint import load_transformer
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.models.architecture import architecture_of, example_inputs
from fastflux.plan import PruningPlan, Replacement
from fastflux.pruning import apply_plan_, prune_
from reports.build import build
from tests.bench.conftest import WriteImages

pytestmark = pytest.mark.benchmark(warmup=True, warmup_iterations=1, min_rounds=5, max_time=1.0)

BATCH = 8
FEATURES = 256
TOKENS = 2048
REPLACED = 11
"""Of 57 blocks at 20%, the paper's Table 6."""


def dense() -> Any:
    return load_transformer(WEIGHTS / "pipeline" / "transformer").eval()


def replaced() -> Any:
    """Linear layers, all zero: their values do not change the time."""
    transformer = dense()
    blocks = architecture_of(transformer).blocks(transformer)[-REPLACED:]
    apply_plan_(
        transformer,
        PruningPlan("", "", "linear_replacement", {}, tuple(Replacement(block, "linear") for block in blocks)),
    )
    return transformer


def sliced() -> Any:
    transformer = dense()
    prune_(transformer, L1NormConfig(0.21))
    return transformer


@pytest.mark.parametrize("make", [dense, replaced, sliced])
def test_transformer_step(benchmark: BenchmarkFixture, make: Callable[[], Any]) -> None:
    transformer = make()
    inputs = example_inputs(transformer, BATCH, 64, 64, 12, torch.Generator().manual_seed(0))

    def step() -> torch.Tensor:
        with torch.inference_mode():
            output: torch.Tensor = transformer(**inputs, return_dict=False)[0]
            return output

    assert torch.isfinite(benchmark(step)).all()


@pytest.fixture(scope="module")
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens at a block's input, and its residual, (tokens, features) each."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, FEATURES, generator=generator)
    return x, x @ torch.randn(FEATURES, FEATURES, generator=generator) / FEATURES**0.5


def test_least_squares_accumulate(benchmark: BenchmarkFixture, samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    statistics = LinearStatistics.empty(FEATURES, FEATURES)
    benchmark(statistics.update, *samples)
    assert statistics.count % TOKENS == 0


def test_least_squares_solve(benchmark: BenchmarkFixture, samples: tuple[torch.Tensor, torch.Tensor]) -> None:
    statistics = LinearStatistics.empty(FEATURES, FEATURES)
    statistics.update(*samples)
    assert statistics.r2(benchmark(statistics.solve)) > 0.99


def test_hps_of_a_batch(
    benchmark: BenchmarkFixture, write_images: WriteImages, hps_prompts: list[dict[str, Any]]
) -> None:
    images = ImageSet.read(write_images(hps_prompts, samples=5))  # 60 images
    scorer = HPS.load(HPSSettings(model=PlaceOrName(WEIGHTS / "hps"), batch_size=64))
    assert benchmark(scorer, images).scored == 60


def test_geneval_judge(benchmark: BenchmarkFixture) -> None:
    """Every committed prompt, with what it asks for and five more objects found in the image."""
    draw = random.Random(0)  # noqa: S311  # made detections
    prompts = [prompt.metadata for prompt in read_prompts(ROOT / "prompts" / "shapes" / "geneval.jsonl")]
    wanted = [
        [entry["class"] for entry in metadata["include"] for _ in range(entry["count"])]
        for metadata in prompts
        if metadata is not None
    ]
    found = [[_detection(draw, name) for name in [*names, *["ring"] * 5]] for names in wanted]
    image = torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()

    def colors(_: Pixels, objects: Sequence[Detection], __: str) -> list[str]:
        return [COLORS[0]] * len(objects)

    def all_prompts() -> int:
        return sum(judge(image, one, metadata, colors).correct for one, metadata in zip(found, prompts, strict=True))

    assert 0 < benchmark(all_prompts) < len(prompts)


def _detection(draw: random.Random, name: str) -> Detection:
    x, y = draw.uniform(0, 40), draw.uniform(0, 40)
    return Detection(name, draw.uniform(0.91, 1.0), (x, y, x + 20, y + 20))


def test_table_build(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    records = ROOT / "reports" / "data" / "results" / "cpu" / "shapes"
    written = benchmark(build, records, tmp_path, formats=("md", "tex"))
    assert all(path.stat().st_size for path in written)
