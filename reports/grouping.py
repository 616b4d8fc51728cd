"""What may stand together, and what can be compared: latency groups as in the paper's Tables 1 and 2, paired scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean

from bench.metrics.catalogue import Metric, metrics, on_machine
from bench.records.results import Measurement, RunRecord
from bench.records.statistics import FLIPS, SIGNIFICANT, PairedDifference, compared
from bench.records.variant_id import VariantId
from bench.tables import RATIO, Pairing
from fastflux.errors import FastFluxError
from reports.rows import Row

DEFAULT_TOLERANCE = 0.05


@dataclass(frozen=True)
class LatencyPair:
    """A baseline and a candidate of similar latency; `difference` is relative to the slower one, None if unknown."""

    baseline: str
    candidate: str
    difference: float | None


@dataclass(frozen=True)
class LatencyGroups:
    """Disjoint pairs, slowest first, the variants left over with the reason why, and those that joined a pair."""

    pairs: tuple[LatencyPair, ...]
    alone: Mapping[str, str]
    beside: Mapping[str, LatencyPair] = field(default_factory=dict)


def pairs_of(rows: Sequence[Row], pairing: Pairing, tolerance: float = DEFAULT_TOLERANCE) -> LatencyGroups:
    """The rows of the pairing's two families in groups, by their latencies as ratios to dense."""
    baselines, candidates, others = (
        {row.variant: row.number(RATIO) for row in rows if family and row.family == family}
        for family in (pairing.baseline, pairing.candidate, pairing.beside)
    )
    if pairing.by == "number":
        groups = pair_by_number(baselines, candidates)
        numbered = {VariantId.parse(pair.candidate).number: pair for pair in groups.pairs}
        numbers = {variant: VariantId.parse(variant).number for variant in others}
        return replace(groups, beside={variant: numbered[n] for variant, n in numbers.items() if n in numbered})
    groups = pair_by_latency(baselines, candidates, tolerance)
    beside: dict[str, LatencyPair] = {}
    alone: dict[str, str] = {}
    for variant, latency in others.items():
        near = (
            []
            if latency is None
            else [
                (apart, pair)
                for pair in groups.pairs
                if (apart := relative_difference(latency, candidates[pair.candidate] or 0.0)) <= tolerance
            ]
        )
        if near:
            beside[variant] = min(near, key=lambda found: found[0])[1]
        else:
            alone[variant] = "latency not measured" if latency is None else "no group of its latency"
    return replace(groups, alone={**groups.alone, **alone}, beside=beside)


def relative_difference(first: float, second: float) -> float:
    """How far two positive latencies are apart as a fraction of the slower one; symmetric, from 0 to below 1."""
    return abs(first - second) / max(first, second)


def pair_by_latency(
    baselines: Mapping[str, float | None], candidates: Mapping[str, float | None], tolerance: float = DEFAULT_TOLERANCE
) -> LatencyGroups:
    """Pair each baseline with the candidate of nearest latency ratio, one to one, within `tolerance`.

    The closest of all pairs is made first, then the closest among the rest, so no two unpaired or worse paired variants
    would both be better off together, and the order of the inputs does not matter. A latency of None is one that was
    not measured. Raises FastFluxError for a tolerance outside [0, 1) or a latency that is not positive.
    """
    if not 0 <= tolerance < 1:
        raise FastFluxError(
            f"The latency tolerance is {tolerance}, but a fraction from 0 to below 1 is expected; give 0.05 for 5%."
        )
    for variant, latency in {**baselines, **candidates}.items():
        if latency is not None and not latency > 0:
            raise FastFluxError(
                f"The latency of {variant} is {latency}, but a positive number is expected; measure it again."
            )
    near = sorted(
        (relative_difference(slow, fast), baseline, candidate)
        for baseline, slow in baselines.items()
        for candidate, fast in candidates.items()
        if slow is not None and fast is not None and relative_difference(slow, fast) <= tolerance
    )
    taken: set[str] = set()
    pairs: list[LatencyPair] = []
    for difference, baseline, candidate in near:
        if taken.isdisjoint((baseline, candidate)):
            taken |= {baseline, candidate}
            pairs.append(LatencyPair(baseline, candidate, difference))
    pairs.sort(key=lambda pair: (-(baselines[pair.baseline] or 0.0), pair.baseline))
    had_choice = {variant for _, baseline, candidate in near for variant in (baseline, candidate)}
    within = f"within {100 * tolerance:g}% of its latency"

    def reason(variant: str, latency: float | None) -> str:
        if latency is None:
            return "latency not measured"
        return f"every partner {within} has a closer one" if variant in had_choice else f"no partner {within}"

    alone = {
        variant: reason(variant, latency)
        for variant, latency in (*candidates.items(), *baselines.items())
        if variant not in taken
    }
    return LatencyGroups(tuple(pairs), alone)


