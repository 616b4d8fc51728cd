"""Hand-made images of variants, flat and of known levels, with the manifests that a run writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

#: Prompt id, set and kind.
PROMPTS = (
    ("hps-anime-000", "hps", "anime"),
    ("hps-photo-000", "hps", "photo"),
    ("geneval-colors-000", "geneval", "colors"),
)


def write_images(
    folder: Path, *, seed: int = 7, level: int = 0, edge: int = 64, prompts: tuple[tuple[str, str, str], ...] = PROMPTS
) -> Path:
    """A variant's folder of images, the n-th of grey level 60 n + `level`; returns its manifest."""
    lines = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for index, (prompt_id, set_name, kind) in enumerate(prompts):
        name = f"images/{prompt_id}_0.png"
        Image.fromarray(np.full((edge, edge, 3), 60 * index + level, dtype=np.uint8)).save(folder / name)
        about = {"style": kind} if set_name == "hps" else {"metadata": {"tag": kind}}
        entry = {"file": name, "prompt_id": prompt_id, "sample": 0, "seed": seed + index, "set": set_name}
        lines.append(json.dumps({**entry, "prompt": f"a photo of ${kind}_{index}", "sha256": "0", **about}))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest
