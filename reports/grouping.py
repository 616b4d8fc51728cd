"""Latency groups as in the paper's Tables 1 and 2: found from measured latencies, or made for one another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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
