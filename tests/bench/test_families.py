"""Sizes of published models: the counter, the hand formula, what makers say and the table in docs/models.md agree."""

from pathlib import Path

import pytest
import torch

from bench.metrics.cost.flops import CLIP_TOKENS
from bench.studies.families import HEADER, PUBLISHED, size_of
from fastflux.models.architecture import architecture_of, architectures
from fastflux.models.pruned import parameter_count
from tests.bench.families_by_hand import by_hand
from tests.fastflux.families import CONFIGS, make

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
TEXT = {
    family.model_class.__name__: family.text_tokens + CLIP_TOKENS * family.clip_in_sequence
    for family in architectures()
}


@pytest.mark.parametrize("name", CONFIGS)
def test_tiny_models_count_as_the_hand_does(name: str) -> None:
    class_name, config = CONFIGS[name]
    with torch.device("meta"):
        model = make(name)
    text = TEXT[class_name]
    hand = by_hand(class_name, config, image=16, text=text)
    size = size_of(model, 64)
    assert size.parameters == parameter_count(model) == hand.parameters
    assert size.flops == hand.flops
    assert sum(size.blocks.values()) == len(architecture_of(model).chain(model))


def shown() -> dict[str, list[str]]:
    """The table of the page, by model."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    start = rows.index([*HEADER])
    return {cells[0]: cells for cells in rows[start + 2 :] if len(cells) == len(HEADER)}


def test_the_page_shows_all_models() -> None:
    assert [*shown()] == [*PUBLISHED]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_page_shows_what_the_hand_counts_and_makers_say(name: str) -> None:
    entry, cells = PUBLISHED[name], shown()[name]
    hand = by_hand(entry["class"], entry.get("config", {}), image=4096, text=TEXT[entry["class"]])
    counted = int(cells[2].split(" ")[0].replace(",", ""))
    assert counted == hand.parameters
    assert float(cells[5]) == pytest.approx(hand.flops / 1e12, rel=1e-3)
    assert float(cells[3]) == pytest.approx(2 * counted / 1e9, abs=0.05)
    told = entry["parameters"]
    held = counted + hand.buffers
    if isinstance(told, int):
        assert held == told
    else:
        digits = len(told.removesuffix("B").partition(".")[2])
        assert held / 1e9 == pytest.approx(float(told.removesuffix("B")), abs=0.06 if digits else 0.51)


def test_halves_save_what_the_hand_counts() -> None:
    width, tokens = 3072, 4096 + 512
    parameters = 3 * (width**2 + width) + 2 * 128  # query, key and value, and two norms of heads
    flops = 3 * 2 * tokens * width**2 + 2 * 2 * tokens**2 * width
    mlp = 4 * width**2 + 4 * width + 4 * width**2 - width**2  # a layer from the normed tokens stands in its place
    whole = by_hand("FluxTransformer2DModel", PUBLISHED["FLUX.1-dev"].get("config", {}), image=4096, text=512)
    _, single = shown()["FLUX.1-dev"][7].split("; single ")
    assert single == (
        f"{parameters / whole.parameters:.2%} and {flops / whole.flops:.2%}, "
        f"{mlp / whole.parameters:.2%} and {7 * 2 * tokens * width**2 / whole.flops:.2%}"
    )
    assert {name for name, cells in shown().items() if not cells[7]} == {
        "Z-Image", "Chroma1-HD", "LongCat-Image", "Ovis-Image-7B",
    }  # fmt: skip
