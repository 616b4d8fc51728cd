"""Images laid out as hpsv2 reads them, for tests."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from bench.samples.image_set import ImageSet
from bench.samples.prompts import Prompt


def write_layout(images: ImageSet, prompts: Sequence[Prompt], root: Path) -> Path:
    """The first image of each prompt at ``<style>/<number within the style>.jpg``."""
    made = {image.prompt_id: image for image in images.images if image.sample == 0}
    counts: Counter[str] = Counter()
    for prompt in prompts:
        style = str(prompt.style)
        (root / style).mkdir(parents=True, exist_ok=True)
        Image.fromarray(made[prompt.id].read()).save(root / style / f"{counts[style]:05d}.jpg")
        counts[style] += 1
    return root
