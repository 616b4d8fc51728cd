"""Which images stand side by side: the paper's Figures 4, 5, 9 and 10 as declared groups of columns.

Adding one is one `Grid` in `GRIDS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from bench.records.variant_id import DENSE, EXTERNAL, FASTFLUX
from bench.tables import BY_LATENCY, RATIO
from reports.figures.gallery import SINGLE_REMOVALS, Gallery
from reports.figures.ranking import SINGLE, Ranking
from reports.grouping import pairs_of
from reports.rows import Row

REMOVALS_SHOWN = 4


@dataclass(frozen=True)
class Columns:
    """Columns that stand together under a heading ("" for none): variant by the label shown above it."""

    heading: str
    variants: Mapping[str, str]


@dataclass(frozen=True)
class Shown:
    """What grids are made from: the rows, the ranking of the blocks where there is one, the tolerance of a group."""

    rows: Sequence[Row]
    ranking: Ranking | None
    tolerance: float


@dataclass(frozen=True)
class Grid:
    """One grid: its title, the columns it finds in a gallery (none: it is not drawn), how many prompts it shows.

    `folder` is that of its gallery below the gallery of the records' variants.
    """

    title: str
    columns: Callable[[Shown, Gallery], tuple[Columns, ...]]
    prompts: int = 10  # four HPS styles and six GenEval tasks
    folder: str = ""


def _ratios(shown: Shown, gallery: Gallery) -> tuple[Columns, ...]:
    """The dense model, FastFLUX at every ratio, other models' images."""
    groups = [_columns("", shown.rows, gallery, (DENSE, FASTFLUX)), _columns("other models", shown.rows, gallery,
                                                                           (EXTERNAL,))]  # fmt: skip
    return _whole(groups) if len(groups[0].variants) > 1 else ()


def _latency_groups(shown: Shown, gallery: Gallery) -> tuple[Columns, ...]:
    """The dense model, then L1-norm pruning beside FastFLUX in each latency group of Table 1."""
    there = {row.variant: row for row in shown.rows if row.variant in gallery.sheets}
    pairs = [(pair.baseline, pair.candidate) for pair in pairs_of(shown.rows, BY_LATENCY, shown.tolerance).pairs]
    groups = [
        Columns(
            f"latency about {there[pair[0]].number(RATIO):.2f} of dense", {there[name].label: name for name in pair}
        )
        for pair in pairs
        if there.keys() >= set(pair)
    ]
    return _whole([_columns("", shown.rows, gallery, (DENSE,)), *groups]) if groups else ()


def _strategies(shown: Shown, gallery: Gallery) -> tuple[Columns, ...]:
    """The dense model, blocks removed, linear layers without training, the whole method; all at 10%."""
    names = {DENSE: "dense", "removal-10": "removed", "brll-10": "linear layer, w/o ST", "fastflux-10": "FastFLUX"}
    recorded = {row.variant for row in shown.rows} & gallery.sheets.keys()
    found = {label: variant for variant, label in names.items() if variant in recorded}
    return (Columns("", found),) if len(found) == len(names) else ()


def _removals(shown: Shown, gallery: Gallery) -> tuple[Columns, ...]:
    """The dense model, then without each of the blocks that matter most and of those that matter least."""
    if shown.ranking is None or not shown.ranking.is_of(shown.rows):
        return ()
    drawn = [str(entry["block"]) for entry in shown.ranking.blocks if str(entry["block"]) in gallery.sheets]
    least, most = drawn[:REMOVALS_SHOWN], drawn[::-1][:REMOVALS_SHOWN]
    if DENSE not in gallery.sheets or set(least) & set(most) or not least:
        return ()
    return (
        Columns("", {"dense": DENSE}),
        Columns("without one of the blocks that matter most", {_short(block): block for block in most}),
        Columns("without one of those that matter least", {_short(block): block for block in least}),
    )


def _short(block: str) -> str:
    stack, _, index = block.rpartition(".")
    return f"{'single' if stack == SINGLE else 'double'} {index}"


def _columns(heading: str, rows: Sequence[Row], gallery: Gallery, families: Sequence[str]) -> Columns:
    chosen = [row for row in rows if row.family in families and row.variant in gallery.sheets]
    return Columns(heading, {row.label: row.variant for row in chosen})


def _whole(groups: Sequence[Columns]) -> tuple[Columns, ...]:
    """The groups that have columns, where there are at least two columns to compare."""
    found = tuple(group for group in groups if group.variants)
    return found if len(list(chain.from_iterable(group.variants for group in found))) > 1 else ()


GRIDS: Mapping[str, Grid] = {
    "image_grid": Grid("same prompts and seeds along each row", _ratios),
    "latency_groups": Grid("FastFLUX beside L1-norm pruning of similar latency", _latency_groups),
    "replacement_strategies": Grid("what replaces the blocks, 10% of them", _strategies, prompts=4),
    "block_removals": Grid("one block removed at a time", _removals, prompts=4, folder=SINGLE_REMOVALS),
}
