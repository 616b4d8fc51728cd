"""HPDv2's files: prompts, the folders of images that hpsv2 reads, and what must not be scored silently."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.samples.hps_layout import STYLES, read_benchmark_prompts, read_layout, write_benchmark_prompts, write_layout
from bench.samples.image_set import ImageSet, ImageSetError
from bench.samples.prompts import Prompt
from fastflux.errors import FastFluxError
from tests.bench.conftest import WriteImages


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


def test_prompts_are_read_in_order_and_written_back(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "in", photo=["a café", "a café", "a jug"])  # HPDv2 may repeat a text
    found = read_benchmark_prompts(folder)
    assert [prompt.id for prompt in found if prompt.style == "photo"] == [f"hps-photo-{n:05d}" for n in range(3)]
    assert [prompt.prompt for prompt in found if prompt.style == "photo"] == ["a café", "a café", "a jug"]
    assert {prompt.set for prompt in found} == {"hps"}
    write_benchmark_prompts(found, tmp_path / "out")
    assert read_benchmark_prompts(tmp_path / "out") == found


@pytest.mark.parametrize("content", ['{"prompts": []}', "[]", '["a star", 3]', '["a star", ""]'])
def test_files_that_are_no_prompts_are_refused(tmp_path: Path, content: str) -> None:
    folder = write_texts(tmp_path / "in")
    (folder / "photo.json").write_text(content)
    with pytest.raises(FastFluxError, match=r"photo\.json is no list of texts"):
        read_benchmark_prompts(folder)


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match=r"anime\.json cannot be read .*zhwang/HPDv2"):
        read_benchmark_prompts(tmp_path)
    folder = write_texts(tmp_path / "in")
    (folder / "photo.json").write_text('["a st')
    with pytest.raises(FastFluxError, match=r"photo\.json cannot be read"):
        read_benchmark_prompts(folder)


def test_images_are_laid_out_as_hpsv2_reads_them(images: ImageSet, prompts: list[Prompt], tmp_path: Path) -> None:
    root = tmp_path / "layout"
    backwards = prompts[::-1]  # the order of the prompts numbers the files, not the order of the ids
    write_layout(images, backwards, root, sample=1)
    files = sorted(str(file.relative_to(root)) for file in root.rglob("*.jpg"))
    assert files == sorted(f"{style}/{index:05d}.jpg" for style in STYLES for index in range(3))
    source = next(image for image in images.images if (image.prompt_id, image.sample) == ("hps-photo-002", 1))
    again = tmp_path / "again.jpg"
    Image.fromarray(source.read()).save(again)  # at PIL's default quality
    assert (root / "photo" / "00000.jpg").read_bytes() == again.read_bytes()
    found = read_layout(root, backwards)
    assert [image.prompt_id for image in found.images] == sorted(prompt.id for prompt in prompts)
    assert {image.prompt_id: image.prompt for image in found.images} == {p.id: p.prompt for p in prompts}
    assert found.missing() == found.surplus() == ()
    with Image.open(again) as image:
        assert (found.images[-1].read() == np.asarray(image)).all()


def test_jpeg_files_are_linked_to(images: ImageSet, prompts: list[Prompt], tmp_path: Path) -> None:
    write_layout(images, prompts, tmp_path / "one")
    write_layout(read_layout(tmp_path / "one", prompts), prompts, tmp_path / "two")
    file = tmp_path / "two" / "anime" / "00001.jpg"
    assert file.is_symlink()
    assert file.read_bytes() == (tmp_path / "one" / "anime" / "00001.jpg").read_bytes()


def test_what_hpsv2_would_leave_out_silently_is_an_error(
    images: ImageSet, prompts: list[Prompt], tmp_path: Path
) -> None:
    with pytest.raises(ImageSetError, match=r"1 of 12 prompts have no image of sample 0, e\.g\. 'hps-anime-000'"):
        write_layout(ImageSet(images.images[1:]), prompts, tmp_path / "layout")
    with pytest.raises(ImageSetError, match="12 of 12 prompts have no image of sample 2"):
        write_layout(images, prompts, tmp_path / "layout", sample=2)
    write_layout(images, prompts, tmp_path / "layout")
    with pytest.raises(FastFluxError, match="not empty"):
        write_layout(images, prompts, tmp_path / "layout")
    (tmp_path / "layout" / "photo" / "00001.jpg").unlink()
    assert read_layout(tmp_path / "layout", prompts).missing() == (str(tmp_path / "layout" / "photo" / "00001.jpg"),)


@pytest.mark.parametrize("extra", ["photo/00003.jpg", "sketch/00000.jpg", "photo/00000.png"])
def test_images_without_a_prompt_are_refused(
    images: ImageSet, prompts: list[Prompt], tmp_path: Path, extra: str
) -> None:
    root = tmp_path / "layout"
    write_layout(images, prompts, root)
    (root / extra).parent.mkdir(exist_ok=True)
    (root / extra).write_bytes(b"")
    with pytest.raises(ImageSetError, match=rf"1 files for which there is no prompt, e\.g\. {extra}; expected 12"):
        read_layout(root, prompts)


def test_folders_and_prompts_that_cannot_be_used_are_named(prompts: list[Prompt], tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match="absent is no folder"):
        read_layout(tmp_path / "absent", prompts)
    with pytest.raises(FastFluxError, match="the id 'hps-anime-000' twice"):
        read_layout(tmp_path, [*prompts, prompts[0]])


def test_a_damaged_image_is_not_laid_out(images: ImageSet, prompts: list[Prompt], tmp_path: Path) -> None:
    file = images.images[0].file
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ImageSetError, match=r"hps-anime-000_0\.png is not the file"):
        write_layout(images, prompts, tmp_path / "layout")
