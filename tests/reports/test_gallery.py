"""Galleries: what goes in, what is left out, and what unusable files get."""

import json
from pathlib import Path

import numpy as np
import pytest
from drawn import PROMPTS, edit_record, write_images

from bench.samples.image_set import GeneratedImage
from fastflux.errors import FastFluxError
from reports.cli import main
from reports.figures.gallery import Gallery, collect, pick_shots, write_gallery
from reports.rows import read_rows


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images" / "dense")
    write_images(tmp_path / "images" / "fastflux-10", level=20)
    return tmp_path / "images"


def gallery_of(images: Path, *variants: str, **options: int) -> Gallery:
    manifests = {variant: images / variant / "manifest.jsonl" for variant in variants}
    return write_gallery(manifests, images.parent / "gallery", **options)  # type: ignore[arg-type]


def levels(gallery: Gallery, variant: str) -> list[int]:
    """The mean grey level of each tile; compression may move it a little."""
    sheet = gallery.sheet(variant)
    tiles = [np.asarray(sheet.crop(gallery.tile_box(index))) for index in range(len(gallery.shots))]
    assert {tile.shape for tile in tiles} == {(gallery.tile[1], gallery.tile[0], 3)}
    return [round(float(tile.mean())) for tile in tiles]


def test_it_holds_every_variants_images_by_kind_and_is_read_as_written(images: Path) -> None:
    written = gallery_of(images, "dense", "fastflux-10")
    gallery = Gallery.read(written.folder)
    assert gallery == written
    assert [(shot.prompt_id, shot.seed, shot.kind) for shot in gallery.shots] == [
        ("geneval-colors-000", 9, "geneval colors"),
        ("hps-anime-000", 7, "hps anime"),
        ("hps-photo-000", 8, "hps photo"),
    ]
    assert levels(gallery, "dense") == pytest.approx([120, 0, 60], abs=2)
    assert levels(gallery, "fastflux-10") == pytest.approx([140, 20, 80], abs=2)


def test_large_images_are_scaled_down_and_small_ones_never_up(images: Path) -> None:
    write_images(images / "large", edge=100)
    assert gallery_of(images, "dense", edge=200).tile == (64, 64)
    assert gallery_of(images, "large", edge=50).tile == (50, 50)
    assert levels(gallery_of(images, "large", "dense", edge=50), "dense") == pytest.approx([120, 0, 60], abs=2)


def test_images_of_other_or_unknown_seeds_are_left_out(images: Path) -> None:
    write_images(images / "other", seed=100)
    write_images(images / "unknown", seed=-9)
    assert list(gallery_of(images, "dense", "other", "fastflux-10").sheets) == ["dense", "fastflux-10"]
    with pytest.raises(FastFluxError, match="share no image of one seed"):
        gallery_of(images, "unknown")
    write_images(images / "first", prompts=PROMPTS[:1])
    assert [shot.prompt_id for shot in gallery_of(images, "dense", "first").shots] == ["hps-anime-000"]


def test_only_sheets_of_these_very_records_are_shown(images: Path, results: Path) -> None:
    rows = read_rows(results)
    (images / "l1-12").mkdir()
    [made] = collect(rows, images, images.parent / "gallery")
    assert list(made.of(rows).sheets) == ["dense", "fastflux-10"]
    path = results / "fastflux-10.json"
    edit_record(path, '"steps": 4', '"steps": 5')
    assert list(made.of(read_rows(results)).sheets) == ["dense"]


def test_images_without_single_blocks_have_a_gallery_that_stays_with_the_dense_model(
    images: Path, results: Path
) -> None:
    write_images(images / "single_removals" / "transformer_blocks.3", level=50)
    rows = read_rows(results)
    _, removals = collect(rows, images, images.parent / "gallery")
    assert removals.folder.name == "single_removals"
    assert list(removals.of(rows).sheets) == ["dense", "transformer_blocks.3"]
    assert not removals.of([row for row in rows if row.variant != "dense"]).sheets


def test_a_second_gallery_leaves_no_sheet_of_the_first(images: Path) -> None:
    gallery_of(images, "dense", "fastflux-10")
    folder = gallery_of(images, "dense").folder
    assert sorted(path.name for path in folder.iterdir()) == ["dense.avif", "gallery.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 9}, r"Invalid enum value 9 - at `\$\.schema_version`"),
        ({"sheets": {"dense": "../dense.avif"}}, "not beside it"),
        ({"sheets": {"dense": "nothing.avif"}}, "not beside it"),
        ({"tile": 64}, "is no gallery"),
    ],
)
def test_an_index_that_cannot_be_used_is_told(images: Path, change: dict[str, object], message: str) -> None:
    folder = gallery_of(images, "dense").folder
    index = folder / "gallery.json"
    index.write_text(json.dumps({**json.loads(index.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(FastFluxError, match=message):
        Gallery.read(folder)


def test_sheets_that_are_cut_or_too_small_are_named(images: Path) -> None:
    gallery = gallery_of(images, "dense")
    path = gallery.folder / "dense.avif"
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    with pytest.raises(FastFluxError, match=r"dense\.avif cannot be read"):
        gallery.sheet("dense")
    write_images(images / "small", edge=32)
    path.write_bytes((gallery_of(images, "small").folder / "small.avif").read_bytes())
    with pytest.raises(FastFluxError, match="were expected for 3 tiles"):
        gallery.sheet("dense")


def test_a_truncated_image_is_named(images: Path) -> None:
    path = images / "dense" / "images" / "hps-anime-000_0.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(FastFluxError, match=r"hps-anime-000_0\.png cannot be read"):
        gallery_of(images, "dense")


def test_no_images_at_all_and_impossible_numbers_are_told(results: Path, images: Path, tmp_path: Path) -> None:
    rows = read_rows(results)
    with pytest.raises(FastFluxError, match=r"holds no <variant>/manifest\.jsonl"):
        collect(rows, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(FastFluxError, match="0 shots of 192 pixels"):
        collect(rows, images, tmp_path / "out", shots=0)
    with pytest.raises(FastFluxError, match="No such file"):
        Gallery.read(tmp_path / "out")


def test_command_line_makes_one(
    results: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main(["gallery", "--results", str(results), "--images", str(images), "--shots", "2", "-o", out]) == 0
    assert capsys.readouterr().out == f"{out}: 2 images of 2 variants\n"


def test_shots_are_spread_over_kinds_before_a_prompt_is_shown_twice(tmp_path: Path) -> None:
    shots = {
        (f"{kind}-{index}", sample): GeneratedImage(tmp_path, f"{kind}-{index}", sample, 0, kind, None, None, "p")
        for kind in ("a", "b") for index in range(3) for sample in range(2)
    }  # fmt: skip
    assert pick_shots(shots, 4) == [("a-0", 0), ("a-1", 0), ("b-0", 0), ("b-1", 0)]
    assert pick_shots(shots, 7)[1] == ("a-0", 1)
    assert pick_shots({}, 4) == []
