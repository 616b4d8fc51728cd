"""HPDv2's files: prompts, the folders of images that hpsv2 reads, and what must not be scored silently."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.samples.image_set import ImageSet, ImageSetError
from bench.samples.layouts import STYLES, read_benchmark_prompts, read_layout
from bench.samples.prompts import Prompt
from fastflux.errors import FastFluxError
from tests.bench.conftest import WriteImages
from tests.bench.hpsv2_layout import write_layout


@pytest.fixture
def prompts(hps_prompts: list[dict[str, Any]]) -> list[Prompt]:
    return [Prompt(**entry) for entry in hps_prompts]


@pytest.fixture
def images(write_images: WriteImages, hps_prompts: list[dict[str, Any]]) -> ImageSet:
    return ImageSet.read(write_images(hps_prompts, samples=2, size=24))


def write_texts(folder: Path, **texts: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for style in STYLES:
        (folder / f"{style}.json").write_text(json.dumps(texts.get(style, [f"{style} one", f"{style} two"])))
    return folder


def test_prompts_are_read_in_order(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "in", photo=["a café", "a café", "a jug"])  # HPDv2 may repeat a text
    found = read_benchmark_prompts(folder)
    assert [prompt.id for prompt in found if prompt.style == "photo"] == [f"hps-photo-{n:05d}" for n in range(3)]
    assert [prompt.prompt for prompt in found if prompt.style == "photo"] == ["a café", "a café", "a jug"]
    assert {prompt.set for prompt in found} == {"hps"}


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "in")
    (folder / "photo.json").write_text('["a jug", "a\u2028b"]', encoding="utf-8-sig")
    assert [prompt.prompt for prompt in read_benchmark_prompts(folder, ("photo",))] == ["a jug", "a\u2028b"]


@pytest.mark.parametrize("content", ['{"prompts": []}', "[]", '["a star", 3]', '["a star", ""]'])
def test_files_that_are_no_prompts_are_refused(tmp_path: Path, content: str) -> None:
    folder = write_texts(tmp_path / "in")
    (folder / "photo.json").write_text(content)
    with pytest.raises(FastFluxError, match=r"photo\.json is no list of texts"):
        read_benchmark_prompts(folder)


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match=r"anime\.json is not there; .*zhwang/HPDv2"):
        read_benchmark_prompts(tmp_path)
    folder = write_texts(tmp_path / "in")
    (folder / "photo.json").write_text('["a st')
    with pytest.raises(FastFluxError, match=r"photo\.json is no JSON"):
        read_benchmark_prompts(folder)


def test_images_are_read_by_their_numbers_and_all_are_expected(
    images: ImageSet, prompts: list[Prompt], tmp_path: Path
) -> None:
    backwards = prompts[::-1]  # the order of the prompts numbers the files, not the order of the ids
    root = write_layout(images, backwards, tmp_path / "layout")
    found = read_layout(root, backwards)
    assert [image.prompt_id for image in found.images] == sorted(prompt.id for prompt in prompts)
    assert {image.prompt_id: image.prompt for image in found.images} == {p.id: p.prompt for p in prompts}
    assert found.missing() == found.surplus() == ()
    assert found.images[-1].file == root / "photo" / "00000.jpg"
    with Image.open(root / "photo" / "00000.jpg") as image:
        assert (found.images[-1].read() == np.asarray(image)).all()
    (root / "photo" / "00001.jpg").unlink()
    assert read_layout(root, backwards).missing() == (str(root / "photo" / "00001.jpg"),)


@pytest.mark.parametrize("extra", ["photo/00003.jpg", "sketch/00000.jpg", "photo/00000.png"])
def test_images_without_a_prompt_are_refused(
    images: ImageSet, prompts: list[Prompt], tmp_path: Path, extra: str
) -> None:
    root = write_layout(images, prompts, tmp_path / "layout")
    (root / extra).parent.mkdir(exist_ok=True)
    (root / extra).write_bytes(b"")
    with pytest.raises(ImageSetError, match=rf"1 files for which there is no prompt, e\.g\. {extra}; expected 12"):
        read_layout(root, prompts)


def test_folders_and_prompts_that_cannot_be_used_are_named(prompts: list[Prompt], tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match="absent is no folder"):
        read_layout(tmp_path / "absent", prompts)
    with pytest.raises(FastFluxError, match="the id 'hps-anime-000' twice"):
        read_layout(tmp_path, [*prompts, prompts[0]])
