"""What image metrics are, and what they share; `bench.metrics.catalogue` lists all metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from bench.records.results import JSON, Measurement, MetricInfo
from bench.records.statistics import Estimate
from bench.samples.image_set import GeneratedImage, ImageSet


class Metric(Protocol):
    """Scores image sets. An instance holds its models, so that they load once for all variants."""

    info: MetricInfo

    def __call__(self, images: ImageSet) -> Measurement:
        """The measurement of one variant's images; a failed one with its reason when it cannot be taken."""
        ...


def load_object(place: str) -> Any:
    """The object that "module:object" names, its module imported now."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def incomplete(info: MetricInfo, images: ImageSet, settings: Mapping[str, JSON]) -> Measurement | None:
    """A failed measurement when images are missing or surplus, else None: another number is another benchmark."""
    if missing := images.missing():
        return Measurement.failed(
            info, f"{len(missing)} images are missing: {_shown(missing)}", missing=len(missing), settings=settings
        )
    if surplus := images.surplus():
        return Measurement.failed(
            info, f"{len(surplus)} images are there twice or were not asked for: {_shown(surplus)}", settings=settings
        )
    if not images.images:
        return Measurement.failed(info, "the image set holds no images for this metric", settings=settings)
    return None


def samples_by_prompt(scored: Iterable[tuple[str, GeneratedImage, float]]) -> dict[str, list[float]]:
    """`Measurement.samples` of (stratum, image, score): by ``"<stratum>/<prompt id>"``, in the order given."""
    samples: dict[str, list[float]] = {}
    for stratum, image, score in scored:
        samples.setdefault(f"{stratum}/{image.prompt_id}" if stratum else image.prompt_id, []).append(score)
    return samples


def values_and_intervals(
    estimates: Mapping[str, Estimate], scale: float = 1.0
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """`Measurement.values` and `.intervals` of estimates, times `scale`; unknown intervals are left out."""
    values = {key: estimate.value * scale for key, estimate in estimates.items()}
    intervals = {
        key: (estimate.interval[0] * scale, estimate.interval[1] * scale)
        for key, estimate in estimates.items()
        if estimate.interval is not None
    }
    return values, intervals


def measured(
    info: MetricInfo,
    images: ImageSet,
    samples: Mapping[str, list[float]],
    estimates: Mapping[str, Estimate],
    settings: Mapping[str, JSON],
) -> Measurement:
    """The measurement of an image set whose every image was scored."""
    values, intervals = values_and_intervals(estimates)
    return Measurement(
        info, "ok", values=values, intervals=intervals, scored=len(images), samples=samples, settings=settings
    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
