"""Grids of images: which stand side by side, what is drawn where, and that the bytes repeat."""

from pathlib import Path

import numpy as np
import pytest
from drawn import write_images

from fastflux.errors import FastFluxError
from reports.build import MAXIMUM_GRID_BYTES, build
from reports.figures.gallery import Gallery, GalleryShot, collect, write_gallery
from reports.figures.image_grid import GRIDS, Columns, Shown, grid_rows, image_grid
from reports.figures.ranking import Ranking
from reports.grouping import DEFAULT_TOLERANCE
from reports.rows import read_rows, rows_of
from tests.reports.conftest import MakeRecord, Measured

BLOCKS = [f"single_transformer_blocks.{index}" for index in range(6)] + ["transformer_blocks.0", "transformer_blocks.1"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for place, variant in enumerate(("dense", "fastflux-10", "l1-12")):
        write_images(tmp_path / "images" / variant, level=20 * place)
    return tmp_path / "images"


def gallery_of(*variants: str) -> Gallery:
    return Gallery(None, (8, 8), 4, (), dict.fromkeys(variants, "x"), dict.fromkeys(variants, ""))  # type: ignore[arg-type]


def ranking() -> Ranking:
    blocks = tuple({"block": block, "importance": place, "residual_r2": 0.5} for place, block in enumerate(BLOCKS))
    return Ranking("m", blocks, {}, {}, {})


def labels(name: str, shown: Shown, gallery: Gallery) -> list[tuple[str, list[str]]]:
    return [(group.heading, list(group.variants)) for group in GRIDS[name].columns(shown, gallery)]


def test_each_of_the_papers_figures_shows_what_it_compares(make_record: MakeRecord, measured: Measured) -> None:
    ratios = {"dense": 1.0, "fastflux-10": 0.91, "l1-12": 0.9, "removal-10": 0.9, "brll-10": 0.9, "external-dalle": 1.0}
    rows = rows_of(
        make_record(variant, variant.upper(), measured("latency", {"ratio_to_dense": ratio}))
        for variant, ratio in ratios.items()
    )
    shown, gallery = Shown(rows, ranking(), DEFAULT_TOLERANCE), gallery_of(*ratios, *BLOCKS)
    assert labels("image_grid", shown, gallery) == [
        ("", ["DENSE", "FASTFLUX-10"]),
        ("other models", ["EXTERNAL-DALLE"]),
    ]
    assert labels("latency_groups", shown, gallery) == [
        ("", ["DENSE"]),
        ("latency about 0.90 of dense", ["L1-12", "FASTFLUX-10"]),
    ]
    assert labels("replacement_strategies", shown, gallery) == [
        ("", ["dense", "removed", "linear layer, w/o ST", "FastFLUX"])
    ]
    assert labels("block_removals", shown, gallery) == [
        ("", ["dense"]),
        ("without one of the blocks that matter most", ["double 1", "double 0", "single 5", "single 4"]),
        ("without one of those that matter least", ["single 0", "single 1", "single 2", "single 3"]),
    ]


@pytest.mark.parametrize("name", list(GRIDS))
def test_a_grid_that_would_compare_nothing_is_not_drawn(make_record: MakeRecord, name: str) -> None:
    rows = rows_of([make_record("dense", "D"), make_record("l1-12", "L")])
    assert GRIDS[name].columns(Shown(rows, ranking(), DEFAULT_TOLERANCE), gallery_of("dense", "l1-12", BLOCKS[0])) == ()
    assert GRIDS[name].columns(Shown(rows, None, DEFAULT_TOLERANCE), gallery_of("dense", *BLOCKS)) == ()


def test_each_place_shows_its_variant_and_prompt(images: Path) -> None:
    variants = ("dense", "fastflux-10")
    gallery = write_gallery({name: images / name / "manifest.jsonl" for name in variants}, images.parent / "gallery")
    groups = (Columns("", {"FLUX-Shapes": "dense"}), Columns("faster", {"FastFLUX-10%": "fastflux-10"}))
    figure = image_grid(gallery, groups, title="T", cell=128)
    texts = [text.get_text() for text in figure.texts]
    assert texts[:4] == ["T", "FLUX-Shapes", "faster", "FastFLUX-10%"]
    assert texts[4:] == [
        "a photo of $colors_2\n[geneval colors]",
        "a photo of $anime_0\n[hps anime]",
        "a photo of $photo_1\n[hps photo]",
    ]
    pictures = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert [picture.shape for picture in pictures] == [(128, 128, 3)] * 6
    assert [float(picture.mean()) for picture in pictures] == pytest.approx([120, 0, 60, 140, 20, 80], abs=2)
    native = image_grid(gallery, groups, cell=128, native=True)
    assert {np.asarray(axes.images[0].get_array()).shape for axes in native.axes} == {(64, 64, 3)}
    with pytest.raises(FastFluxError, match="no sheet of l1-12"):
        image_grid(gallery, [Columns("", {"L": "l1-12"})])


def test_rows_are_of_every_kind_and_not_all_of_one_prompt_template(images: Path) -> None:
    shots = tuple(GalleryShot(f"{kind}-{index}", 0, 0, "p", kind) for kind in "abc" for index in range(8))
    gallery = Gallery(images, (8, 8), 4, shots, {}, {})
    chosen = [shots[index].prompt_id for index in grid_rows(gallery, 3)]
    assert chosen == ["a-0", "b-5", "c-2"]
    assert len(set(grid_rows(gallery, 24))) == 24
    assert len(grid_rows(gallery, 100)) == 24
    assert [shots[index].kind for index in grid_rows(gallery, 4)] == ["a", "a", "b", "c"]


def test_grids_are_the_same_bytes_each_time_and_small(results: Path, images: Path, tmp_path: Path) -> None:
    collect(read_rows(results), images, tmp_path / "gallery")
    first, second = (
        build(results, tmp_path / name, ["table6"], ["png", "svg"], tmp_path / "gallery") for name in ("a", "b")
    )
    names = ["image_grid.png", "image_grid.svg", "latency_groups.png", "latency_groups.svg"]
    assert [path.name for path in first][-4:] == names
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert all(path.stat().st_size < MAXIMUM_GRID_BYTES for path in first)
    assert "<dc:date>" not in first[-1].read_text(encoding="utf-8")


def test_without_a_figure_format_grids_are_png(results: Path, images: Path, tmp_path: Path) -> None:
    collect(read_rows(results), images, tmp_path / "gallery")
    written = build(results, tmp_path / "out", [], ["md"], tmp_path / "gallery")
    assert [path.name for path in written] == ["image_grid.png", "latency_groups.png"]


def test_a_gallery_of_other_records_is_refused(results: Path, images: Path, tmp_path: Path) -> None:
    write_gallery({"dense": images / "dense" / "manifest.jsonl"}, tmp_path / "gallery", records={"dense": "0" * 16})
    with pytest.raises(FastFluxError, match="shows none of these records' images"):
        build(results, tmp_path / "out", [], ["png"], tmp_path / "gallery")
