"""Figures: what they show, that their bytes repeat, and what unusable images get."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from fastflux.errors import FastFluxError
from reports.build import MAXIMUM_GRID_BYTES, build
from reports.figures import quality_against_latency
from reports.image_grid import Shot, image_grid, pick_shots, read_manifest
from reports.rows import rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeRecord, Measured

    from bench.results import RunRecord

PROMPTS = (
    ("hps-anime-000", "hps", "anime"),
    ("hps-photo-000", "hps", "photo"),
    ("geneval-colors-000", "geneval", "colors"),
)


def write_images(folder: Path, *, seed: int = 7, level: int = 0) -> Path:
    """A variant's folder of flat 64 x 64 images; returns its manifest."""
    lines = []
    for index, (prompt_id, set_name, kind) in enumerate(PROMPTS):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64, 3), 60 * index + level, dtype=np.uint8)).save(
            folder / "images" / f"{prompt_id}_0.png"
        )
        about = {"style": kind} if set_name == "hps" else {"metadata": {"tag": kind}}
        entry = {
            "file": f"images/{prompt_id}_0.png",
            "prompt_id": prompt_id,
            "sample": 0,
            "seed": seed + index,
            "set": set_name,
        }
        lines.append(json.dumps({**entry, "prompt": f"a photo of ${kind}_{index}", "sha256": "0", **about}))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images" / "dense")
    write_images(tmp_path / "images" / "fastflux-10", level=20)
    return tmp_path / "images"


def test_the_grid_shows_each_variant_and_prompt(images: Path) -> None:
    manifests = {
        "FLUX-Shapes": images / "dense" / "manifest.jsonl",
        "FastFLUX-10%": images / "fastflux-10" / "manifest.jsonl",
    }
    figure = image_grid(manifests, title="T", cell=128)
    texts = [text.get_text() for text in figure.texts]
    assert texts[:3] == ["T", "FLUX-Shapes", "FastFLUX-10%"]
    assert texts[3:] == [
        "a photo of $colors_2\n[geneval colors]",
        "a photo of $anime_0\n[hps anime]",
        "a photo of $photo_1\n[hps photo]",
    ]
    pictures = [axes.images[0].get_array() for axes in figure.axes]
    assert [picture.shape for picture in pictures if picture is not None] == [(128, 128, 3)] * 6
    assert [int(picture[0, 0, 0]) for picture in pictures if picture is not None] == [120, 0, 60, 140, 20, 80]


def test_the_grid_is_the_same_bytes_each_time_and_small(results: Path, images: Path, tmp_path: Path) -> None:
    first = build(results, tmp_path / "a", ["table6"], ["png", "svg"], images)
    second = build(results, tmp_path / "b", ["table6"], ["png", "svg"], images)
    assert [path.name for path in first][-2:] == ["image_grid.png", "image_grid.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert all(path.stat().st_size < MAXIMUM_GRID_BYTES for path in first)
    assert "<dc:date>" not in first[-1].read_text(encoding="utf-8")


def test_images_without_a_figure_format_give_a_png(results: Path, images: Path, tmp_path: Path) -> None:
    assert [path.name for path in build(results, tmp_path / "out", [], ["md"], images)] == ["image_grid.png"]


def test_other_seeds_in_a_row_are_refused(images: Path) -> None:
    write_images(images / "fastflux-10", seed=8)
    with pytest.raises(FastFluxError, match="geneval-colors-000 sample 0 has different seeds"):
        image_grid({name: images / name / "manifest.jsonl" for name in ("dense", "fastflux-10")})


def test_a_truncated_image_is_named(images: Path) -> None:
    path = images / "dense" / "images" / "hps-anime-000_0.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(FastFluxError, match=r"hps-anime-000_0\.png cannot be read"):
        image_grid({"dense": images / "dense" / "manifest.jsonl"})


def test_a_bad_manifest_line_is_named_by_its_number(images: Path) -> None:
    manifest = images / "dense" / "manifest.jsonl"
    manifest.write_text(manifest.read_text(encoding="utf-8") + '{"file": "x.png"}\n', encoding="utf-8")
    with pytest.raises(FastFluxError, match=r"Line 4 of .*manifest.jsonl"):
        read_manifest(manifest)


def test_prompts_can_be_chosen_and_must_exist(images: Path) -> None:
    manifests = {"dense": images / "dense" / "manifest.jsonl"}
    assert len(image_grid(manifests, prompts=["hps-photo-000"]).axes) == 1
    with pytest.raises(FastFluxError, match="hps-nothing-000"):
        image_grid(manifests, prompts=["hps-nothing-000"])


def test_no_images_at_all_is_told(results: Path, tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match=r"holds no <variant>/manifest\.jsonl"):
        build(results, tmp_path / "out", [], ["png"], tmp_path / "nowhere")


def test_rows_are_spread_over_kinds_before_a_prompt_is_shown_twice(tmp_path: Path) -> None:
    shots = {
        (f"{kind}-{index}", sample): Shot(tmp_path, f"{kind}-{index}", sample, 0, "p", kind)
        for kind in ("a", "b") for index in range(3) for sample in range(2)
    }  # fmt: skip
    assert pick_shots(shots, 4) == [("a-0", 0), ("a-1", 0), ("b-0", 0), ("b-1", 0)]
    assert pick_shots(shots, 7)[-1] == ("b-2", 0)
    assert pick_shots({}, 4) == []


def test_the_quality_figure_has_a_panel_a_score_and_labels_on_the_points(
    make_record: MakeRecord, measured: Measured
) -> None:
    def record(variant: str, label: str, ratio: float) -> RunRecord:
        return make_record(
            variant,
            label,
            measured("latency", {"ratio_to_dense": ratio}, intervals={"ratio_to_dense": (ratio - 0.01, ratio)}),
            measured("hps", {"averaged": 30 * ratio}, intervals={"averaged": (29 * ratio, 31 * ratio)}),
        )

    records = [
        record("dense", "FLUX-Shapes", 1.0),
        record("fastflux-10", "FastFLUX-10%", 0.9),
        record("l1-12", "FLUX-Pruning-12%", 0.92),
    ]
    figure = quality_against_latency(rows_of(records))
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "HPS averaged"
    assert [text.get_text() for text in axes.texts] == ["10%", "FastFLUX", "12%", "L1-norm pruning", "dense"]
    assert "not HPS v2" in figure.get_suptitle()


def test_a_quality_figure_without_scores_is_refused(make_record: MakeRecord) -> None:
    with pytest.raises(FastFluxError, match=r"geneval\.overall"):
        quality_against_latency(rows_of([make_record("dense", "D")]))
