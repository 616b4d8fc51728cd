"""The one list of metrics: what each is, what stands for it in a table, and where its code is. Free of torch.

A metric of another package joins by an entry point of the group ``fastflux.metrics`` that names its `Metric`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal

from bench.records.results import MetricInfo
from bench.records.statistics import Weighting
from fastflux.errors import FastFluxError, unknown_name

ENTRY_POINTS = "fastflux.metrics"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        info: name, version, unit, direction and the definition it follows; a profile may say a narrower definition.
        place: "module:object", imported only when it measures: a class that scores image sets, a function otherwise.
        measures: "images" of one variant, "pairs" of a variant's and the dense model's images, or a "transformer".
        title: what a table or plot calls the headline value.
        headline: the key of the value that stands for the metric ("averaged" of HPS).
        weighting: what counts once in the headline value; None where there are no scores of single images.
        spec: the headline's number format.
        bounds: what no value may lie outside of.
        machine: whether the numbers hang on the machine, or the keys of those that do.
        prompts: the prompt set whose images it takes; "" takes all.
    """

    info: MetricInfo
    place: str
    measures: Literal["images", "pairs", "transformer"]
    title: str = ""
    headline: str = ""
    weighting: Weighting | None = None
    spec: str = ".2f"
    bounds: tuple[float, float] = (0.0, math.inf)
    machine: Literal[True] | tuple[str, ...] = ()
    prompts: str = ""

    @property
    def name(self) -> str:
        """The name in records, profiles and on the command line."""
        return self.info.name

    @property
    def key(self) -> str:
        """The headline's key in a row: "hps.averaged"."""
        return f"{self.name}.{self.headline}"

    def described(self, reference: str) -> MetricInfo:
        """What a record says of it, with the narrower definition that a profile follows."""
        info = self.info
        return MetricInfo(info.name, info.version, info.unit, info.higher_is_better, reference)

    def load(self) -> Any:
        """The class or function behind the metric, its module imported now."""
        return load_object(self.place)


