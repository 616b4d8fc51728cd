"""The importance of every block: the paper's Figure 8 and a table of orders, from a file of `python -m bench rank`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastflux.errors import FastFluxError
from reports.style import BLUE, GREY, VERMILION, new_figure, style
from reports.table import Cell, Group, Header, Table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: diffusers' stacks in the order of the data flow, what the field calls their blocks, colour and marker.
_KINDS = {
    "transformer_blocks": ("double blocks", VERMILION, "s"),
    "single_transformer_blocks": ("single blocks", BLUE, "o"),
}
MARKS = (0.1, 0.2, 0.3)
_ORDERS = {
    "residual_r2": "Residual R²",
    "relative_output_error": "Relative output error",
    "output_mse": "Output MSE",
    "block_influence": "Block influence",
    "start2end": "Start2End",
}
_PASS = "one calibration pass"  # noqa: S105  # no password
_NEEDED = {"base_model", "blocks", "spearman", "cost", "scorers"}


@dataclass(frozen=True)
class Ranking:
    """A ranking file: the blocks, least important first, with their scores; agreement and cost by order."""

    base_model: str
    blocks: tuple[Mapping[str, Any], ...]
    spearman: Mapping[str, float]
    cost: Mapping[str, Mapping[str, float]]
    scorers: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Ranking:
        """The ranking in a file; raises FastFluxError when it holds none."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            found = {key: data[key] for key in _NEEDED}
            for entry in found["blocks"]:
                float(entry["importance"]), float(entry["residual_r2"]), str(entry["block"]).rindex(".")
            return cls(**{**found, "blocks": tuple(found["blocks"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FastFluxError(f"{path} holds no ranking of blocks ({error!r}): make one by `nox -s rank`.") from error


def importance_figure(ranking: Ranking) -> Figure:
    """Two panels: the blocks by importance (the paper's Figure 8), and along the data flow how linear each is."""
    figure = new_figure(11.2, 4.4)
    with style():
        left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
        _dots(left, [(place, entry) for place, entry in enumerate(ranking.blocks, 1)], "importance")
        for mark in MARKS:
            at = mark * len(ranking.blocks) + 0.5
            left.axvline(at, color=GREY, linewidth=0.8, linestyle="--")
            left.annotate(f"{mark:.0%}", (at, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom",
                          fontsize=8.5, color=GREY)  # fmt: skip
        left.set_title("Importance without each block", loc="left", fontsize=10, fontweight="bold", pad=16)
        left.set_xlabel("blocks, least important first; dashed: replaced at that ratio")
        left.set_ylabel("importance (up: matters more)")
        left.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.36, 0.94))
        flow = sorted(ranking.blocks, key=_place)
        _dots(right, list(enumerate(flow, 1)), "residual_r2")
        right.set_title("Residual R² by block", loc="left", fontsize=10, fontweight="bold", pad=16)
        right.set_xlabel("blocks, along the data flow")
        right.set_ylabel("R² of the linear layer (up: replaced more exactly)")
        right.set_ylim(0, 1.02)
        figure.suptitle(f"Blocks of {ranking.base_model}", fontsize=11)
        figure.tight_layout()
    return figure


def orders_table(ranking: Ranking) -> Table:
    """How far each order agrees with the importance, and what knowing it costs."""
    whole, one = ranking.cost["importance"], ranking.cost[_PASS]

    def row(name: str, rho: float | None, cost: Mapping[str, float] | None) -> tuple[Cell, ...]:
        figures = (None, None) if cost is None else (float(cost["forwards"]), float(cost["seconds"]))
        return (Cell(text=name), Cell(rho), *(Cell(figure) for figure in figures))

    rows = [row("Importance (FID and CLIP score)", 1.0, whole)]
    rows += [
        row(_ORDERS.get(name, name), rho, None if name == "start2end" else one)
        for name, rho in ranking.spearman.items()
    ]
    return Table(
        "ranking",
        f"Orders of blocks, {ranking.base_model}",
        (
            Header("Order", align="left"),
            Header("Spearman with importance", spec="z.2f"),
            Header("Forwards of one image", direction="down", spec=",.0f"),
            Header("Seconds", direction="down", spec=".0f"),
        ),
        (Group(tuple(rows)),),
        notes=(
            "Correlations of orders from least to most important. The four measured orders share one calibration pass.",
            *(f"{name}: {reference}" for name, reference in sorted(ranking.scorers.items())),
        ),
    )


def _place(entry: Mapping[str, Any]) -> tuple[int, str, int]:
    """Where the block stands in the data flow."""
    stack, _, index = entry["block"].rpartition(".")
    known = list(_KINDS)
    return (known.index(stack) if stack in known else len(known), stack, int(index))


def _dots(axes: Axes, entries: list[tuple[int, Mapping[str, Any]]], key: str) -> None:
    axes.grid(visible=True, axis="y", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    flow = sorted((entry for _, entry in entries), key=_place)
    stacks = dict.fromkeys(entry["block"].rpartition(".")[0] for entry in flow)
    for stack in stacks:
        name, colour, marker = _KINDS.get(stack, (stack, GREY, "D"))
        chosen = [(place, entry[key]) for place, entry in entries if entry["block"].rpartition(".")[0] == stack]
        axes.plot(
            [place for place, _ in chosen], [value for _, value in chosen],
            linestyle="none", marker=marker, color=colour, markersize=5, label=name,
        )  # fmt: skip
