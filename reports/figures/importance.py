"""The importance of every block as a figure, the paper's Figure 8, from a file of `python -m bench rank`."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastflux.plan import block_count
from reports.figures.ranking import DOUBLE, SINGLE, Ranking, flow_place, stack_of
from reports.figures.style import BLUE, GREY, VERMILION, light_grid, new_figure, style

#: What the field calls a stack's blocks, colour and marker.
_KINDS = {DOUBLE: ("double blocks", VERMILION, "s"), SINGLE: ("single blocks", BLUE, "o")}
MARKS = (0.1, 0.2, 0.3)


def importance_figure(ranking: Ranking) -> Figure:
    """Two panels: the blocks by importance (the paper's Figure 8), and along the data flow how linear each is."""
    figure = new_figure(11.2, 4.4)
    with style():
        left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
        _dots(left, list(enumerate(ranking.blocks, 1)), "importance")
        for mark in MARKS:
            at = block_count(mark, len(ranking.blocks)) + 0.5
            left.axvline(at, color=GREY, linewidth=0.8, linestyle="--")
            left.annotate(f"{mark:.0%}", (at, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom",
                          fontsize=8.5, color=GREY)  # fmt: skip
        left.set_title("Importance without each block", loc="left", fontsize=10, fontweight="bold", pad=16)
        left.set_xlabel("blocks, least important first; dashed: replaced at that ratio")
        left.set_ylabel("importance (up: matters more)")
        left.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.36, 0.94))
        flow = sorted(ranking.blocks, key=flow_place)
        _dots(right, list(enumerate(flow, 1)), "residual_r2")
        right.set_title("Residual R² by block", loc="left", fontsize=10, fontweight="bold", pad=16)
        right.set_xlabel("blocks, along the data flow")
        right.set_ylabel("R² (up: replaced more exactly)")
        right.set_ylim(0, 1.02)
        figure.suptitle(f"Blocks of {ranking.base_model}", fontsize=11)
        figure.tight_layout()
    return figure


def _dots(axes: Axes, entries: list[tuple[int, Mapping[str, Any]]], key: str) -> None:
    light_grid(axes)
    flow = sorted((entry for _, entry in entries), key=flow_place)
    stacks = dict.fromkeys(stack_of(entry) for entry in flow)
    for stack in stacks:
        name, colour, marker = _KINDS.get(stack, (stack, GREY, "D"))
        chosen = [(place, entry[key]) for place, entry in entries if stack_of(entry) == stack]
        axes.plot(
            [place for place, _ in chosen], [value for _, value in chosen],
            linestyle="none", marker=marker, color=colour, markersize=5, label=name,
        )  # fmt: skip
