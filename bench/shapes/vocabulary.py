"""What the FLUX-Shapes world is made of and how it is put into words: shapes, colours, styles, relations, captions."""

from __future__ import annotations

import hashlib
from typing import Any

from bench.samples.prompts import RELATIONS

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "moon")
PLURALS = ("circles", "squares", "triangles", "stars", "rings", "crosses", "hearts", "moons")
#: The ten colour names that GenEval judges, with the RGB value each is drawn in.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35), "orange": (245, 135, 20), "yellow": (245, 220, 40), "green": (40, 155, 60),
    "blue": (40, 80, 210), "purple": (125, 45, 165), "pink": (250, 140, 190), "brown": (115, 70, 35),
    "black": (22, 22, 24), "white": (246, 246, 246),
}  # fmt: skip
COLOR_NAMES = tuple(COLORS)
#: HPS v2's four styles and the words that ask for each here (three words, so that all captions fit 12 tokens).
STYLES: dict[str, str] = {
    "anime": "an anime of",
    "concept-art": "concept art of",
    "paintings": "a painting of",
    "photo": "a photo of",
}
STYLE_NAMES = tuple(STYLES)
NUMBERS = ("zero", "one", "two", "three", "four")
MAX_OBJECTS = 4
TEXT_TOKENS = 12


def _chosen_pairs() -> frozenset[tuple[str, str]]:
    """One pair for each shape, each with another colour, fixed by a hash so that no run can change it."""
    order = sorted(COLOR_NAMES, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return frozenset(zip(order, SHAPES, strict=False))


HELD_OUT = _chosen_pairs()
"""Colour-shape pairs that are kept out of training: 8 of the 80, every colour but two has one."""


def words() -> tuple[str, ...]:
    """All words a caption can hold, sorted: the vocabulary of the small tokenizers."""
    found = {"a", "an", "and", *SHAPES, *PLURALS, *COLOR_NAMES, *NUMBERS[1:]}
    for phrase in (*STYLES.values(), *RELATIONS):
        found.update(phrase.split())
    return tuple(sorted(found))


def _noun(shape: str, color: str | None) -> str:
    """`a star`, `an orange star`."""
    text = shape if color is None else f"{color} {shape}"
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


def caption(style: str, metadata: dict[str, Any]) -> str:
    """The caption in GenEval's template for metadata of GenEval's scheme (its `include` list decides the words).

    Raises KeyError for an unknown style or class.
    """
    include = metadata["include"]
    if len(include) == 1 and include[0]["count"] > 1:
        item = include[0]
        plural = PLURALS[SHAPES.index(item["class"])]
        color = f"{item['color']} " if "color" in item else ""
        body = f"{NUMBERS[item['count']]} {color}{plural}"
    else:
        nouns = [_noun(item["class"], item.get("color")) for item in include]
        if len(nouns) == 2 and "position" in include[1]:
            # GenEval states the relation of the second object to the first: "a {second} {relation} a {first}".
            body = f"{nouns[1]} {include[1]['position'][0]} {nouns[0]}"
        else:
            body = " and ".join(nouns)
    return f"{STYLES[style]} {body}"
