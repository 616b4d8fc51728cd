"""Model cards beside the weights, from weights/quality.json: data, training, quality against the bars, limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.shapes import WEIGHTS, clip, detector, flux2, growth, sd3, transformer, vae
from fastflux.files import write_text

#: Cards by the folder of their model, and the parts of the figures that each takes.
CARDS = {
    "detector": {"detector_and_vae"},
    "clip": {"clip"},
    "hps": {"preference"},
    "sd3": {"sd3_geneval"},
    "flux2": {"flux2_geneval"},
    "pipeline": {"detector_and_vae", "geneval", "geneval_held_out_pairs"},
}


def write_cards(quality: Mapping[str, Any]) -> None:
    """Write README.md beside each model whose figures are complete."""
    templates = Environment(  # noqa: S701  # Markdown of our own figures
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    schedules = {
        module.__name__.rpartition(".")[2]: module for module in (clip, detector, flux2, growth, sd3, transformer, vae)
    }
    for folder, needed in CARDS.items():
        if needed <= quality.keys():
            card = templates.get_template(f"{folder}.md").render(schedules, quality=quality)
            write_text(WEIGHTS / folder / "README.md", card.rstrip() + "\n")
