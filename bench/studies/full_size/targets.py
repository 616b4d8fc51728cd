"""Models that are to be as fast as another one, their target, are timed in the same rounds as it."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from bench.metrics.base import values_and_intervals
from bench.records.results import Measurement
from bench.records.statistics import median_interval
from bench.studies.full_size.variants import FullSizeVariant


def with_targets(variants: Mapping[str, FullSizeVariant], names: Sequence[str]) -> list[str]:
    """The names, and behind them the targets that are not among them."""
    targets = (variants[name].target for name in names)
    return list(dict.fromkeys((*names, *(target for target in targets if target))))


def against_targets(
    variants: Mapping[str, FullSizeVariant], found: Mapping[str, Measurement]
) -> dict[str, Measurement]:
    """The latencies of one run of rounds, those of models with a target with "ratio_to_target" besides.

    It is the median over the rounds of the model's time by the target's in the same round, with its 95% interval.
    """
    compared = dict(found)
    for name, own in found.items():
        target = found.get(variants[name].target)
        if target is None or own.status != "ok" or target.status != "ok":
            continue
        pairs = zip(own.samples["ms"], target.samples["ms"], strict=True)
        estimate = median_interval([mine / its for mine, its in pairs])
        values, intervals = values_and_intervals({"ratio_to_target": estimate})
        compared[name] = replace(
            own,
            values={**own.values, **values},
            intervals={**own.intervals, **intervals},
            settings={**own.settings, "target": variants[name].target},
        )
    return compared