def pair_by_number(baselines: Mapping[str, float | None], candidates: Mapping[str, float | None]) -> LatencyGroups:
    """Pair the variants whose ids end in the same number: l1_equal-10 was pruned to the latency of fastflux-10.

    Slowest first. A baseline without its candidate is alone; a candidate for which nothing was made is left out.
    """
    partners = {VariantId.parse(variant).number: variant for variant in candidates}
    pairs: list[LatencyPair] = []
    alone: dict[str, str] = {}
    for baseline, latency in baselines.items():
        candidate = partners.get(VariantId.parse(baseline).number)
        if candidate is None:
            alone[baseline] = "the variant it was made to equal was not measured"
            continue
        other = candidates[candidate]
        apart = None if latency is None or other is None else relative_difference(latency, other)
        pairs.append(LatencyPair(baseline, candidate, apart))
    pairs.sort(key=lambda pair: (-(candidates[pair.candidate] or 0.0), pair.baseline))
    return LatencyGroups(tuple(pairs), alone)


_MOST_NAMED = 3
_CONDITIONS = ("batch", "height", "width", "dtype", "threads", "compiled")


def machine_dependent(key: str) -> bool:
    """Whether a value such as "latency.median_ms" is another one on another machine."""
    metric, _, value = key.partition(".")
    return on_machine(metric, value)


def device_of(row: Row) -> str:
    """The device a row's record names: the model of the GPU or CPU, else its type."""
    environment = {} if row.record is None else row.record.environment
    return next((str(environment[key]) for key in ("device", "device_type", "cpu") if environment.get(key)), "unknown")


def device_notes(rows: Iterable[Row], keys: Iterable[str], where: str, *, mix: bool = False) -> tuple[str, ...]:
    """The note that names the devices behind the rows' values of `keys`, none when it is one device.

    Raises FastFluxError when a value that hangs on the machine comes from several and `mix` does not allow it; `where`
    names the table.
    """
    measured = [row for row in rows if row.record is not None]
    keys = list(keys)
    for key in filter(machine_dependent, keys):
        shown = [row for row in measured if row.number(key) is not None]
        found = _by_device(shown)
        if len(found) == 1:
            _require_like(shown, key, where)
        if len(found) > 1 and not mix:
            raise FastFluxError(
                f"{where} would mix {key} of {len(found)} devices: {_named(found)}; keep one device's records in the "
                "folder, or allow it with --mix-devices."
            )
    found = _by_device(row for row in measured if any(row.number(key) is not None for key in keys))
    if len(found) < 2:
        return ()
    limit = (
        " Latency, memory and seconds can be compared within one device only."
        if any(map(machine_dependent, keys))
        else ""
    )
    return (f"Measured on {len(found)} devices: {_named(found)}.{limit}",)


def _require_like(rows: Sequence[Row], key: str, where: str) -> None:
    """Times of one device compare when batch, size, format and threads are the same; no option allows others."""
    found: dict[str, str] = {}
    for row in rows:
        measurement = row.measurements.get(key.partition(".")[0])
        settings = {} if measurement is None else measurement.settings
        found.setdefault(", ".join(f"{name} {settings[name]}" for name in _CONDITIONS if name in settings), row.variant)
    if len(found) > 1:
        (first, one), (second, other) = list(found.items())[:2]
        raise FastFluxError(
            f"{where} would mix {key} measured under different conditions: {first} ({one}) and {second} ({other}); "
            "measure them in one run."
        )


def _by_device(rows: Iterable[Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(device_of(row), []).append(row.variant)
    return found


def _named(devices: dict[str, list[str]]) -> str:
    return "; ".join(f"{device} ({_few(variants)})" for device, variants in sorted(devices.items()))


def _few(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


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
