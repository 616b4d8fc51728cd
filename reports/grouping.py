"""What may stand together: latency groups as in the paper's Tables 1 and 2, and what one machine measured alike."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench.metrics.catalogue import on_machine
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
