"""Prompt files: read strictly, errors name the line."""

from pathlib import Path

import pytest

from bench.samples.prompts import Prompt, limited, prompts_hash, read_prompts
from bench.shapes.prompt_sets import FOLDER, calibration_prompts, distillation_prompts, geneval_prompts, hps_prompts
from fastflux.errors import FastFluxError

GOOD = '{"id": "a", "set": "hps", "style": "anime", "prompt": "x"}\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{broken", "no JSON"),
        ("[1]", "not a prompt"),
        ('{"id": "b", "set": "hps", "prompt": "x", "stlye": "anime"}', "stlye"),
        ('{"id": "b", "set": "hps", "prompt": "x"}', "needs a style"),
        ('{"id": "b", "set": "geneval", "prompt": "x"}', "line 3, metadata is no GenEvalMetadata: Expected `object`"),
        ('{"id": "b", "set": "geneval", "prompt": "x", "metadata": {"tag": "colors", "include": []}}', "length >= 1"),
        ('{"id": "b", "set": "other", "prompt": "x"}', "none of hps"),
        ('{"id": "b", "set": "hps", "style": "anime", "prompt": ""}', "non-empty"),
        ('{"id": "../b", "set": "hps", "style": "anime", "prompt": "x"}', "cannot name a file"),
        (GOOD.strip(), "occurs twice"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str, what: str) -> None:
    path = write(tmp_path, GOOD + "\n" + line + "\n")
    with pytest.raises(FastFluxError, match=r"line 3") as caught:
        read_prompts(path)
    assert what in str(caught.value)


def test_an_empty_or_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FastFluxError, match="holds no prompts"):
        read_prompts(write(tmp_path, "\n"))
    with pytest.raises(FastFluxError, match="absent"):
        read_prompts(tmp_path / "absent.jsonl")


def test_reading_gives_what_was_written(tmp_path: Path) -> None:
    prompts = (
        Prompt("a", "hps", "x", "anime"),
        Prompt("b", "geneval", "y", None, {"tag": "colors", "include": [{"class": "star", "count": 1}]}),
    )
    assert read_prompts(write(tmp_path, "".join(prompt.line() + "\n" for prompt in prompts))) == prompts


def test_a_limit_keeps_the_share_of_each_style_and_task() -> None:
    prompts = tuple(hps_prompts() + geneval_prompts())
    assert len(limited(prompts, 2)) == 2 * 4 + 2 * 6
    assert limited(prompts, None) == prompts


def test_the_hash_changes_with_any_prompt() -> None:
    first = (Prompt("a", "hps", "x", "anime"),)
    assert prompts_hash(first) != prompts_hash((Prompt("a", "hps", "y", "anime"),))


def test_the_committed_prompt_sets_are_what_the_generator_writes() -> None:
    sets = {
        "hps": hps_prompts(), "geneval": geneval_prompts(), "geneval_held_out": geneval_prompts(only_held_out=True),
        "calibration": calibration_prompts(), "distillation": distillation_prompts(),
    }  # fmt: skip
    root = Path(__file__).parents[2]
    for name, prompts in sets.items():
        assert read_prompts(root / FOLDER / f"{name}.jsonl") == tuple(prompts)
    assert len(sets["hps"]) == 256
    assert len(sets["geneval"]) == 144
    assert len({prompt.prompt for prompt in sets["hps"]}) == 256
    assert len({prompt.prompt for prompt in sets["distillation"]}) == 512
    evaluated = {prompt.prompt for name in ("hps", "geneval", "geneval_held_out") for prompt in sets[name]}
    assert not evaluated & {prompt.prompt for prompt in sets["distillation"]}
