"""GenEval: the share of images with the objects, counts, colors and positions their prompts ask for, by task.

Source: arXiv 2310.11513, https://github.com/djghosh13/geneval (553 prompts in 6 tasks, 4 images each; the overall score
is the mean of the task means).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from bench.metrics.base import incomplete, samples_by_prompt, values_and_intervals
from bench.metrics.catalogue import metric_named
from bench.metrics.detection import Detection, Detector, DetectorError
from bench.metrics.models.open_clip_model import FeatureError
from bench.metrics.quality.geneval_judge import (
    COUNTING_SCORE_THRESHOLD,
    MAX_OBJECTS,
    POSITION_MARGIN,
    SCORE_THRESHOLD,
    ColorClassifier,
    judge,
)
from bench.records.results import JSON, Measurement, MetricInfo
from bench.records.statistics import strata_of, stratified_means
from bench.samples.geneval_vocabulary import TASKS
from bench.samples.image_set import GeneratedImage, ImageSet, ImageSetError, Pixels

SelfTest = Callable[[Detector], str]
"""Tries a detector on images whose objects are known; says what is wrong, or "" if nothing is."""


class GenEval:
    """Scores the images of the set "geneval".

    Args:
        detector: finds the objects.
        classify_colors: names their colors.
        self_test: run once before the first scoring: a detector that is broken finds little, and nobody would know.
            None where no image is known: then a detector that finds nothing in any image fails the measurement, and
            "single_object_found", the share of that task's images with any object, stands beside the scores.
        reference: what the scores may be called.
        settings: what determines detector and classifier, kept in the measurement.
        tasks: the tasks (metadata "tag") there must be; their order is that of the values.
        seed: of the intervals' resampling.
    """

    def __init__(
        self,
        detector: Detector,
        classify_colors: ColorClassifier,
        *,
        self_test: SelfTest | None,
        reference: str = "GenEval",
        settings: Mapping[str, JSON] | None = None,
        tasks: Sequence[str] = TASKS,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        self.info = metric_named("geneval").described(reference)
        self.detector = detector
        self.classify_colors = classify_colors
        self.tasks = tuple(tasks)
        self.batch_size = batch_size
        self.seed = seed
        self._settings: dict[str, JSON] = {
            **(settings or {}),
            "score_threshold": SCORE_THRESHOLD,
            "counting_score_threshold": COUNTING_SCORE_THRESHOLD,
            "max_objects": MAX_OBJECTS,
            "position_margin": POSITION_MARGIN,
            "interval_seed": seed,
        }
        self._self_test = self_test
        self._fault: str | None = None

    def __call__(self, images: ImageSet) -> Measurement:
        """Values: the mean of each task and "overall", the mean of these; samples are 1 (right) or 0."""
        images = images.subset("geneval")
        if (failed := incomplete(self.info, images, self._settings)) is not None:
            return failed
        # Before the long work, not after it.
        if (failed := _other_tasks(self.info, images.images, self.tasks, self._settings)) is not None:
            return failed
        try:
            if self._self_test is not None and self._fault is None:
                self._fault = self._self_test(self.detector)
            if self._fault:
                return self._failed(f"the detector fails on known images: {self._fault}", images)
            judged = list(self._judged(images))
        except (ImageSetError, FeatureError, DetectorError) as error:
            return self._failed(str(error), images)
        extra: dict[str, float] = {}
        if self._self_test is None:
            if not any(one.anything for one in judged):
                return self._failed(
                    f"the detector finds no object in any of {len(images)} images: it is broken, or they show none; "
                    "test it on known images",
                    images,
                )
            single = [one.anything for one in judged if _task(one.image) == "single_object"]
            extra = {"single_object_found": sum(single) / len(single)} if single else {}
        scored = [(one.image, one.right) for one in judged]
        return task_means(self.info, scored, self.tasks, seed=self.seed, settings=self._settings, extra=extra)

    def _failed(self, reason: str, images: ImageSet) -> Measurement:
        return Measurement.failed(self.info, reason, missing=len(images), settings=self._settings)

    def _judged(self, images: ImageSet) -> Iterator[_Judged]:
        pairs = zip(images.images, images, strict=True)
        while batch := list(islice(pairs, self.batch_size)):
            found = self.detector([pixels for _, pixels in batch])
            for (image, pixels), detections in zip(batch, found, strict=True):
                right = judge(pixels, detections, image.metadata or {}, self.classify_colors).correct
                yield _Judged(image, right, bool(_counts(detections)))


@dataclass(frozen=True)
class _Judged:
    """Whether an image is right, and whether any object at all was found in it."""

    image: GeneratedImage
    right: bool
    anything: bool


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
    if (failed := _other_tasks(info, [image for image, _ in judged], tasks, settings)) is not None:
        return failed
    samples = samples_by_prompt((_task(image), image, float(right)) for image, right in judged)
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


def known_images_test(known: Sequence[tuple[Pixels, Mapping[str, int]]], *, listed_only: bool = False) -> SelfTest:
    """A self-test on images with their numbers of objects by class, counted above GenEval's score threshold.

    With `listed_only`, only the classes that an image's numbers name are counted, as in photographs full of things.
    """

    def test(detector: Detector) -> str:
        found = detector([image for image, _ in known])
        for index, ((_, expected), detections) in enumerate(zip(known, found, strict=True)):
            counts = _counts(detections)
            if listed_only:
                counts = {name: counts.get(name, 0) for name in expected}
            if counts != dict(expected):
                return f"image {index} shows {dict(expected)}, found {counts}"
        return ""

    return test


def _other_tasks(
    info: MetricInfo, images: Sequence[GeneratedImage], tasks: Sequence[str], settings: Mapping[str, JSON]
) -> Measurement | None:
    """A failed measurement when the images' tasks are not `tasks`, else None."""
    present = {_task(image) for image in images}
    if present == set(tasks):
        return None
    reason = f"the images have the tasks {sorted(present)}; expected {sorted(tasks)}"
    return Measurement.failed(info, reason, settings=settings)


def _task(image: GeneratedImage) -> str:
    return str((image.metadata or {}).get("tag"))


def _counts(detections: Sequence[Detection]) -> dict[str, int]:
    return dict(Counter(found.label for found in detections if found.score > SCORE_THRESHOLD))
