"""Writes prompts/geneval/prompts.jsonl, our own prompts in GenEval's scheme: `python -m bench.samples.geneval_prompts`.

The same six tasks over the same 80 classes and 10 colors as GenEval's 553 prompts, as many of each task; none of its
text. Scores on them are this set's, not GenEval's; `layouts.read_metadata` reads the official file.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.samples.prompts import COCO_CLASSES, COLORS, RELATIONS, TASKS, Prompt, write_prompts

COUNTS: Mapping[str, int] = dict(zip(TASKS, (80, 99, 80, 94, 100, 100), strict=True))
"""Prompts of each task, as many as GenEval has."""
SEED = 1
PATH = Path("prompts/geneval/prompts.jsonl")

_NUMBERS = {2: "two", 3: "three", 4: "four"}
#: What one calls one of them, where that is not the class's name.
_ONE = {"skis": "pair of skis", "scissors": "pair of scissors"}
_MANY = {
    "person": "people",
    "sheep": "sheep",
    "knife": "knives",
    "computer mouse": "computer mice",
    "skis": "pairs of skis",
    "scissors": "pairs of scissors",
}
_COLORED = tuple(name for name in COCO_CLASSES if name != "person")

_Drawn = tuple[dict[str, Any], str]


def geneval_prompts(seed: int = SEED) -> tuple[Prompt, ...]:
    """All prompts, no text twice within a task; a function of `seed` alone."""
    prompts: list[Prompt] = []
    for number, (task, count) in enumerate(COUNTS.items()):
        # A generator per task: another count of one does not change the others.
        generator = np.random.default_rng([seed, number])
        texts: dict[str, dict[str, Any]] = {}
        while len(texts) < count:
            metadata, text = _DRAWS[task](generator)
            texts.setdefault(text, {"tag": task, **metadata})
        prompts += [
            Prompt(f"geneval-{task}-{i:03}", "geneval", text, None, metadata)
            for i, (text, metadata) in enumerate(texts.items())
        ]
    return tuple(prompts)


def plural(name: str) -> str:
    """More than one of a class: "two benches", "two knives"."""
    if name in _MANY:
        return _MANY[name]
    return f"{name}es" if name.endswith(("s", "sh", "ch", "x")) else f"{name}s"


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _one(name: str, color: str = "") -> str:
    return _a(f"{color} {_ONE.get(name, name)}".strip())


def _pick(generator: np.random.Generator, names: tuple[str, ...], count: int) -> list[str]:
    return [names[int(index)] for index in generator.choice(len(names), size=count, replace=False)]


def _single_object(generator: np.random.Generator) -> _Drawn:
    (name,) = _pick(generator, COCO_CLASSES, 1)
    return {"include": [{"class": name, "count": 1}]}, f"a photo of {_one(name)}"


def _two_object(generator: np.random.Generator) -> _Drawn:
    first, second = _pick(generator, COCO_CLASSES, 2)
    include = [{"class": name, "count": 1} for name in (first, second)]
    return {"include": include}, f"a photo of {_one(first)} and {_one(second)}"


def _counting(generator: np.random.Generator) -> _Drawn:
    (name,) = _pick(generator, COCO_CLASSES, 1)
    count = int(generator.integers(2, 5))
    # The number is asked for exactly: that many, and not one more.
    metadata = {"include": [{"class": name, "count": count}], "exclude": [{"class": name, "count": count + 1}]}
    return metadata, f"a photo of {_NUMBERS[count]} {plural(name)}"


def _colors(generator: np.random.Generator) -> _Drawn:
    (name,), (color,) = _pick(generator, _COLORED, 1), _pick(generator, COLORS, 1)
    return {"include": [{"class": name, "count": 1, "color": color}]}, f"a photo of {_one(name, color)}"


def _position(generator: np.random.Generator) -> _Drawn:
    (name, target), (relation,) = _pick(generator, COCO_CLASSES, 2), _pick(generator, RELATIONS, 1)
    include = [{"class": target, "count": 1}, {"class": name, "count": 1, "position": [relation, 0]}]
    return {"include": include}, f"a photo of {_one(name)} {relation} {_one(target)}"


def _color_attr(generator: np.random.Generator) -> _Drawn:
    names, colors = _pick(generator, _COLORED, 2), _pick(generator, COLORS, 2)
    pairs = list(zip(names, colors, strict=True))
    include = [{"class": name, "count": 1, "color": color} for name, color in pairs]
    return {"include": include}, "a photo of " + " and ".join(_one(name, color) for name, color in pairs)


_DRAWS: Mapping[str, Callable[[np.random.Generator], _Drawn]] = dict(
    zip(TASKS, (_single_object, _two_object, _counting, _colors, _position, _color_attr), strict=True)
)


def main() -> None:
    """Write the file."""
    write_prompts(geneval_prompts(), PATH)


if __name__ == "__main__":
    main()
