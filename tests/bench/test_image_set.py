"""Manifests and image files: order, subsets, gaps and damage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.samples.image_set import ImageSet, ImageSetError
from tests.bench.conftest import WriteImages

GENEVAL = {"id": "geneval-colors-000", "set": "geneval", "prompt": "a red star", "metadata": {"tag": "colors"}}


def rewrite(manifest: Path, change: dict[str, Any], line: int = 0) -> None:
    lines = [json.loads(text) for text in manifest.read_text().splitlines()]
    lines[line] = {**lines[line], **change}
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in lines))


def test_a_manifest_gives_images_in_order_and_their_pixels(
    write_images: WriteImages, hps_prompts: list[dict[str, Any]]
) -> None:
    manifest = write_images([*reversed(hps_prompts), GENEVAL], size=8)
    images = ImageSet.read(manifest)
    keys = [(image.prompt_id, image.sample) for image in images.images]
    assert keys == sorted(keys)
    assert len(images) == 26
    assert images.missing() == ()
    assert [pixels.shape for pixels in images] == [(8, 8, 3)] * 26
    assert all(pixels.dtype == np.uint8 for pixels in images)
    geneval = images.subset("geneval")
    assert [(image.style, image.metadata) for image in geneval.images] == [(None, {"tag": "colors"})] * 2
    assert {image.style for image in images.subset("hps").images} == {"anime", "concept-art", "paintings", "photo"}


def test_what_is_missing_is_named(write_images: WriteImages, hps_prompts: list[dict[str, Any]]) -> None:
    manifest = write_images(hps_prompts[:2], size=8)
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:-1]))
    (manifest.parent / "images" / "hps-anime-000_1.png").unlink()
    images = ImageSet.read(manifest)
    assert images.missing() == (str(manifest.parent / "images" / "hps-anime-000_1.png"), "sample 1 of hps-anime-001")
    with pytest.raises(ImageSetError, match=r"hps-anime-000_1\.png cannot be read"):
        list(images)


def test_a_manifest_that_stopped_early_is_noticed_when_the_prompts_are_known(
    write_images: WriteImages, hps_prompts: list[dict[str, Any]]
) -> None:
    images = ImageSet.read(write_images(hps_prompts[:2], size=8))
    assert images.missing() == ()
    known = images.expecting(
        {entry["id"]: entry["set"] for entry in [*hps_prompts[:3], GENEVAL]}, {"hps": 2, "geneval": 2}
    )
    assert known.subset("hps").missing() == ("sample 0 of hps-anime-002", "sample 1 of hps-anime-002")
    assert known.subset("geneval").missing() == ("sample 0 of geneval-colors-000", "sample 1 of geneval-colors-000")
    assert images.expecting({"hps-anime-000": "hps", "hps-anime-001": "hps"}, {"hps": 2}).missing() == ()


@pytest.mark.parametrize("checked", [True, False], ids=["with sha256", "without"])
def test_a_truncated_image_is_an_error_that_names_it(write_images: WriteImages, *, checked: bool) -> None:
    manifest = write_images([GENEVAL])
    file = manifest.parent / "images" / "geneval-colors-000_0.png"
    file.write_bytes(file.read_bytes()[:5000])
    if not checked:
        rewrite(manifest, {"sha256": None})
    with pytest.raises(ImageSetError, match=r"geneval-colors-000_0\.png is"):
        list(ImageSet.read(manifest))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"stlye": "anime"}, "line 1 is no .* unknown field `stlye`"),
        ({"seed": "3"}, r"Expected `int`, got `str` - at `\$\.seed`"),
        ({"metadata": "colors"}, r"got `str` - at `\$\.metadata`"),
        ({"sample": -1}, r">= 0 - at `\$\.sample`"),
        ({"prompt_id": "hps/a"}, r"regex .* - at `\$\.prompt_id`"),
        ({"style": "anime/b"}, r"regex .* - at `\$\.style`"),
        ({"file": "../../elsewhere.png"}, r"'\.\./\.\./elsewhere\.png', which lies outside of"),
        ({"file": "/etc/passwd"}, "'/etc/passwd', which lies outside of"),
        ({"sample": 1}, "sample 1 of 'geneval-colors-000' twice"),
    ],
)
def test_bad_manifest_entries_are_refused(write_images: WriteImages, change: dict[str, Any], match: str) -> None:
    manifest = write_images([GENEVAL], size=8)
    rewrite(manifest, change)
    with pytest.raises(ImageSetError, match=match):
        ImageSet.read(manifest)


def test_separators_of_unicode_and_a_byte_order_mark_are_no_ends_of_lines(write_images: WriteImages) -> None:
    manifest = write_images([{**GENEVAL, "prompt": "a\u2028star"}], size=8)
    line = json.loads(manifest.read_text().splitlines()[0])
    manifest.write_text("\ufeff" + json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    assert ImageSet.read(manifest).images[0].prompt == "a\u2028star"


def test_unreadable_manifests_are_named(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    with pytest.raises(ImageSetError, match="Cannot read"):
        ImageSet.read(manifest)
    manifest.write_text('{"file": ')
    with pytest.raises(ImageSetError, match="line 1 is no JSON"):
        ImageSet.read(manifest)
    manifest.write_text("[]\n")
    with pytest.raises(ImageSetError, match=r"line 1 is no .* got `array`"):
        ImageSet.read(manifest)


def test_what_is_there_too_often_is_named(write_images: WriteImages, hps_prompts: list[dict[str, Any]]) -> None:
    images = ImageSet.read(write_images([*hps_prompts[:2], GENEVAL], size=8))
    assert images.surplus() == ()
    assert ImageSet((*images.images, images.images[0])).surplus() == ("sample 0 of geneval-colors-000",)
    known = images.expecting({"hps-anime-000": "hps", "geneval-colors-000": "geneval"}, {"hps": 1, "geneval": 2})
    assert known.surplus() == ("sample 1 of hps-anime-000", "sample 0 of hps-anime-001", "sample 1 of hps-anime-001")
    assert known.subset("geneval").surplus() == ()
