"""GenEval: the share of images with the objects, counts, colors and positions their prompts ask for, by task.

Source: arXiv 2310.11513, https://github.com/djghosh13/geneval (553 prompts in 6 tasks, 4 images each; the overall score
is the mean of the task means).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from bench.metrics.base import incomplete, measured, samples_by_prompt
from bench.metrics.catalogue import load_object, metric_named
from bench.metrics.detection import DETECTORS, Detection, Detector, DetectorError, KnownImage, read_known_images
from bench.metrics.models.open_clip_checkpoint import ClipSettings
from bench.metrics.models.open_clip_model import FeatureError
from bench.metrics.quality.geneval_judge import (
    COUNTING_SCORE_THRESHOLD,
    GENEVAL_TEMPLATES,
    MAX_OBJECTS,
    POSITION_MARGIN,
    SCORE_THRESHOLD,
    ClipColorClassifier,
    ColorClassifier,
    judge,
)
from bench.records.environment import sha256_of
from bench.records.results import JSON, Data, Measurement, MetricInfo, RecordError, json_of, read_data
from bench.records.statistics import SEED, strata_of, stratified_means
from bench.samples.image_set import UNKNOWN_SEED, GeneratedImage, ImageSet, ImageSetError
from bench.samples.layouts import content_of, parse_prompt
from bench.samples.prompts import COCO_CLASSES, TASKS, GenEvalMetadata
from bench.settings import Batch, Place, PlaceOrName
from fastflux.calibration.prompts import read_lines
from fastflux.errors import FastFluxError


def task_means(
    info: MetricInfo,
    judged: Sequence[tuple[GeneratedImage, bool]],
    *,
    settings: Mapping[str, JSON],
    extra: Mapping[str, float] | None = None,
) -> Measurement:
    """GenEval's aggregation of verdicts: the mean of each task and "overall", the mean of these; `extra` follows.

    A failed measurement where the images have not all of GenEval's tasks.
    """
    if (failed := other_tasks(info, [image for image, _ in judged], settings)) is not None:
        return failed
    samples = samples_by_prompt((task_of(image), image, float(right)) for image, right in judged)
    means = stratified_means(strata_of(samples), weighting="strata", seed=SEED)
    ordered = {task: means.strata[task] for task in TASKS}
    return measured(info, len(judged), samples, {**ordered, "overall": means.overall}, settings, extra)


def other_tasks(info: MetricInfo, images: Sequence[GeneratedImage], settings: Mapping[str, JSON]) -> Measurement | None:
    """A failed measurement when the images' tasks are not just GenEval's, else None."""
    present = {task_of(image) for image in images}
    if present == set(TASKS):
        return None
    reason = f"the images have the tasks {sorted(present)}; expected {sorted(TASKS)}"
    return Measurement.failed(info, reason, settings=settings)


def task_of(image: GeneratedImage) -> str:
    """The task of an image's prompt (metadata "tag")."""
    return str((image.metadata or {}).get("tag"))


REFERENCE = "GenEval: verdicts of the official evaluator"
_PLACE = re.compile(r"(\d+)[\\/]samples[\\/](\d+)\.png$")


class EvaluatorLine(Data, frozen=True, forbid_unknown_fields=False):
    """A line of the evaluator's results."""

    filename: str
    tag: str
    prompt: str
    correct: bool
    reason: str
    metadata: str


OfficialVerdict = tuple[GeneratedImage, bool]
"""An image, whose `file` is its name there, and whether the evaluator found it right."""


class OfficialGenEval:
    """Scores images by the official evaluator's results file, read once.

    Images are found in it by prompt, metadata and sample number, so that results of other images are refused.

    Raises:
        FastFluxError: a file that cannot be read or is not of the evaluator's form (names the line).
    """

    def __init__(self, results: Path) -> None:
        self.info = metric_named("geneval").described(REFERENCE)
        self.verdicts = read_official_results(results)
        self._name = results.name
        self._settings: dict[str, JSON] = {
            "detector": "official evaluator",
            "results": results.name,
            "results_sha256": sha256_of(results),
            "interval_seed": SEED,
        }

    def __call__(self, images: ImageSet) -> Measurement:
        """As `GenEval` measures: values by task and "overall", samples 1 (right) or 0, of these images."""
        images = images.subset("geneval")
        if (failed := incomplete(self.info, images, self._settings)) is not None:
            return failed
        said: dict[tuple[str, int], bool] = {}
        for image, correct in self.verdicts:
            if said.setdefault(_key(image), correct) is not correct:
                return self._failed(f"{self._name} judges one prompt's sample twice, and differently")
        asked = {_key(image): image for image in images.images}
        if absent := [image for key, image in asked.items() if key not in said]:
            reason = f"{len(absent)} images have no verdict in {self._name}, e.g. {absent[0].file}"
            return self._failed(reason, len(absent))
        if foreign := len(said.keys() - asked.keys()):
            return self._failed(f"{self._name} judges {foreign} images that are not among these {len(images)}")
        judged = [(image, said[_key(image)]) for image in images.images]
        return task_means(self.info, judged, settings=self._settings)

    def _failed(self, reason: str, missing: int = 0) -> Measurement:
        return Measurement.failed(self.info, reason, missing=missing, settings=self._settings)


