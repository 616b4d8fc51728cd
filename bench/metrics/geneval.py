"""GenEval: the share of images with the objects, counts, colors and positions their prompts ask for, by task.

Source: arXiv 2310.11513, https://github.com/djghosh13/geneval (553 prompts in 6 tasks, 4 images each; the overall score
is the mean of the task means).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from bench.image_set import GeneratedImage, ImageSet, ImageSetError, Pixels
from bench.metrics.base import incomplete, samples_by_prompt, values_and_intervals
from bench.metrics.detection import Detection, Detector
from bench.metrics.geneval_judge import (
    COUNTING_SCORE_THRESHOLD,
    MAX_OBJECTS,
    POSITION_MARGIN,
    SCORE_THRESHOLD,
    TASKS,
    ColorClassifier,
    judge,
)
from bench.metrics.open_clip_model import FeatureError
from bench.results import JSON, Measurement, MetricInfo
from bench.statistics import strata_of, stratified_means

SelfTest = Callable[[Detector], str]
"""Tries a detector on images whose objects are known; says what is wrong, or "" if nothing is."""


class GenEval:
    """Scores the images of the set "geneval".

    Args:
        detector: finds the objects.
        classify_colors: names their colors.
        self_test: run once before the first scoring: a detector that is broken finds little, and nobody would know.
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
        self_test: SelfTest,
        reference: str = "GenEval",
        settings: Mapping[str, JSON] | None = None,
        tasks: Sequence[str] = TASKS,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        self.info = MetricInfo("geneval", "1", "fraction", higher_is_better=True, reference=reference)
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
        present = {_task(image) for image in images.images}
        if present != set(self.tasks):
            reason = f"the images have the tasks {sorted(present)}; expected {sorted(self.tasks)}"
            return Measurement.failed(self.info, reason, settings=self._settings)
        if self._fault is None:
            self._fault = self._self_test(self.detector)
        if self._fault:
            reason = f"the detector fails on known images: {self._fault}"
            return Measurement.failed(self.info, reason, missing=len(images), settings=self._settings)
        try:
            scored = [(_task(image), image, float(right)) for image, right in self._judged(images)]
        except (ImageSetError, FeatureError) as error:
            return Measurement.failed(self.info, str(error), missing=len(images), settings=self._settings)
        samples = samples_by_prompt(scored)
        means = stratified_means(strata_of(samples), weighting="strata", seed=self.seed)
        ordered = {task: means.strata[task] for task in self.tasks}
        values, intervals = values_and_intervals({**ordered, "overall": means.overall})
        return Measurement(
            self.info,
            "ok",
            values=values,
            intervals=intervals,
            scored=len(images),
            samples=samples,
            settings=self._settings,
        )

    def _judged(self, images: ImageSet) -> Iterator[tuple[GeneratedImage, bool]]:
        pairs = zip(images.images, images, strict=True)
        while batch := list(islice(pairs, self.batch_size)):
            found = self.detector([pixels for _, pixels in batch])
            for (image, pixels), detections in zip(batch, found, strict=True):
                yield image, judge(pixels, detections, image.metadata or {}, self.classify_colors).correct


def known_images_test(known: Sequence[tuple[Pixels, Mapping[str, int]]]) -> SelfTest:
    """A self-test on images with their numbers of objects by class, counted above GenEval's score threshold."""

    def test(detector: Detector) -> str:
        found = detector([image for image, _ in known])
        for index, ((_, expected), detections) in enumerate(zip(known, found, strict=True)):
            counts = _counts(detections)
            if counts != dict(expected):
                return f"image {index} shows {dict(expected)}, found {counts}"
        return ""

    return test


def _task(image: GeneratedImage) -> str:
    return str((image.metadata or {}).get("tag"))


def _counts(detections: Sequence[Detection]) -> dict[str, int]:
    return dict(Counter(found.label for found in detections if found.score > SCORE_THRESHOLD))
