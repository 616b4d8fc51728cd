"""A file of `python -m bench rank`: the importance of every block, and a table of orders, their agreement and cost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.variant_id import DENSE
from fastflux.errors import FastFluxError
from reports.rows import Row
from reports.table import Cell, Group, Header, Table

#: diffusers' stacks in the order of the data flow.
DOUBLE, SINGLE = STACKS = ("transformer_blocks", "single_transformer_blocks")
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
    """A ranking file: the blocks, least important first, with their scores; agreement and cost by order.

    `revision` names the weights that were ranked, `origin` says when, where and at which commit, `stability` how well
    the importance's order repeats; "" where the file does not say.
    """

    base_model: str
    blocks: tuple[Mapping[str, Any], ...]
    spearman: Mapping[str, float]
    cost: Mapping[str, Mapping[str, float]]
    scorers: Mapping[str, str]
    revision: str = ""
    origin: str = ""
    stability: str = ""

    def is_of(self, rows: Iterable[Row]) -> bool:
        """Whether the rows' own weights were ranked, as far as the file and the dense record say."""
        dense = next((row.record for row in rows if row.variant == DENSE), None)
        return dense is None or not self.revision or not dense.base_revision or self.revision == dense.base_revision

    @classmethod
    def read(cls, path: Path) -> Ranking:
        """The ranking in a file; raises FastFluxError when it holds none."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            found = {key: data[key] for key in _NEEDED}
            for entry in found["blocks"]:
                float(entry["importance"]), float(entry["residual_r2"]), str(entry["block"]).rindex(".")
            revision = str(data.get("inputs", {}).get("revision", ""))
            stability = _stability(data.get("halves", {}))
            return cls(
                **{**found, "blocks": tuple(found["blocks"])},
                revision=revision,
                origin=_origin(data),
                stability=stability,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FastFluxError(f"{path} holds no ranking of blocks ({error!r}): make one by `nox -s rank`.") from error


def _origin(data: Mapping[str, Any]) -> str:
    environment = data.get("environment") or {}
    commit = environment.get("commit") or {}
    parts = [
        f"Measured {data['created']}" if "created" in data else "",
        f"on {environment['device']}" if environment.get("device") else "",
        f"at commit {commit['hash']}" + (" with uncommitted changes" if commit.get("dirty") else "")
        if commit.get("hash")
        else "",
    ]
    text = " ".join(filter(None, parts))
    return f"{text}." if text else ""


def _stability(halves: Mapping[str, Any]) -> str:
    if not halves.get("repeats"):
        return ""
    told = [f"{of['first_5']:.1f} and {of['first_11']:.1f} of {of['images']:,.0f}" for of in halves["repeats"]]
    return (
        f"Orders by two halves of the prompts, {halves['images']:.0f} images each, share {halves['first_5']:.1f} of "
        f"the first 5 blocks and {halves['first_11']:.1f} of the first 11. By simulation, which makes them rather too "
        f"alike, two orders would share {', '.join(told)} images."
    )


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
            *filter(None, (ranking.stability, ranking.origin)),
        ),
    )


def stack_of(entry: Mapping[str, Any]) -> str:
    """The stack of a ranking's block, such as "single_transformer_blocks"."""
    return str(entry["block"]).rpartition(".")[0]


def flow_place(entry: Mapping[str, Any]) -> tuple[int, str, int]:
    """Where the block stands in the data flow."""
    stack, _, index = entry["block"].rpartition(".")
    return (STACKS.index(stack) if stack in STACKS else len(STACKS), stack, int(index))
