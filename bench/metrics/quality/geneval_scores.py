"""GenEval's aggregation of verdicts: the mean of each task, and the mean of these; whoever judged the images."""

from collections.abc import Mapping, Sequence

from bench.metrics.base import samples_by_prompt, values_and_intervals
from bench.records.results import JSON, Measurement, MetricInfo
from bench.records.statistics import strata_of, stratified_means
from bench.samples.image_set import GeneratedImage


def task_means(
    info: MetricInfo,
    judged: Sequence[tuple[GeneratedImage, bool]],
    tasks: Sequence[str],
    *,
    seed: int,
    settings: Mapping[str, JSON],
    extra: Mapping[str, float] | None = None,
) -> Measurement:
    """GenEval's aggregation of verdicts: the mean of each task and "overall", the mean of these; `extra` follows.

    A failed measurement where the tasks of the images are not `tasks`.
    """
    if (failed := other_tasks(info, [image for image, _ in judged], tasks, settings)) is not None:
        return failed
    samples = samples_by_prompt((task_of(image), image, float(right)) for image, right in judged)
    means = stratified_means(strata_of(samples), weighting="strata", seed=seed)
    ordered = {task: means.strata[task] for task in tasks}
    values, intervals = values_and_intervals({**ordered, "overall": means.overall})
    return Measurement(
        info,
        "ok",
        values={**values, **(extra or {})},
        intervals=intervals,
        scored=len(judged),
        samples=samples,
        settings=settings,
    )


def other_tasks(
    info: MetricInfo, images: Sequence[GeneratedImage], tasks: Sequence[str], settings: Mapping[str, JSON]
) -> Measurement | None:
    """A failed measurement when the images' tasks are not `tasks`, else None."""
    present = {task_of(image) for image in images}
    if present == set(tasks):
        return None
    reason = f"the images have the tasks {sorted(present)}; expected {sorted(tasks)}"
    return Measurement.failed(info, reason, settings=settings)


def task_of(image: GeneratedImage) -> str:
    """The task of an image's prompt (metadata "tag")."""
    return str((image.metadata or {}).get("tag"))
