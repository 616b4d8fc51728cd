"""Hand-made images of variants, flat and of known levels, with the manifests that a run writes; edited records."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.records.results import digest

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


def with_digest(data: dict[str, Any]) -> str:
    """The JSON text of a record's data, with the digest that it should have."""
    content = {key: value for key, value in data.items() if key != "digest"}
    return json.dumps({**content, "digest": digest(content)})


def edit_record(path: Path, old: str, new: str) -> None:
    """Replace text in a record's file, which gets the digest of that."""
    path.write_text(with_digest(json.loads(path.read_text(encoding="utf-8").replace(old, new))), encoding="utf-8")
