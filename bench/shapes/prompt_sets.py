"""Writes prompts/shapes/*.jsonl, the prompt sets of the shapes profile: `python -m bench.shapes.prompt_sets`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from bench.samples.prompts import TASKS, Prompt, write_prompts
from bench.shapes.vocabulary import HELD_OUT, STYLE_NAMES
from bench.shapes.world import TASK_WEIGHTS, sample_scenes

HPS_PER_STYLE = 64
GENEVAL_PER_TASK = 24
CALIBRATION = 128
#: How many prompts the sets to distil on have.
DISTILLATION = {"distillation": 512, "distillation_2048": 2048}
FOLDER = Path("prompts/shapes")


def _has_held_out(metadata: dict[str, Any]) -> bool:
    return any((item.get("color"), item["class"]) in HELD_OUT for item in metadata["include"])


def hps_prompts() -> list[Prompt]:
    """64 different prompts for each of the four styles."""
    scenes = sample_scenes(6000, 1, "evaluation")
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    prompts = []
    for style_index, metadata, text in zip(scenes.styles, scenes.metadata, scenes.captions, strict=True):
        style = STYLE_NAMES[style_index]
        if text in seen or counts[style] == HPS_PER_STYLE or _has_held_out(metadata):
            continue
        seen.add(text)
        prompts.append(Prompt(f"hps-{style}-{counts[style]:03}", "hps", text, style))
        counts[style] += 1
    return sorted(prompts, key=lambda prompt: prompt.id)


def geneval_prompts(*, only_held_out: bool = False) -> list[Prompt]:
    """24 different prompts for each of GenEval's six tasks; with `only_held_out`, those that name an unseen pair."""
    prompts: list[Prompt] = []
    prefix = "heldout" if only_held_out else "geneval"
    for task in ("colors", "color_attr") if only_held_out else TASKS:
        scenes = sample_scenes(4000, 2, "evaluation", tasks={task: 1.0})
        texts: dict[str, dict[str, Any]] = {}
        for metadata, text in zip(scenes.metadata, scenes.captions, strict=True):
            if _has_held_out(metadata) == only_held_out:
                texts.setdefault(text, metadata)
        chosen = list(texts.items())[:GENEVAL_PER_TASK]
        prompts += [
            Prompt(f"{prefix}-{task}-{i:03}", "geneval", text, None, data) for i, (text, data) in enumerate(chosen)
        ]
    return prompts


def calibration_prompts() -> list[Prompt]:
    """Prompts of the calibration split, on whose trajectories linear layers are fitted."""
    scenes = sample_scenes(CALIBRATION, 3, "calibration", tasks=TASK_WEIGHTS)
    return [Prompt(f"calibration-{i:03}", "calibration", text) for i, text in enumerate(scenes.captions)]


def distillation_prompts(count: int) -> list[Prompt]:
    """Different prompts of the calibration split, none of which is evaluated, to distil a whole model on."""
    scenes = sample_scenes(12 * count, 4, "calibration", tasks=TASK_WEIGHTS)
    evaluated = {prompt.prompt for prompt in (*hps_prompts(), *geneval_prompts(), *geneval_prompts(only_held_out=True))}
    texts = [text for text in dict.fromkeys(scenes.captions) if text not in evaluated][:count]
    return [Prompt(f"distillation-{i:03}", "calibration", text) for i, text in enumerate(texts)]


def main() -> None:
    """Write all sets."""
    write_prompts(hps_prompts(), FOLDER / "hps.jsonl")
    write_prompts(geneval_prompts(), FOLDER / "geneval.jsonl")
    write_prompts(geneval_prompts(only_held_out=True), FOLDER / "geneval_held_out.jsonl")
    write_prompts(calibration_prompts(), FOLDER / "calibration.jsonl")
    for name, count in DISTILLATION.items():
        write_prompts(distillation_prompts(count), FOLDER / f"{name}.jsonl")


if __name__ == "__main__":
    main()