def read_official_results(path: Path) -> tuple[OfficialVerdict, ...]:
    """The evaluator's verdicts, sorted by prompt and sample; prompts are named by their folders' numbers.

    Raises:
        FastFluxError: a missing or empty file, a line of another form, or an image judged twice.
    """
    verdicts: dict[tuple[str, int], OfficialVerdict] = {}
    for where, line in read_lines(path):
        verdict = _verdict(line, where)
        key = (verdict[0].prompt_id, verdict[0].sample)
        if verdicts.setdefault(key, verdict) is not verdict:
            raise FastFluxError(f"{where}: {verdict[0].file} is judged twice; evaluate again.")
    if not verdicts:
        raise FastFluxError(f"{path} holds no verdicts; give the results of GenEval's evaluator.")
    return tuple(verdicts[key] for key in sorted(verdicts))


def _verdict(line: str, where: str) -> OfficialVerdict:
    data = read_data(EvaluatorLine, json_of(line, where, "evaluate again"), where)
    place = _PLACE.search(data.filename)
    if place is None:
        raise FastFluxError(f"{where}: {data.filename!r} is not <number>/samples/<number>.png; evaluate again.")
    prompt = parse_prompt(data.metadata, int(place.group(1)), f"{where}, metadata")
    if (prompt.metadata or {})["tag"] != data.tag or prompt.prompt != data.prompt:
        raise FastFluxError(f"{where}: tag and prompt are not those of its metadata; evaluate again.")
    file, sample = Path(data.filename), int(place.group(2))
    image = GeneratedImage(file, prompt.id, sample, UNKNOWN_SEED, "geneval", None, prompt.metadata, prompt.prompt)
    return image, data.correct


def _key(image: GeneratedImage) -> tuple[str, int]:
    return content_of(image.metadata or {}, image.prompt), image.sample


#: Known images that are drawn here.
RENDERED = {"shapes": "bench.shapes.pictures:known_images"}
PUBLIC_CLIP = ClipSettings()
"""GenEval's CLIP, OpenAI's ViT-L-14."""

SelfTest = Callable[[Detector], str]
"""Tries a detector on images whose objects are known; says what is wrong, or "" if nothing is."""


