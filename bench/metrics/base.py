"""What a metric of images is, how one is loaded, and what such metrics share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from bench.metrics.catalogue import Metric as CatalogueEntry
from bench.metrics.catalogue import metric_named
from bench.records.results import JSON, Data, Measurement, MetricInfo
from bench.records.statistics import Estimate
from bench.samples.image_set import GeneratedImage, ImageSet
from bench.settings import read_settings
from fastflux.errors import FastFluxError


class Metric(Protocol):
    """Scores image sets. An instance holds its models, so that they load once for all variants.

    Its class has `Settings`, a struct that a profile's table ``[metrics.NAME]`` is read as, and the class method
    ``load(settings, device)``. A metric of pairs has ``against(reference)`` too, which gives one for these images.
    """

    info: MetricInfo

    def __call__(self, images: ImageSet) -> Measurement:
        """The measurement of one variant's images; a failed one with its reason when it cannot be taken."""
        ...


def settings_class(entry: CatalogueEntry) -> type[Data]:
    """What the settings of an image metric are; raises FastFluxError for a metric that is none."""
    if entry.measures == "transformer":
        raise FastFluxError(f"{entry.name} measures transformers, not images: a profile has no settings of it.")
    found: type[Data] = entry.load().Settings
    return found


def load_metric(name: str, settings: Data | None, device: str) -> Any:
    """A metric with its models; without settings those that its class has by default.

    A metric of pairs is then given its reference by `against`.

    Raises:
        FastFluxError: no such metric, or whatever it needs that is not set, not there, or not what it should be.
    """
    entry = metric_named(name)
    settings = settings or read_settings(settings_class(entry), {}, f"metrics.{name}")
    try:
        return entry.load().load(settings, device)
    except FastFluxError as error:
        raise FastFluxError(f"metrics.{name}: {error}") from error


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


def values_and_intervals(estimates: Mapping[str, Estimate]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """`Measurement.values` and `.intervals` of estimates; unknown intervals are left out."""
    known = {key: found.interval for key, found in estimates.items() if found.interval is not None}
    return {key: found.value for key, found in estimates.items()}, known


def measured(
    info: MetricInfo,
    scored: int,
    samples: Mapping[str, list[float]],
    estimates: Mapping[str, Estimate],
    settings: Mapping[str, JSON],
    more: Mapping[str, float] | None = None,
) -> Measurement:
    """The measurement of so many, none of which is missing; `more` are values without an interval."""
    values, intervals = values_and_intervals(estimates)
    return Measurement(
        info, "ok", values={**values, **(more or {})}, intervals=intervals, scored=scored, samples=samples,
        settings=settings,
    )  # fmt: skip


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
