"""Two variants prompt by prompt: the difference of their scores, its interval and its p-value, from their records."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from bench.metrics.catalogue import Metric, metrics
from bench.records.results import Measurement, RunRecord
from bench.records.statistics import FLIPS, SIGNIFICANT, PairedDifference, compared
from reports.rows import Row

#: What stands behind intervals and p-values, for the notes of tables.
TEST = (
    f"interval and p-value are of one test, {FLIPS:,} sign flips of whole prompts and, where a variant was pruned with "
    "several seeds, as many draws of its prunings; random flips leave a p of 0.05 a standard error of "
    f"{(SIGNIFICANT * (1 - SIGNIFICANT) / FLIPS) ** 0.5:.4f}, and nothing is decided within three of these"
)


@dataclass(frozen=True)
class Comparison:
    """Candidate minus baseline over the same prompts and seeds: rows of one pruning a side, or of several."""

    candidates: tuple[Row, ...]
    baselines: tuple[Row, ...]
    key: str
    paired: PairedDifference

    @property
    def variants(self) -> tuple[str, ...]:
        """All that were compared, the candidate first."""
        return tuple(row.variant for row in (*self.candidates, *self.baselines))

    @property
    def whole(self) -> float:
        """The baseline's score, the mean of its prunings."""
        return mean(row.number(self.key) or 0.0 for row in self.baselines)

    @property
    def change(self) -> str:
        """The difference as text: "+1.16 [+0.83, +1.51], p < 0.001"."""
        return f"{self.paired.difference.signed(_scores(self.key).spec)}, {chance(self.paired.p_value)}"

    @property
    def figures(self) -> str:
        """Both scores and their difference as text."""
        spec = _scores(self.key).spec
        ours, theirs = (
            f"{told(rows)} {mean(row.number(self.key) or 0.0 for row in rows):{spec}}"
            for rows in (self.candidates, self.baselines)
        )
        return f"{ours} against {theirs}: {self.change}"


def told(rows: Sequence[Row]) -> str:
    """The first row's label, and how many prunings it stands for where there are several."""
    return rows[0].label + (f" ({len(rows)} prunings)" if len(rows) > 1 else "")


def prunings(row: Row, rows: Iterable[Row], key: str) -> tuple[Row, ...]:
    """The row and those that differ from it in the seed of pruning alone and have the score `key`."""
    return (row, *(other for other in rows if other.id.repeated == row.id and comparable(other, key)))


def chance(p_value: float) -> str:
    """A p-value as text."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def comparable(row: Row, key: str) -> bool:
    """Whether the row holds the scores of single images behind this value."""
    found = metrics().get(key.partition(".")[0])
    return found is not None and found.weighting is not None and not isinstance(_scored(row, key), str)


def compare(candidates: Sequence[Row], baselines: Sequence[Row], key: str, null: float = 0.0) -> Comparison | str:
    """The paired comparison of the score `key`, or the reason why there is none.

    Several rows of a side are prunings with different seeds, of which the mean is compared. The p-value is that of a
    difference of `null`. "hps.averaged" is compared over all prompts, "hps.photo" over those of its style.

    Raises KeyError for a key of a metric without scores of single images.
    """
    metric = _scores(key)
    first: tuple[Measurement, RunRecord] | None = None
    sides: list[list[Measurement]] = []
    for rows in (candidates, baselines):
        sides.append([])
        for row in rows:
            scored = _scored(row, key)
            if isinstance(scored, str):
                return scored
            first = first or scored
            if reason := _unlike(first, scored):
                return f"{candidates[0].label} and {row.label} were {reason}"
            sides[-1].append(scored[0])
    stratum = "" if key == metric.key else key.partition(".")[2]
    paired = compared(sides[0], sides[1], metric.weighting, stratum, null)
    if isinstance(paired, str):
        return f"{candidates[0].label} and {baselines[0].label} cannot be paired: {paired}"
    return Comparison(tuple(candidates), tuple(baselines), key, paired)


def _unlike(first: tuple[Measurement, RunRecord], second: tuple[Measurement, RunRecord]) -> str:
    """What differs in how two were drawn or scored, "" where nothing does."""
    if first[1].sampling != second[1].sampling:
        return "sampled differently"
    ours, theirs = first[0].settings, second[0].settings
    if differing := [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]:
        return f"scored differently ({', '.join(differing)})"
    return ""


def _scores(key: str) -> Metric:
    metric = metrics()[key.partition(".")[0]]
    if metric.weighting is None:
        raise KeyError(key)
    return metric


def _scored(row: Row, key: str) -> tuple[Measurement, RunRecord] | str:
    metric = key.partition(".")[0]
    value = row.value(key)
    if value.value is None:
        return f"{row.label}: {value.note}"
    measurement = row.measurements.get(metric)
    if row.record is None or measurement is None or not measurement.samples:
        return f"{row.label}: {metric} has no scores of single images"
    return measurement, row.record
