"""Prompts, captions and pictures that come from outside: taken as people mean and see them, or one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fastflux.calibration.images import read_captioned_images
from fastflux.calibration.prompts import read_prompts
from fastflux.errors import FastFluxError
from fastflux.pictures import open_picture


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("p.txt", b"a red star\r\n\n  a ring \n", ["a red star", "a ring"]),
        ("p.txt", b"\xef\xbb\xbfa red star\n", ["a red star"]),
        ("p.txt", "a\u2028b\x0bc\x85d\n".encode(), ["a\u2028b\x0bc\x85d"]),
        ("p.jsonl", b'{"prompt": "a red star"}\n\n{"prompt": "a ring", "id": "1"}\n', ["a red star", "a ring"]),
        ("p.JSONL", b'\xef\xbb\xbf{"prompt": "a red star"}\n', ["a red star"]),
        ("p.ndjson", b'{"text": "a red star"}\n"a ring"\n', ["a red star", "a ring"]),
        ("anime.json", b'["a red star", "a ring"]', ["a red star", "a ring"]),
        ("p.json", b'[{"caption": "a red star"}]', ["a red star"]),
    ],
)
def test_prompts_are_read_as_they_are_meant(tmp_path: Path, name: str, content: bytes, prompts: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_prompts(tmp_path / name) == prompts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"\n \n", "holds no prompt"),
        ("p.txt", "ein Stern für mich".encode("cp1252"), "no UTF-8 text"),
        ("p.txt", bytes(range(256)), "no UTF-8 text"),
        ("p.csv", b"prompt\na red star\n", "is a table"),
        ("p.json", b'{"prompt": "a"}', "no JSON list"),
        ("p.json", b"[" * 100_000, "is no JSON"),
        ("p.json", b'["a", null]', "entry 2 has a prompt that is no text: 'None'"),
        ("p.jsonl", b'{"prompt": "a red star"}\n{"id": 1}\n', "line 2 has none of the keys"),
        ("p.jsonl", b'{"prompt": 3}\n', "line 1 has a prompt that is no text: '3'"),
        ("p.jsonl", b'{"text": ["a", "b"]}\n', "line 1 has a prompt that is no text"),
        ("p.jsonl", b'{"prompt": " "}\n', "line 1 has a prompt that is no text"),
        ("p.jsonl", b'{"prompt": "\\ud800"}\n', "half a surrogate pair"),
        ("p.jsonl", b"{torn\n", "line 1 is no JSON"),
    ],
)
def test_prompts_that_cannot_be_meant_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FastFluxError, match=message) as caught:
        read_prompts(tmp_path / name)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_folder_is_no_prompt_file(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match="Cannot read"):
        read_prompts(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"file_name": "a.png", "text": "a ring"}, ""),
        ({"file_name": "a.png", "text": ["a", "b"]}, "no text"),
        ({"file_name": "a.png", "text": None}, "no text"),
        ({"file_name": "a.png"}, "none of the keys"),
        ({"file_name": 3, "text": "a"}, "no file_name"),
        ("a", "no file_name"),
        ({"file_name": "b.png", "text": "a"}, "a.png has no caption"),
    ],
)
def test_captions_of_metadata(tmp_path: Path, metadata: Any, message: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps(metadata) + "\n")
    if not message:
        assert read_captioned_images(tmp_path) == [(tmp_path / "a.png", "a ring")]
        return
    with pytest.raises(FastFluxError, match=message):
        read_captioned_images(tmp_path)


def test_a_caption_file_that_is_a_folder_or_no_text_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(FastFluxError, match=r"Cannot read .*a\.txt"):
        read_captioned_images(tmp_path)
    (tmp_path / "a.txt").rmdir()
    (tmp_path / "a.txt").write_bytes("für".encode("cp1252"))
    with pytest.raises(FastFluxError, match=r"a\.txt is no UTF-8"):
        read_captioned_images(tmp_path)


def test_pictures_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 64), "red")
    picture.paste("blue", (0, 0, 40, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # held in portrait: to be turned by 90 degrees
    picture.save(tmp_path / "a.png", exif=exif)
    seen = open_picture(tmp_path / "a.png")
    assert seen.size == (64, 40)
    assert seen.getpixel((60, 20)) == (0, 0, 255)
    assert seen.getpixel((5, 20)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_white(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    picture.putpixel((0, 0), (0, 0, 0, 255))
    picture.convert(mode).save(tmp_path / "a.png")
    seen = open_picture(tmp_path / "a.png")
    assert seen.mode == "RGB"
    assert seen.getpixel((3, 3)) == (255, 255, 255)
    assert seen.getpixel((0, 0)) == (0, 0, 0)


def test_half_transparent_is_halfway_to_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").getpixel((0, 0)) == (127, 127, 127)


def test_grey_of_16_bits_keeps_its_range(tmp_path: Path) -> None:
    values = torch.tensor([[0, 257, 32896, 65535]], dtype=torch.int32).to(torch.uint16)
    Image.frombytes("I;16", (4, 1), values.numpy().tobytes()).save(tmp_path / "a.png")
    seen = open_picture(tmp_path / "a.png")
    assert [seen.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 128, 255)]


@pytest.mark.parametrize("fault", ["text", "cut", "bomb", "float"])
def test_pictures_that_cannot_be_read_are_named(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tiff"
    Image.new("F" if fault == "float" else "RGB", (64, 64)).save(path)
    if fault == "text":
        path.write_text("no picture")
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:200])
    if fault == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(FastFluxError, match=r"a\.tiff is damaged or no picture"):
        open_picture(path)


def test_a_plain_picture_keeps_every_value(tmp_path: Path) -> None:
    pixels = torch.randint(256, (8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = Image.frombytes("RGB", (8, 8), pixels.numpy().tobytes())
    picture.save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").tobytes() == picture.tobytes()
