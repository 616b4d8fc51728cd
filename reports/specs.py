"""The declared tables. Adding one is one `TableSpec` in `TABLES`; nothing else has to know of it."""

from __future__ import annotations

from dataclasses import dataclass

from reports.rows import DENSE, FASTFLUX, L1, Row


@dataclass(frozen=True)
class Column:
    """One column of values.

    `key` names the value ("hps.averaged"), `spec` its number format. With `si` the whole column is scaled to the SI
    prefix that fits its largest value. `share` is the key of a ratio shown in parentheses behind the value. In a
    `ranked` column the best values are marked. The heading shows the direction of the column's metric, or of the one
    that `direction_of` names: "" for none, "-" in front for the opposite one.
    """

    heading: str
    key: str
    spec: str = "z.2f"
    si: bool = False
    share: str = ""
    share_spec: str = "z.1%"
    ranked: bool = True
    direction_of: str | None = None

    @property
    def metric(self) -> str:
        """The name of the metric that measures this column."""
        return self.key.partition(".")[0]


@dataclass(frozen=True)
class TableSpec:
    """One table: its title, columns and rows; `paper` says that the paper has it too.

    Rows are the variants of the `families` (None: all), or just the `variants` named, in the records' order.
    """

    title: str
    columns: tuple[Column, ...]
    families: tuple[str, ...] | None = (DENSE, FASTFLUX, L1)
    variants: tuple[str, ...] | None = None
    grouped: bool = False
    paper: bool = False

    def holds(self, row: Row) -> bool:
        """Whether the row is one of the table's."""
        if self.variants is not None:
            return row.variant in self.variants
        return self.families is None or row.family in self.families


LATENCY = Column("Latency (ms)", "latency.median_ms", share="latency.ratio_to_dense", share_spec="z.3f", ranked=False)
FLOPS = Column("FLOPs", "flops.forward", si=True, share="flops.ratio_to_dense", ranked=False)

TABLES: dict[str, TableSpec] = {
    "table1": TableSpec(
        "Table 1: HPS by style",
        (
            Column("Animation", "hps.anime"),
            Column("Concept-art", "hps.concept-art"),
            Column("Painting", "hps.paintings"),
            Column("Photo", "hps.photo"),
            Column("Averaged", "hps.averaged"),
            LATENCY,
        ),
        grouped=True,
        paper=True,
    ),
    "table2": TableSpec(
        "Table 2: GenEval by task",
        (
            Column("Single object", "geneval.single_object"),
            Column("Two object", "geneval.two_object"),
            Column("Counting", "geneval.counting"),
            Column("Colors", "geneval.colors"),
            Column("Position", "geneval.position"),
            Column("Attribute binding", "geneval.color_attr"),
            Column("Overall", "geneval.overall"),
            LATENCY,
        ),
        grouped=True,
        paper=True,
    ),
    "table4": TableSpec(
        "Table 4: without Sandwich Training",
        (Column("HPS averaged", "hps.averaged"), Column("CLIP score", "clip_score.mean"), LATENCY),
        variants=("dense", "fastflux-10", "brll-10"),
        paper=True,
    ),
    "table5": TableSpec(
        "Table 5: orders of replacement",
        (Column("HPS averaged", "hps.averaged"),),
        variants=("dense", "fastflux-10", "r2-10", "start2end-10", "end2start-10"),
        paper=True,
    ),
    "table6": TableSpec(
        "Table 6: block replacement ratios",
        (
            Column("Ratio", "plan.ratio", spec=".0%", ranked=False),
            Column("Dropped blocks", "plan.dropped_blocks", spec=".0f", ranked=False),
            FLOPS,
            LATENCY,
            Column("HPS averaged", "hps.averaged"),
        ),
        families=(DENSE, FASTFLUX),
        paper=True,
    ),
    "cost": TableSpec(
        "Cost of pruning, beyond the calibration's own forwards",
        (
            Column("Trained at once", "pruning_cost.trainable_parameters", spec="z.2f", si=True, ranked=False),
            Column("Training steps", "pruning_cost.training_steps", spec=".0f", ranked=False),
            Column("Blocks trained x samples", "pruning_cost.block_trainings", si=True, ranked=False),
            Column("Blocks run x samples", "pruning_cost.block_forwards", si=True, ranked=False),
            Column("Peak memory (MiB)", "pruning_cost.peak_memory_mib", spec=".0f", ranked=False),
            Column("Seconds", "pruning_cost.seconds", spec=".1f", ranked=False),
            Column("HPS averaged", "hps.averaged"),
        ),
        families=(FASTFLUX, L1),
    ),
    "efficiency": TableSpec(
        "Efficiency and distribution metrics",
        (
            Column("Parameters", "parameters.total", si=True, share="parameters.ratio_to_dense", ranked=False),
            FLOPS,
            LATENCY,
            Column("Speed-up", "latency.speedup", spec="z.2f", ranked=False, direction_of="-latency"),
            Column("Peak memory (MiB)", "memory.peak_mib", spec="z.1f", ranked=False),
            Column("FID", "fid.fid"),
            Column("KID", "fid.kid", spec="z.4f"),
            Column("CLIP score", "clip_score.mean"),
        ),
        families=None,
    ),
}
