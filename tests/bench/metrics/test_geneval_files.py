"""GenEval's metadata file and image folders."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.samples.image_set import UNKNOWN_SEED, ImageSet, ImageSetError
from bench.samples.layouts import read_geneval_folder, read_metadata
from bench.samples.prompts import Prompt
from fastflux.errors import FastFluxError
from tests.bench.conftest import WriteImages
from tests.bench.geneval_folder import write_geneval_folder

DOG = {"class": "dog", "count": 1}
LINES: list[dict[str, Any]] = [
    {"tag": "single_object", "include": [DOG], "prompt": "a photo of a dog"},
    {
        "tag": "counting",
        "include": [{"class": "cat", "count": 3}],
        "exclude": [{"class": "cat", "count": 4}],
        "prompt": "a photo of three cats",
    },
    {
        "tag": "position",
        "include": [DOG, {"class": "cat", "count": 1, "position": ["left of", 0]}],
        "prompt": "a photo of a cat left of a dog",
    },
]


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def entries(path: Path) -> list[dict[str, Any]]:
    """Prompts as `write_images` takes them."""
    return [{"id": p.id, "set": "geneval", "prompt": p.prompt, "metadata": p.metadata} for p in read_metadata(path)]


def test_prompts_are_named_by_their_lines(metadata: Path) -> None:
    prompts = read_metadata(metadata)
    assert [prompt.id for prompt in prompts] == ["geneval-00000", "geneval-00001", "geneval-00002"]
    assert prompts[1] == Prompt(
        "geneval-00001",
        "geneval",
        "a photo of three cats",
        None,
        {"tag": "counting", "include": [{"class": "cat", "count": 3}], "exclude": [{"class": "cat", "count": 4}]},
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("{broken", "no JSON"),
        ("[]", "Expected `object`, got `array`"),
        ({"tag": "colours"}, r"'colours' - at `\$\.tag`"),
        ({"prompt": ""}, r"length >= 1 - at `\$\.prompt`"),
        ({"includes": []}, "unknown field `includes`"),
        ({"include": []}, r"length >= 1 - at `\$\.include`"),
        ({"include": [{"class": "dog"}]}, r"`count` - at `\$\.include\[0\]`"),
        ({"include": [{"class": "dog", "count": 0}]}, r">= 1 - at `\$\.include\[0\]\.count`"),
        ({"include": [{**DOG, "color": "teal"}]}, r"'teal' - at `\$\.include\[0\]\.color`"),
        ({"include": [{**DOG, "position": ["left of", 0]}]}, "relative to entry 0"),
        ({"include": [DOG, {**DOG, "position": ["beside", 0]}]}, r"'beside' - at `\$\.include\[1\]\.position\[0\]`"),
        ({"exclude": [{**DOG, "color": "red"}]}, r"`color` - at `\$\.exclude\[0\]`"),
        ({"id": "../dog"}, r"matching regex .* - at `\$\.id`"),
        ({"id": "a/dog"}, r"matching regex .* - at `\$\.id`"),
        ({"id": ""}, r"matching regex .* - at `\$\.id`"),
        ({"include": [DOG, {**DOG, "position": None}]}, r"got `null` - at `\$\.include\[1\]\.position`"),
        ({"exclude": {}}, r"got `object` - at `\$\.exclude`"),
    ],
)
def test_another_form_is_named_with_its_line(metadata: Path, change: str | dict[str, Any], what: str) -> None:
    line = change if isinstance(change, str) else json.dumps({**LINES[0], **change})
    with metadata.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(FastFluxError, match=f"line 4.*{what}"):
        read_metadata(metadata)


def test_a_part_of_the_prompts_is_no_whole(metadata: Path, tmp_path: Path, write_images: WriteImages) -> None:
    prompts = [replace(prompt, id=f"own-{prompt.id}") for prompt in read_metadata(metadata)]
    whole = write_geneval_folder(ImageSet.read(write_images(entries(metadata), size=8)), tmp_path / "out")
    assert read_geneval_folder(whole, prompts).missing() == ()
    shutil.rmtree(whole / "00001")
    found = read_geneval_folder(whole, prompts)
    assert {image.prompt_id for image in found.images} == {"own-geneval-00000", "own-geneval-00002"}
    assert found.missing() == ("sample 0 of own-geneval-00001", "sample 1 of own-geneval-00001")
    others = [replace(prompt, prompt="another") for prompt in prompts]
    with pytest.raises(ImageSetError, match="has no folder 00001, though later ones"):
        read_geneval_folder(whole, others)


def test_no_file_and_no_lines_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match=r"Cannot read .*absent\.jsonl"):
        read_metadata(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(FastFluxError, match="holds no prompts"):
        read_metadata(tmp_path / "empty.jsonl")


def test_images_come_back_from_the_evaluators_folders(
    metadata: Path, tmp_path: Path, write_images: WriteImages
) -> None:
    images = ImageSet.read(write_images(entries(metadata), samples=2, size=16))
    root = write_geneval_folder(images, tmp_path / "for-geneval")
    again = read_geneval_folder(root)
    assert again.missing() == ()
    for ours, theirs, pixels, others in zip(images.images, again.images, images, again, strict=True):
        assert (ours.prompt_id, ours.sample, ours.prompt) == (theirs.prompt_id, theirs.sample, theirs.prompt)
        assert (ours.metadata, theirs.seed) == (theirs.metadata, UNKNOWN_SEED)
        assert (pixels == others).all()


def made_elsewhere(root: Path, number: int = 0, names: tuple[str, ...] = ("0000.png", "0001.png")) -> Path:
    folder = root / f"{number:05}"
    (folder / "samples").mkdir(parents=True)
    (folder / "metadata.jsonl").write_text(json.dumps(LINES[number]))
    for name in names:
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(folder / "samples" / name)
    return folder


def test_grids_and_other_files_are_passed_over(tmp_path: Path) -> None:
    folder = made_elsewhere(tmp_path)
    made_elsewhere(tmp_path, 2)
    Image.new("RGB", (4, 4)).save(folder / "grid.png")
    (folder / "samples" / "notes.txt").write_text("")
    (tmp_path / "logs").mkdir()
    found = read_geneval_folder(tmp_path)
    assert [(image.prompt_id, image.sample) for image in found.images] == [
        ("geneval-00000", 0),
        ("geneval-00000", 1),
        ("geneval-00002", 0),
        ("geneval-00002", 1),
    ]


def test_folders_that_are_not_whole_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageSetError, match="is not a folder"):
        read_geneval_folder(tmp_path / "absent")
    with pytest.raises(ImageSetError, match="has no folders 00000"):
        read_geneval_folder(tmp_path)
    folder = made_elsewhere(tmp_path, names=())
    with pytest.raises(ImageSetError, match="holds no images"):
        read_geneval_folder(tmp_path)
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(ImageSetError, match=r"lacks metadata\.jsonl"):
        read_geneval_folder(tmp_path)


def test_a_prompt_in_two_folders_is_an_error(tmp_path: Path) -> None:
    for number in (0, 1):
        folder = made_elsewhere(tmp_path, number)
        (folder / "metadata.jsonl").write_text(json.dumps({**LINES[0], "id": "dog"}))
    with pytest.raises(ImageSetError, match="both hold 'dog'"):
        read_geneval_folder(tmp_path)
