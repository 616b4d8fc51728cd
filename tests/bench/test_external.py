"""Images of other models: what of them is there, against what the profile's prompts ask for."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.run.external import score, shown
from bench.samples.geneval_layout import metadata_line
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


def test_a_foreign_geneval_set_that_ends_too_early_is_none_of_the_profiles(
    changes: dict[str, str], tmp_path: Path
) -> None:
    for number in range(2):
        place = tmp_path / "foreign" / f"{number:05d}"
        (place / "samples").mkdir(parents=True)
        (place / "metadata.jsonl").write_text(metadata_line(RED, f"{number} stars"))
        Image.new("RGB", (64, 64)).save(place / "samples" / "00000.png")
    [found] = score(tmp_path / "foreign", "mine", metrics=["clip_score"], changes=changes).measurements
    assert (found.status, found.scored, found.missing) == ("ok", 2, 8)
