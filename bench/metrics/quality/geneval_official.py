"""GenEval from the results file of its official evaluator: its verdicts, our aggregation and intervals.

Fields of a line (evaluation/evaluate_images.py at 16f1681): filename, tag, prompt, correct, reason, and as JSON texts
metadata and details. The score is the mean of the task means, as in evaluation/summary_scores.py.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.metrics.base import incomplete, measured, samples_by_prompt
from bench.metrics.catalogue import metric_named
from bench.records.comparison import SEED
from bench.records.environment import sha256_of
from bench.records.results import JSON, Data, Measurement, MetricInfo, json_of, read_data
from bench.records.statistics import strata_of, stratified_means
from bench.samples.geneval_layout import content_of, parse_prompt
from bench.samples.geneval_vocabulary import TASKS
from bench.samples.image_set import UNKNOWN_SEED, GeneratedImage, ImageSet
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


@dataclass(frozen=True)
class OfficialVerdict:
    """What the evaluator said of one image; `image.file` is its name there."""

    image: GeneratedImage
    correct: bool
    reason: str


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
        for verdict in self.verdicts:
            if said.setdefault(_key(verdict.image), verdict.correct) is not verdict.correct:
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
        key = (verdict.image.prompt_id, verdict.image.sample)
        if verdicts.setdefault(key, verdict) is not verdict:
            raise FastFluxError(f"{where}: {verdict.image.file} is judged twice; evaluate again.")
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
    return OfficialVerdict(image, data.correct, data.reason)


def _key(image: GeneratedImage) -> tuple[str, int]:
    return content_of(image.metadata or {}, image.prompt), image.sample
