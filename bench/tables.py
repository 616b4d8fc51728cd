"""The one list of tables: which variants each needs, and how it is shown. Free of torch.

A table is one `TableSpec` in `TABLES`: `reproduce --only` knows it, its variants are pruned, drawn, scored and
measured, and reports build it.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, TypeVar

from msgspec import Struct

from bench.metrics.catalogue import metric_named
from bench.records.variant_id import (
    DENSE,
    EXTERNAL,
    FASTFLUX,
    HALVES,
    INFLUENCE,
    L1,
    L1_EQUAL,
    L1_LONG,
    PLUS,
    WIDTH,
    WIDTH_EQUAL,
    VariantId,
)
from fastflux.errors import unknown_name


class Column(Struct, frozen=True, forbid_unknown_fields=True):
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

    @property
    def decimals(self) -> int:
        """Digits behind the point, of a format such as "z.2f"."""
        return int(self.spec.rpartition(".")[2].rstrip("f"))


class Pairing(Struct, frozen=True, forbid_unknown_fields=True):
    """Groups of a table: each row of the family `baseline` with one of `candidate`.

    By "latency" it is that of nearest measured latency, by "number" the one whose id ends in the same number. A row of
    the family `beside` joins the group of nearest latency, or of the same number.
    """

    baseline: str
    candidate: str
    by: Literal["latency", "number"] = "latency"
    beside: str = ""


class Identified(Protocol):
    """What stands in a row of a table."""

    @property
    def id(self) -> VariantId:
        """The variant."""
        ...


_Row = TypeVar("_Row", bound=Identified)


class TableSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One table: its title, columns and rows; `paper` says that the paper has it too.

    Rows are the variants of the `families` in the records' order (None: all but repeats with other seeds and other
    models' images), or just the `variants` named, in that order. Without `pairs` the rows are grouped by base model
    where there are several. `needs` names ids and families to be measured, where they are not those shown; families in
    `aside` are shown once they are measured, but not measured for the table. A table that is `worked_out` has rows of
    its own kind: `reports.build` makes it, from the values of its columns.
    """

    title: str
    columns: tuple[Column, ...] = ()
    families: tuple[str, ...] | None = (DENSE, FASTFLUX, L1)
    variants: tuple[str, ...] | None = None
    pairs: Pairing | None = None
    paper: bool = False
    needs: tuple[str, ...] | None = None
    aside: tuple[str, ...] = ()
    repeats: bool = False
    worked_out: bool = False

    def chosen(self, rows: Iterable[_Row]) -> list[_Row]:
        """The rows that are the table's, in its order."""
        order = self.variants
        found = [row for row in rows if self.shows(row.id)]
        return found if order is None else sorted(found, key=lambda row: order.index(str(row.id)))

    def needed(self, variant: VariantId) -> bool:
        """Whether the variant is to be measured for the table."""
        if self.repeats and variant.repeated is not None:
            return True
        if self.needs is None:
            return self.shows(variant) and variant.family not in self.aside
        return not {str(variant), variant.family}.isdisjoint(self.needs)

    def shows(self, variant: VariantId) -> bool:
        """Whether the variant is a row of the table once it is measured."""
        if self.variants is not None:
            return str(variant) in self.variants
        if self.families is None:
            return variant.repeated is None and variant.family != EXTERNAL
        return variant.family in self.families

    @property
    def keys(self) -> list[str]:
        """The values that the table shows or is grouped by."""
        keys = [key for column in self.columns for key in (column.key, column.share) if key]
        return [*keys, RATIO] if self.pairs else keys


def headline(metric: str, **settings: Any) -> Column:
    """The column of a metric's headline value, called and formatted as the catalogue says, with its `settings`."""
    found = metric_named(metric)
    return Column(found.title, found.key, f"z{found.spec}", **settings)


def needed_by(tables: Iterable[str]) -> Callable[[VariantId], bool]:
    """Whether a variant is to be measured for any of the tables; raises FastFluxError for one that there is not."""
    specs = []
    for name in tables:
        if name not in TABLES:
            raise unknown_name("table", name, TABLES)
        specs.append(TABLES[name])
    return lambda variant: any(spec.needed(variant) for spec in specs)