class GenEvalSettings(Data, frozen=True):
    """GenEval's judge behind a detector, colors by CLIP; or the verdicts of the official evaluator.

    The scores are called a variant of GenEval, since its own detector is another one.

    Args:
        detector: the kind of detector, and `weights` a folder with its weights, or a hub id (mask2former).
        clip: names the colors, with the `templates`, each with ``{color}`` and ``{name}``.
        known_images: a folder as `read_known_images` takes it, tried first; "shapes" for renders of FLUX-Shapes.
            Without one, a detector that finds nothing at all fails the measurement, and the share of single objects'
            images with any object is measured too.
        results: the official evaluator's results of these images, which then stand for all the rest.
        batch_size: images at once; the masks of a batch are kept, each of the size of its image, up to 100 an image.
        reference: what the scores may be called; "" names the models.
    """

    detector: Literal["mask2former", "shapes"] = "mask2former"
    weights: Place = Place("facebook/mask2former-swin-small-coco-instance")
    clip: ClipSettings = PUBLIC_CLIP
    templates: tuple[str, ...] = GENEVAL_TEMPLATES
    known_images: PlaceOrName = PlaceOrName()
    results: Place = Place()
    batch_size: Batch = 4
    reference: str = ""


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
        classes: what the detector can find; None where that is not known.
    """

    Settings = GenEvalSettings

    def __init__(
        self,
        detector: Detector,
        classify_colors: ColorClassifier,
        *,
        self_test: SelfTest | None,
        reference: str = "GenEval",
        settings: Mapping[str, JSON] | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> None:
        self.info = metric_named("geneval").described(reference)
        self.detector = detector
        self.classify_colors = classify_colors
        self.classes = None if classes is None else frozenset(classes)
        self.batch_size = batch_size
        self._settings: dict[str, JSON] = {
            **(settings or {}),
            "score_threshold": SCORE_THRESHOLD,
            "counting_score_threshold": COUNTING_SCORE_THRESHOLD,
            "max_objects": MAX_OBJECTS,
            "position_margin": POSITION_MARGIN,
            "interval_seed": SEED,
        }
        self._self_test = self_test
        self._fault: str | None = None

    @classmethod
    def load(cls, settings: GenEvalSettings, device: str = "cpu") -> GenEval | OfficialGenEval:
        """The metric with its models.

        Raises:
            FastFluxError: weights or images that are missing or of another kind, before any scoring.
        """
        if settings.results:
            return OfficialGenEval(settings.results.path)
        known: Sequence[KnownImage] = ()
        if settings.known_images in RENDERED:
            known = load_object(RENDERED[settings.known_images])()
        elif settings.known_images:
            known = read_known_images(settings.known_images.path, COCO_CLASSES)
        photos = settings.known_images not in RENDERED
        detector: Any = load_object(DETECTORS[settings.detector]).load(settings.weights, device)
        colors = ClipColorClassifier(settings.clip.load(device), settings.templates)
        others = f"objects by {detector.settings['detector']} {detector.settings['weights']}"
        if settings.clip != PUBLIC_CLIP:
            others += f", colors by {colors.settings['model']} {colors.settings['pretrained']}".rstrip()
        return cls(
            detector,
            colors,
            self_test=known_images_test(known, listed_only=photos) if known else None,
            reference=settings.reference or f"GenEval, variant: {others}",
            settings={
                **detector.settings,
                **{f"color_{key}": value for key, value in colors.settings.items()},
                "known_images": len(known),
            },
            classes=detector.classes,
            batch_size=settings.batch_size,
        )

    def __call__(self, images: ImageSet) -> Measurement:
        """Values: the mean of each task and "overall", the mean of these; samples are 1 (right) or 0."""
        images = images.subset("geneval")
        # Before the long work, not after it.
        failed = incomplete(self.info, images, self._settings) or other_tasks(self.info, images.images, self._settings)
        if failed is not None:
            return failed
        if reason := _unjudgeable(images.images, self.classes):
            return self._failed(reason, images)
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
            if not any(anything for _, _, anything in judged):
                return self._failed(
                    f"the detector finds no object in any of {len(images)} images: it is broken, or they show none; "
                    "test it on known images",
                    images,
                )
            single = [anything for image, _, anything in judged if task_of(image) == "single_object"]
            extra = {"single_object_found": sum(single) / len(single)} if single else {}
        scored = [(image, right) for image, right, _ in judged]
        return task_means(self.info, scored, settings=self._settings, extra=extra)

    def _failed(self, reason: str, images: ImageSet) -> Measurement:
        return Measurement.failed(self.info, reason, missing=len(images), settings=self._settings)

    def _judged(self, images: ImageSet) -> Iterator[tuple[GeneratedImage, bool, bool]]:
        """Each image, whether it is right, and whether any object at all was found in it."""
        pairs = zip(images.images, images, strict=True)
        while batch := list(islice(pairs, self.batch_size)):
            found = self.detector([pixels for _, pixels in batch])
            for (image, pixels), detections in zip(batch, found, strict=True):
                right = judge(pixels, detections, image.metadata or {}, self.classify_colors).correct
                yield image, right, bool(_counts(detections))


def known_images_test(known: Sequence[KnownImage], *, listed_only: bool = False) -> SelfTest:
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


def _unjudgeable(images: Sequence[GeneratedImage], classes: frozenset[str] | None) -> str:
    """Which prompt's metadata asks for nothing, or for what a detector cannot find; "" if none does."""
    for image in {image.prompt_id: image for image in images}.values():
        try:
            asked = read_data(GenEvalMetadata, image.metadata, f"the metadata of {image.prompt_id}")
        except RecordError as error:
            return str(error)
        unknown = {entry.name for entry in (*asked.include, *asked.exclude)} - (classes or set())
        if unknown and classes is not None:
            return f"{image.prompt_id} asks for {sorted(unknown)}, which the detector does not know"
    return ""


def _counts(detections: Sequence[Detection]) -> dict[str, int]:
    return dict(Counter(found.label for found in detections if found.score > SCORE_THRESHOLD))
