"""Writes prompts/flux-dev/calibration.jsonl, 512 prompts of our own: `python -m bench.samples.calibration_prompts`.

The paper calibrates on 512 pictures of a data set. These are as many descriptions, for the model to draw: of things,
places, light and styles as varied as a few word lists allow, and none of them in the words of a benchmark.
"""

from pathlib import Path

import numpy as np

from bench.samples.prompts import COCO_CLASSES, Prompt, write_prompts

COUNT = 512
SEED = 2
PATH = Path("prompts/flux-dev/calibration.jsonl")

_STYLES = (
    *("a photograph of", "an oil painting of", "a watercolour of", "a pencil drawing of", "a still from a film with"),
    *("a woodcut of", "a cartoon of", "a 3D rendering of", "a mosaic of", "an old postcard with"),
)
_KINDS = (
    *("weathered", "tiny", "giant", "shiny", "wooden", "striped", "dusty", "half-hidden", "brightly lit", "worn"),
    *("elegant", "broken", "frosted", "colourful", "simple"),
)
_PLACES = (
    *("in a crowded market", "on a quiet beach", "under a stone bridge", "in a greenhouse", "on a rooftop"),
    *("at a railway station", "in an empty theatre", "beside a mountain lake", "in a narrow street", "on a workbench"),
    *("in tall grass", "by a shop window", "in a library", "at the edge of a forest", "in a kitchen"),
)
_LIGHTS = (
    *("at dawn", "at noon", "in the rain", "in thick fog", "by candlelight", "under neon signs", "after snowfall"),
    *("in golden evening light", "on a moonlit night", "under an overcast sky"),
)


def calibration_prompts() -> tuple[Prompt, ...]:
    """As many different prompts, every class named about as often; the same every time."""
    generator = np.random.default_rng(SEED)
    texts: dict[str, None] = {}
    names = [name for name in COCO_CLASSES if name != "person"]
    while len(texts) < COUNT:
        name = names[len(texts) % len(names)]
        kind, style, place, light = (
            words[int(generator.integers(len(words)))] for words in (_KINDS, _STYLES, _PLACES, _LIGHTS)
        )
        article = "an" if kind[0] in "aeiou" else "a"
        texts[f"{style} {article} {kind} {name} {place} {light}"] = None
    return tuple(Prompt(f"calibration-{index:03}", "calibration", text) for index, text in enumerate(texts))


def main() -> None:
    """Write the file."""
    write_prompts(calibration_prompts(), PATH)


if __name__ == "__main__":
    main()
