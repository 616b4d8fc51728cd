"""The official evaluator's results: read strictly, aggregated as its own summary does, refused for other images."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.metrics.quality.geneval import OfficialGenEval, read_official_results
from bench.samples.image_set import ImageSet
from bench.samples.prompts import TASKS
from fastflux.errors import FastFluxError
from tests.bench.conftest import WriteImages

SAMPLES = 2


def metadata(index: int) -> dict[str, Any]:
    """Two prompts of each task, four of the last."""
    task = TASKS[min(index // 2, 5)]
    include = [{"class": f"dog{index}", "count": 1}]
    return {"tag": task, "include": include, "prompt": f"a photo of a dog{index}"}


def line(index: int, sample: int, **changes: Any) -> str:
    data = metadata(index)
    fields = {
        "filename": f"images/{index:05}/samples/{sample:04}.png", "tag": data["tag"], "prompt": data["prompt"],
        "correct": (index + sample) % 3 == 0, "reason": "" if (index + sample) % 3 == 0 else "expected dog>=1, found 0",
        "metadata": json.dumps(data), "details": "{}",
    }  # fmt: skip
    return json.dumps({**fields, **changes}).replace("/", "\\/") + "\n"  # as pandas writes it


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    order = np.random.default_rng(0).permutation(14)  # the evaluator lists folders in no order
    path.write_text("".join(line(int(index), sample) for index in order for sample in range(SAMPLES)))
    return path


@pytest.fixture
def images(write_images: WriteImages) -> ImageSet:
    prompts = []
    for index in range(14):
        data = metadata(index)
        prompts.append({"id": f"our-{index:03}", "set": "geneval", "prompt": data.pop("prompt"), "metadata": data})
    return ImageSet.read(write_images(prompts, samples=SAMPLES, size=8))


def test_scores_are_those_of_the_evaluators_summary(results: Path, images: ImageSet) -> None:
    found = OfficialGenEval(results)(images)
    assert found.status == "ok"
    rights: defaultdict[str, list[bool]] = defaultdict(list)
    for text in results.read_text().splitlines():
        entry = json.loads(text)
        rights[entry["tag"]].append(entry["correct"])
    for task in TASKS:
        assert found.values[task] == pytest.approx(np.mean(rights[task]))
    assert found.values["overall"] == pytest.approx(np.mean([np.mean(rights[task]) for task in TASKS]))
    assert list(found.values) == [*TASKS, "overall"]
    assert found.scored == 28
    assert found.samples["two_object/our-003"] == [1.0, 0.0]
    assert "official evaluator" in found.info.reference
    assert found.info.name == "geneval"
    low, high = found.intervals["overall"]
    assert low < found.values["overall"] < high


def test_our_ids_come_back_through_the_metadata(results: Path) -> None:
    data = json.dumps({**metadata(0), "id": "geneval-colors-003"})
    results.write_text(line(0, 0, metadata=data))
    ((image, _),) = read_official_results(results)
    assert image.prompt_id == "geneval-colors-003"


def test_images_without_a_verdict_and_verdicts_without_an_image_fail(results: Path, images: ImageSet) -> None:
    whole = results.read_text().splitlines(keepends=True)
    results.write_text("".join(whole[1:]))
    failed = OfficialGenEval(results)(images)
    assert (failed.status, failed.missing) == ("failed", 1)
    assert "1 images have no verdict in results.jsonl" in failed.reason
    results.write_text("".join(whole))
    part = ImageSet(tuple(image for image in images.images if image.prompt_id != "our-013"))
    failed = OfficialGenEval(results)(part)
    assert failed.status == "failed"
    assert "judges 2 images that are not among these 26" in failed.reason
    images.images[0].file.unlink()
    assert "1 images are missing" in OfficialGenEval(results)(images).reason


def test_results_of_some_tasks_only_fail(results: Path, images: ImageSet) -> None:
    results.write_text(line(0, 0))
    failed = OfficialGenEval(results)(ImageSet(images.images[:1]))
    assert "the images have the tasks ['single_object']" in failed.reason


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ("{broken", "not whole JSON"),
        ("{}", r"is no EvaluatorLine: .* missing required field"),
        (line(0, 9, correct="yes"), r"got `str` - at `\$\.correct`"),
        (line(0, 9, filename="0.png"), "'0.png' is not <number>/samples"),
        (line(0, 9, tag="colors"), "not those of its metadata"),
        (line(0, 9, prompt="a photo of a cat"), "not those of its metadata"),
        (line(0, 9, metadata="{}"), "metadata is no GenEvalLine"),
        (line(0, 0), "judged twice"),
    ],
)
def test_a_bad_line_is_named(results: Path, bad: str, what: str) -> None:
    with results.open("a") as file:
        file.write(bad.strip() + "\n")
    with pytest.raises(FastFluxError, match=f"line 29.*{what}"):
        OfficialGenEval(results)


def test_no_file_and_no_verdicts_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match="Cannot read"):
        OfficialGenEval(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(FastFluxError, match="holds no verdicts"):
        OfficialGenEval(tmp_path / "empty.jsonl")
