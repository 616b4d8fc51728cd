"""The declared tables. Adding one is one `TableSpec` in `TABLES`; nothing else has to know of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bench.records.variant_id import DENSE, EXTERNAL, FASTFLUX, L1, L1_EQUAL
from reports.rows import Row


@dataclass(frozen=True)
class Column:
    """One column of values.

    `key` names the value ("hps.averaged"), `spec` its number format. With `si` the whole column is scaled to the SI
    prefix that fits its largest value. `share` is the key of a ratio shown in parentheses behind the value. In a
    `ranked` column the best values are marked. The heading shows the direction of the column's metric, or of the one
    that `direction_of` names: "" for none, "-" in front for the opposite one. An `optional` column is left out where no
    row has a value.
    """

    heading: str
    key: str
    spec: str = "z.2f"
    si: bool = False
    share: str = ""
    share_spec: str = "z.1%"
    ranked: bool = True
    direction_of: str | None = None
    optional: bool = False

    @property
    def metric(self) -> str:
        """The name of the metric that measures this column."""
        return self.key.partition(".")[0]


@dataclass(frozen=True)
class Pairing:
    """Groups of a table: each row of the family `baseline` with one of `candidate`.

    By "latency" it is that of nearest measured latency, by "number" the one whose id ends in the same number.
    """

    baseline: str
    candidate: str
    by: Literal["latency", "number"] = "latency"


@dataclass(frozen=True)
class TableSpec:
    """One table: its title, columns and rows; `paper` says that the paper has it too.

    Rows are the variants of the `families` in the records' order (None: all but repeats with other seeds and other
    models' images), or just the `variants` named, in that order. Without `pairs` the rows are grouped by base model
    where there are several.
    """

    title: str
    columns: tuple[Column, ...]
    families: tuple[str, ...] | None = (DENSE, FASTFLUX, L1)
    variants: tuple[str, ...] | None = None
    pairs: Pairing | None = None
    paper: bool = False

    def chosen(self, rows: Iterable[Row]) -> list[Row]:
        """The rows that are the table's, in its order."""
        if self.variants is not None:
            order = {variant: place for place, variant in enumerate(self.variants)}
            return sorted((row for row in rows if row.variant in order), key=lambda row: order[row.variant])
        if self.families is None:
            return [row for row in rows if row.id.repeated is None and row.family != EXTERNAL]
        return [row for row in rows if row.family in self.families]


LATENCY = Column("Latency (ms)", "latency.median_ms", share="latency.ratio_to_dense", share_spec="z.3f", ranked=False)
FLOPS = Column("FLOPs", "flops.forward", si=True, share="flops.ratio_to_dense", ranked=False)
HPS = Column("HPS averaged", "hps.averaged")
GENEVAL = Column("GenEval overall", "geneval.overall", spec="z.3f")
CLIP = Column("CLIP score", "clip_score.mean")
TRAINED = Column("Trained at once", "pruning_cost.trainable_parameters", spec="z.2f", si=True, ranked=False)
SECONDS = Column("Seconds", "pruning_cost.seconds", spec=".1f", ranked=False)
WITH_EXTERNAL = (EXTERNAL, DENSE, FASTFLUX, L1)
BY_LATENCY = Pairing(L1, FASTFLUX)

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
        families=WITH_EXTERNAL,
        pairs=BY_LATENCY,
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
        families=WITH_EXTERNAL,
        pairs=BY_LATENCY,
        paper=True,
    ),
    "table3": TableSpec(
        "Table 3: generalization to another architecture",
        (HPS, CLIP),
        variants=("dense", "fastflux-10", "sd3", "fastsd3-10"),
        paper=True,
    ),
    "table4": TableSpec(
        "Table 4: without Sandwich Training",
        (HPS, CLIP, LATENCY),
        variants=("dense", "fastflux-10", "brll-10"),
        paper=True,
    ),
    "table5": TableSpec(
        "Table 5: orders of replacement",
        (HPS,),
        variants=("dense", "fastflux-10", "end2start-10", "r2-10", "start2end-10"),
        paper=True,
    ),
    "table6": TableSpec(
        "Table 6: block replacement ratios",
        (
            Column("Ratio", "plan.ratio", spec=".0%", ranked=False),
            Column("Dropped blocks", "plan.dropped_blocks", spec=".0f", ranked=False),
            FLOPS,
            LATENCY,
            HPS,
        ),
        families=(DENSE, FASTFLUX),
        paper=True,
    ),
    "equal_latency": TableSpec(
        "FastFLUX and L1-norm pruning at equal latency",
        (HPS, GENEVAL, CLIP, LATENCY),
        families=(DENSE, FASTFLUX, L1_EQUAL),
        pairs=Pairing(L1_EQUAL, FASTFLUX, by="number"),
    ),
    "ablations": TableSpec(
        "Ablations at 10%",
        (HPS, GENEVAL, CLIP, TRAINED, SECONDS),
        variants=(
            "dense",
            "fastflux-10",
            "reuse-10",
            "layers1-10",
            "layers5-10",
            "brll-10",
            "removal_st-10",
            "removal-10",
        ),
    ),
    "cost": TableSpec(
        "Cost of pruning, beyond the calibration's own forwards",
        (
            TRAINED,
            Column("Training steps", "pruning_cost.training_steps", spec=".0f", ranked=False),
            Column("Blocks trained x samples", "pruning_cost.block_trainings", si=True, ranked=False),
            Column("Blocks run x samples", "pruning_cost.block_forwards", si=True, ranked=False),
            Column("Peak memory (MiB)", "pruning_cost.peak_memory_mib", spec=".0f", ranked=False),
            SECONDS,
            HPS,
        ),
        families=(FASTFLUX, L1),
    ),
    "efficiency": TableSpec(
        "Efficiency",
        (
            Column("Parameters", "parameters.total", si=True, share="parameters.ratio_to_dense", ranked=False),
            FLOPS,
            LATENCY,
            Column("Speed-up", "latency.speedup", spec="z.2f", ranked=False, direction_of="-latency"),
            Column("Of the FLOPs bound", "latency.of_flops_bound", spec="z.2f", ranked=False, direction_of="-latency"),
            Column("Peak memory (MiB)", "memory.peak_mib", spec="z.1f", ranked=False),
            Column("Pruning (s)", "pruning_cost.seconds", spec=".1f", ranked=False),
        ),
        families=None,
    ),
    "distribution": TableSpec(
        "Distribution metrics and CLIP score",
        (
            Column("FID", "fid.fid"),
            Column("KID", "fid.kid", spec="z.4g"),
            Column("Precision", "fid.precision", spec="z.3f", direction_of="-fid", optional=True),
            Column("Recall", "fid.recall", spec="z.3f", direction_of="-fid", optional=True),
            CLIP,
        ),
        families=None,
    ),
    "fidelity": TableSpec(
        "Likeness to the dense model's images of the same prompts and seeds",
        (
            Column("PSNR (dB)", "paired.psnr"),
            Column("SSIM", "paired.ssim", spec="z.3f"),
            Column("CLIP similarity", "paired.clip_image"),
            HPS,
            GENEVAL,
        ),
        families=(FASTFLUX, L1, L1_EQUAL, "brll", "removal", "removal_st"),
    ),
}
