"""Images of other models: what of them is there, against what the profile's prompts ask for."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.cli import main
from bench.metrics.quality.geneval import GenEval
from bench.records.results import RunRecord
from bench.run.external import score, shown
from tests.bench.conftest import WriteImages

HPS = [{"id": f"h{index}", "set": "hps", "style": "photo", "prompt": f"{index} stars"} for index in range(3)]
RED = {"tag": "single_object", "include": [{"class": "star", "count": 1}]}


@pytest.fixture
def changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The shapes profile with three prompts of one set and one of the other, two images each."""
    monkeypatch.chdir(tmp_path)
    lines = [*HPS, {"id": "g", "set": "geneval", "prompt": "a star", "metadata": RED}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"prompts": json.dumps([str(tmp_path / "prompts.jsonl")]), "sampling.samples": "{hps = 2, geneval = 2}"}


@pytest.mark.parametrize(
    ("entries", "samples", "scored", "missing"),
    [
        (HPS[:2], 2, 4, 4),  # a drawing that was killed
        (HPS, 2, 6, 2),  # without the other set
        (HPS, 1, 3, 5),
        ([{**entry, "id": f"x{entry['id']}"} for entry in HPS], 2, 6, 8),  # of other prompts
        ([{**entry, "prompt": "another"} for entry in HPS], 2, 6, 8),
    ],
)
def test_images_that_are_not_there_count_as_missing(
    entries: list[dict[str, Any]], samples: int, scored: int, missing: int,
    changes: dict[str, str], write_images: WriteImages,
) -> None:  # fmt: skip
    record = score(write_images(entries, samples=samples), "mine", metrics=["clip_score"], changes=changes)
    [found] = record.measurements
    assert (found.status, found.scored, found.missing) == ("ok", scored, missing)
    assert f"{scored} of {scored + missing} scored" in shown(record)


def test_metrics_are_added_to_a_record_and_an_interruption_keeps_what_is_done(
    changes: dict[str, str], write_images: WriteImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    styles = ("photo", "anime", "paintings", "concept-art")
    manifest = write_images([{**HPS[0], "id": f"h{index}", "style": style} for index, style in enumerate(styles)])
    score(manifest, "mine", metrics=["clip_score"], changes=changes)
    monkeypatch.setattr(GenEval, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        score(manifest, "mine", metrics=["hps", "geneval"], changes=changes)
    record = RunRecord.read(tmp_path / "runs" / "shapes" / "external" / "external-mine.json")
    assert {found.info.name: found.status for found in record.measurements} == {"clip_score": "ok", "hps": "ok"}


def foreign(folder: Path, *names: str) -> Path:
    """A folder in GenEval's layout."""
    for number, name in enumerate(names):
        (folder / name / "samples").mkdir(parents=True)
        (folder / name / "metadata.jsonl").write_text(json.dumps({**RED, "prompt": f"{number} stars"}))
        Image.new("RGB", (64, 64)).save(folder / name / "samples" / "0000.png")
    return folder


def test_a_foreign_geneval_set_that_ends_too_early_is_none_of_the_profiles(
    changes: dict[str, str], tmp_path: Path
) -> None:
    place = foreign(tmp_path / "foreign", "00000", "00001")
    [found] = score(place, "mine", metrics=["clip_score"], changes=changes).measurements
    assert (found.status, found.scored, found.missing) == ("ok", 2, 8)


@pytest.mark.parametrize("names", [("0000", "0001"), ("00003", "00004"), ("7",)])
def test_geneval_folders_need_not_begin_at_zero(
    names: tuple[str, ...], changes: dict[str, str], tmp_path: Path
) -> None:
    if names[0] != "0000":  # of another set than the profile's, which has no gaps
        changes = changes | {"prompts": json.dumps([str(own_prompts(tmp_path, len(names)))])}
    [found] = score(foreign(tmp_path / "foreign", *names), "mine", metrics=["clip_score"], changes=changes).measurements
    assert (found.status, found.scored) == ("ok", len(names))


def own_prompts(folder: Path, count: int) -> Path:
    """A file of GenEval prompts that `foreign` draws."""
    lines = [
        {"id": f"g{number}", "set": "geneval", "prompt": f"{number} stars", "metadata": RED} for number in range(count)
    ]
    (folder / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "own.jsonl"


FAULTS: dict[str, tuple[list[str], int, str]] = {
    "all failed": (["--metrics", "geneval"], 1, "geneval: failed, the image set holds no images for this metric"),
    "half a character": ([], 1, "line 1 has half a surrogate pair"),
    "no picture": ([], 1, "clip_score: failed, dense/images/h0_0.png is damaged or no picture (of no known format)"),
    "huge": ([], 1, "could be decompression bomb"),
    "missing": ([], 1, "clip_score: failed, 1 images are missing: dense/images/h0_0.png"),
    "thin": (["--metrics", "hps"], 1, "hps: failed, An image of 2000x1 pixels cannot be brought to the size"),
    "another size": (["--metrics", "fid"], 1, "images of the shapes (32, 32, 3) and (64, 64, 3); expected one size"),
    "two of a number": ([], 1, "foreign/0000 and foreign/00000 have one number"),
    "other weights missing": (["--set", "metrics.geneval.weights=/nowhere"], 0, "clip_score"),
    "hostile": (["--label", "\x1b[31m\u202e"], 0, "⟨U+001B⟩[31m⟨U+202E⟩:"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_scored_is_one_sentence(
    fault: str, changes: dict[str, str], write_images: WriteImages, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    styles = ("photo", "anime", "paintings", "concept-art")
    manifest = write_images([{**HPS[0], "id": f"h{index}", "style": style} for index, style in enumerate(styles)])
    first, place = tmp_path / "dense" / "images" / "h0_0.png", "dense"
    text = manifest.read_text()
    if fault == "half a character":
        manifest.write_text(text.replace("0 stars", "\\ud800 stars"))
    elif fault == "huge":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    elif fault == "missing":
        first.unlink()
    elif fault == "two of a number":
        place = str(foreign(Path("foreign"), "00000", "0000"))
    elif fault in ("no picture", "thin", "another size"):
        entries = [{**json.loads(line), "sha256": None} for line in text.splitlines()]
        manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        if fault == "no picture":
            first.write_bytes(b"no picture")
        else:
            Image.new("RGB", (2000, 1) if fault == "thin" else (32, 32)).save(first)
    extra, status, message = FAULTS[fault]
    options = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    options += [] if "--metrics" in extra else ["--metrics", "clip_score"]
    if fault == "all failed":  # and nothing else counts as measured
        assert main(["score", place, "--name", "mine", *options[:4], "--metrics", "clip_score"]) == 0
    assert main(["score", place, "--name", "mine", *options, *extra]) == status
    shown = capsys.readouterr()
    assert message in shown.out + shown.err
    assert "\x1b" not in shown.out
