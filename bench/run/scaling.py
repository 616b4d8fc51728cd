"""`python -m bench.run.scaling`: hours of a run on 1 to 64 workers, simulated on its own graph; needs no model."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter
from rich.table import Table

from bench.profiles.profile import load_profile
from bench.profiles.variants import chosen_variants
from bench.progress import console
from bench.run.graph import Extent, graph_of, simulate
from bench.tables import MAIN, TABLES, needed_by
from fastflux.command_line import run

app = App(name="python -m bench.run.scaling", help_format="plaintext")


@app.default
def main(
    *,
    every: Annotated[bool, Parameter(name="--all", negative=())] = False,
    profile: str = "flux-dev",
    pictures: int = 5412,
    calibration: int = 512,
    blocks: int = 57,
    step: float = 0.106,
    start: float = 20.0,
) -> None:
    """Simulate a run of the paper's tables.

    Args:
        every: all tables, as `reproduce --all` makes them
        profile: a profile's name or file
        pictures: of each variant
        calibration: prompts of the calibration
        blocks: of the dense model
        step: seconds of a transformer step on one picture
        start: seconds that each unit takes besides, such as to load a model
    """
    chosen = load_profile(profile)
    variants = chosen_variants(chosen, needed_by(TABLES if every else MAIN))
    nodes = graph_of(chosen, variants, Extent(pictures, calibration, blocks), shared=chosen.device == "cpu")
    table = Table(
        "workers",
        "hours",
        "worker-hours",
        "speed-up",
        title=f"{len(variants)} models, {len(nodes)} units of {chosen.title}",
    )
    alone = simulate(nodes, 1, step, start)
    for workers in (1, 2, 4, 8, 16, 32, 64):
        seconds = simulate(nodes, workers, step, start)
        hours = seconds / 3600
        table.add_row(f"{workers}", f"{hours:.1f}", f"{hours * workers:.0f}", f"{alone / seconds:.1f}")
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(run(app))