RATIO = "latency.ratio_to_dense"
LATENCY = headline("latency", share=RATIO, share_spec="z.3f", ranked=False)
FLOPS = headline("flops", si=True, share="flops.ratio_to_dense", ranked=False)
HPS, GENEVAL, CLIP = SCORES = tuple(map(headline, ("hps", "geneval", "clip_score")))
LATENCY_RATIO = Column("Latency, ratio to dense", RATIO, spec="z.3f")
FLOPS_RATIO = Column("FLOPs, ratio to dense", "flops.ratio_to_dense", spec="z.3f")
TRAINED = Column("Trained at once", "pruning_cost.trainable_parameters", spec="z.2f", si=True, ranked=False)
SECONDS = Column("Seconds", "pruning_cost.seconds", spec=".1f", ranked=False)
#: FastFLUX+, whose distillation takes longest, is measured by `beyond`, or with all tables.
OURS = (PLUS, "plussd3", "plusflux2")
WITH_EXTERNAL = (EXTERNAL, DENSE, FASTFLUX, PLUS, L1)
BY_LATENCY = Pairing(L1, FASTFLUX, beside=PLUS)
BY_NUMBER = Pairing(L1_EQUAL, FASTFLUX, by="number", beside=WIDTH_EQUAL)

#: What the history of past commits keeps, by the name it is asked for.
TRENDS = {
    **{column.metric: column for column in (*SCORES, headline("fid"), LATENCY_RATIO, FLOPS)},
    **{name: headline(name) for name in ("parameters", "memory")},
}


def trend(metric: str) -> Column:
    """The value of the history that a metric's name or a key asks for; raises FastFluxError with a suggestion."""
    known = TRENDS | {column.key: column for column in TRENDS.values()}
    if metric not in known:
        raise unknown_name("metric of the history", metric, known)
    return known[metric]


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
        aside=OURS,
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
        aside=OURS,
        pairs=BY_LATENCY,
        paper=True,
    ),
    "table3": TableSpec(
        "Table 3: generalization to other architectures",
        (HPS, CLIP),
        variants=(
            *("dense", "fastflux-10", "sd3", "fastsd3-10", "fastsd3-20", "plussd3-20"),
            *("flux2", "fastflux2-10", "fastflux2-20", "plusflux2-20"),
        ),
        aside=OURS,
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
        families=(DENSE, FASTFLUX, PLUS),
        aside=OURS,
        paper=True,
    ),
    "equal_latency": TableSpec(
        "FastFLUX and L1-norm pruning at equal latency",
        (HPS, GENEVAL, CLIP, LATENCY),
        families=(DENSE, FASTFLUX, L1_EQUAL, WIDTH_EQUAL),
        pairs=BY_NUMBER,
        needs=(L1_EQUAL, WIDTH_EQUAL),  # each brings along the variant that it is to be as fast as
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
    "order_noise": TableSpec(
        "Orders by two halves of the ranking's prompts, and by block influence",
        SCORES,
        variants=(DENSE, *(f"{name}-{ratio}" for ratio in (20, 30) for name in (FASTFLUX, *HALVES, INFLUENCE))),
    ),
    "width": TableSpec(
        "L1-norm pruning, and width pruning with compensation",
        (HPS, GENEVAL, CLIP, SECONDS, LATENCY),
        variants=(DENSE, *(f"{family}-{ratio}" for ratio in (12, 21, 27) for family in (L1, WIDTH))),
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
        families=(FASTFLUX, PLUS, L1, L1_LONG),
    ),
    "efficiency": TableSpec(
        "Efficiency",
        (
            headline("parameters", si=True, share="parameters.ratio_to_dense", ranked=False),
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
            headline("fid"),
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
            headline("paired"),
            HPS,
            GENEVAL,
        ),
        families=(FASTFLUX, PLUS, L1, L1_EQUAL, "brll", "removal", "removal_st"),
    ),
    "differences": TableSpec("Paired differences", SCORES, families=None, pairs=BY_LATENCY, worked_out=True),
    "seeds": TableSpec(
        "Seeds of pruning",
        SCORES,
        needs=("fastflux-10", "seed1-10", "seed2-10", "fastflux-20", "seed1-20", "seed2-20"),
        worked_out=True,
    ),
    "claims": TableSpec("Claims of the paper", SCORES, families=None, pairs=BY_LATENCY, repeats=True, worked_out=True),
    "beyond": TableSpec(
        "Beyond the paper: FastFLUX+", (HPS, GENEVAL), families=(PLUS,), needs=(PLUS, "width_equal-20"), worked_out=True
    ),
    "provenance": TableSpec("Records behind the tables", families=None, worked_out=True),
}

#: What a run makes that names no tables: those of the paper, and its Figures 6 and 7.
MAIN = (*(name for name, spec in TABLES.items() if spec.paper), "ablations")
