"""Images laid out as GenEval's script writes them, for tests."""

import json
import shutil
from pathlib import Path

from bench.samples.image_set import ImageSet


def write_geneval_folder(images: ImageSet, root: Path) -> Path:
    """The images at ``<number of the prompt>/samples``, each prompt's metadata beside them."""
    numbers = {name: number for number, name in enumerate(sorted({image.prompt_id for image in images.images}))}
    for image in images.images:
        folder = root / f"{numbers[image.prompt_id]:05}"
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image.file, folder / "samples" / f"{image.sample:05}.png")
        line = {**(image.metadata or {}), "prompt": image.prompt, "id": image.prompt_id}
        (folder / "metadata.jsonl").write_text(json.dumps(line))
    return root