def load_object(place: str) -> Any:
    """The object that "module:object" of this package or of an entry point names, its module imported now."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def _info(name: str, version: str, unit: str, better: Literal["higher", "lower", ""], reference: str) -> MetricInfo:
    return MetricInfo(name, version, unit, (better == "higher") if better else None, reference)


_COSINE = (-100.0, 100.0)
_QUALITY, _COST = "bench.metrics.quality", "bench.metrics.cost"
_OWN = (
    Metric(
        _info("hps", "1", "100 x cosine", "higher", "HPS v2"),
        f"{_QUALITY}.hps:HPS", "images", "HPS averaged", "averaged", "images",
        bounds=_COSINE, prompts="hps",
    ),
    Metric(
        _info("geneval", "1", "fraction", "higher", "GenEval"),
        f"{_QUALITY}.geneval:GenEval", "images", "GenEval overall", "overall", "strata", ".3f", (0.0, 1.0),
        prompts="geneval",
    ),
    Metric(
        _info("clip_score", "1", "100 x cosine", "higher", "CLIP score"),
        f"{_QUALITY}.clip_score:ClipScore", "images", "CLIP score", "mean", "images",
        bounds=_COSINE,
    ),
    Metric(
        _info("retrieval", "1", "recall", "higher", "image and text retrieval by clip_benchmark"),
        f"{_QUALITY}.clip_score:Retrieval", "images", "Image retrieval", "image_retrieval_recall@5", spec=".3f",
        bounds=(0.0, 1.0), prompts="hps",
    ),
    Metric(
        _info("fid", "2", "distance", "lower", "FID and KID by torch-fidelity"),
        f"{_QUALITY}.fid:FID", "images", "FID", "fid", bounds=(-math.inf, math.inf),  # KID may be below 0
    ),
    Metric(
        _info("paired", "1", "PSNR in dB, SSIM up to 1, 100 x cosine", "higher", "paired with the dense model"),
        f"{_QUALITY}.paired:Paired", "pairs", "CLIP similarity", "clip_image", bounds=(-100.0, math.inf),
    ),
    Metric(
        _info("flops", "1", "FLOP", "lower", "2 x MACs of one transformer forward"),
        f"{_COST}.flops:measure_flops", "transformer", "FLOPs", "forward",
    ),
    Metric(
        _info("flops_by_block", "1", "FLOP", "lower", "2 x MACs of one block, and of a whole forward"),
        f"{_COST}.flops:measure_flops_by_block", "transformer", "FLOPs by block", "forward",
    ),
    Metric(
        _info("parameters", "1", "parameters", "", "parameters of the transformer"),
        f"{_COST}.flops:measure_parameters", "transformer", "Parameters", "total",
    ),
    Metric(
        _info("latency", "1", "ms", "lower", "wall time of one transformer step"),
        f"{_COST}.latency:measure_latency", "transformer", "Latency (ms)", "median_ms", machine=True,
    ),
    Metric(
        _info("latency_compiled", "1", "ms", "lower", "wall time of one compiled transformer step"),
        f"{_COST}.latency:measure_compiled_latency", "transformer", "Compiled latency (ms)", "median_ms", machine=True,
    ),
    Metric(
        _info("latency_batches", "1", "ms", "lower", "wall time of one transformer step by the number of images in it"),
        f"{_COST}.latency:measure_latency_batches", "transformer", "Latency by batch (ms)", machine=True,
    ),
    Metric(
        _info("latency_end_to_end", "1", "ms", "lower",
              "wall time of a pipeline call: text encoders, all steps, VAE, pictures"),
        f"{_COST}.end_to_end:measure_end_to_end", "transformer", "Whole call (ms)", "median_ms", machine=True,
    ),
    Metric(
        _info("memory", "1", "MiB", "lower", "weights and peak tensors of one step"),
        f"{_COST}.memory:measure_memory", "transformer", "Peak memory (MiB)", "peak_mib", machine=True,
    ),
    Metric(
        _info("memory_end_to_end", "2", "MiB", "lower",
              "peak memory of a pipeline call by stage, the weights of its pipeline among it"),
        f"{_COST}.memory:measure_stage_memory", "transformer", "Peak memory of a call (MiB)", machine=True,
    ),
    Metric(
        _info("step_profile", "1", "ms, or count", "",
              "wall time of one transformer step, by kind of block and by kind of operation"),
        f"{_COST}.step_profile:measure_step_profile", "transformer", "Step profile", machine=True,
    ),
    Metric(
        _info("pruning_cost", "2", "count, seconds, bytes or MiB", "lower",
              "beyond the calibration's own forwards; peak memory is the device's, on a CPU that of the whole process"),
        f"{_COST}.flops:measure_pruning_cost", "transformer", "Pruning (s)", "seconds", spec=".1f",
        machine=("seconds", "peak_memory_mib"),
    ),
)  # fmt: skip


_BY_NAME = {metric.name: metric for metric in _OWN}


@cache
def metrics() -> Mapping[str, Metric]:
    """All metrics by name, this package's first.

    Raises FastFluxError for an entry point that names no `Metric`, or one of a name that is taken.
    """
    found = dict(_BY_NAME)
    for point in entry_points(group=ENTRY_POINTS):
        metric = point.load()
        if not isinstance(metric, Metric) or metric.name in found:
            raise FastFluxError(
                f"The entry point {point.name} of {ENTRY_POINTS} ({point.value}) must name a "
                "bench.metrics.catalogue.Metric of a name that no other has."
            )
        found[metric.name] = metric
    return found


def metric_named(name: str) -> Metric:
    """The metric of that name; raises FastFluxError with a suggestion when there is none."""
    known = _BY_NAME if name in _BY_NAME else metrics()
    if name not in known:
        raise unknown_name("metric", name, known)
    return known[name]


def on_machine(name: str, value: str = "") -> bool:
    """Whether a metric's numbers, or one of its values, hang on the machine; "latency_512x512" is a "latency"."""
    known = metrics()
    found = known.get(name) or next(
        (metric for metric in known.values() if metric.machine is True and name.startswith(f"{metric.name}_")), None
    )
    return found is not None and (found.machine is True or value in found.machine)
