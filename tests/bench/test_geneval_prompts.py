"""Prompts in GenEval's scheme: as many of each task, well formed, the committed file as drawn."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from bench.samples.geneval_prompts import COUNTS, PATH, geneval_prompts, plural
from bench.samples.layouts import parse_prompt
from bench.samples.prompts import COCO_CLASSES, COLORS, RELATIONS, TASKS, Prompt, read_prompts

ROOT = Path(__file__).parents[2]
PROMPTS = geneval_prompts()


def test_there_are_as_many_of_each_task_as_in_geneval() -> None:
    assert tuple(COUNTS) == TASKS
    assert Counter((prompt.metadata or {})["tag"] for prompt in PROMPTS) == COUNTS
    assert len(PROMPTS) == 553
    assert len({prompt.id for prompt in PROMPTS}) == 553
    assert len({prompt.prompt for prompt in PROMPTS}) == 553


def test_single_objects_are_all_classes_once() -> None:
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80
    found = [(prompt.metadata or {})["include"][0]["class"] for prompt in PROMPTS[:80]]
    assert sorted(found) == sorted(COCO_CLASSES)


@pytest.mark.parametrize("prompt", PROMPTS[::7], ids=lambda prompt: prompt.id)
def test_prompts_are_what_geneval_reads_and_say_what_they_ask(prompt: Prompt) -> None:
    metadata = prompt.metadata or {}
    again = parse_prompt(json.dumps({**metadata, "prompt": prompt.prompt, "id": prompt.id}), 0, "here")
    assert again == prompt
    words = prompt.prompt.removeprefix("a photo of ")
    assert words != prompt.prompt
    for entry in metadata["include"]:
        assert entry["class"] in COCO_CLASSES
        named = plural(entry["class"]) if entry["count"] > 1 else entry["class"]
        assert f"{entry.get('color', '')} {named}".strip() in words.replace("pair of ", "")
        assert entry["class"] != "person" or "color" not in entry
        assert entry.get("color", "red") in COLORS
    if metadata["tag"] == "counting":
        (entry,) = metadata["include"]
        assert metadata["exclude"] == [{"class": entry["class"], "count": entry["count"] + 1}]
        assert 2 <= entry["count"] <= 4
    if metadata["tag"] == "position":
        target, placed = metadata["include"]
        relation, index = placed["position"]
        assert index == 0
        assert relation in RELATIONS
        assert words.index(placed["class"].split()[-1]) < words.index(relation)
        assert words.endswith(target["class"])
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", prompt.prompt)


def test_prompts_are_a_function_of_the_seed() -> None:
    assert geneval_prompts() == PROMPTS
    other = geneval_prompts(seed=2)
    assert Counter((prompt.metadata or {})["tag"] for prompt in other) == COUNTS
    assert other[80:] != PROMPTS[80:]


@pytest.mark.parametrize(
    ("name", "many"),
    [
        ("dog", "dogs"),
        ("bench", "benches"),
        ("toothbrush", "toothbrushes"),
        ("wine glass", "wine glasses"),
        ("bus", "buses"),
        ("knife", "knives"),
        ("sheep", "sheep"),
        ("skis", "pairs of skis"),
        ("person", "people"),
    ],
)
def test_plurals(name: str, many: str) -> None:
    assert plural(name) == many


def test_the_committed_file_is_the_one_drawn_and_listed() -> None:
    assert read_prompts(ROOT / PATH) == PROMPTS
    digest = hashlib.sha256((ROOT / PATH).read_bytes()).hexdigest()
    assert f"| {PATH} | 553 |" in (ROOT / "prompts" / "README.md").read_text()
    assert digest in (ROOT / "prompts" / "README.md").read_text()
