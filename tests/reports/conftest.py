"""Hand-made records: nothing here was measured, every number is chosen so that a test can tell what became of it."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.metrics.catalogue import metric_named
from bench.records.results import Measurement, MetricInfo, RunRecord
from bench.records.statistics import strata_of, stratified_means
from fastflux.errors import FastFluxError
from reports.figures.gallery import Gallery, GalleryShot

Measured = Callable[..., Measurement]
MakeRecord = Callable[..., RunRecord]
Sampled = Callable[..., Measurement]

# Name, unit and direction.
METRICS = (
    ("hps", "100 x cosine", True),
    ("geneval", "fraction", True),
    ("clip_score", "100 x cosine", True),
    ("fid", "", False),
    ("flops", "FLOPs", False),
    ("parameters", "", False),
    ("latency", "ms", False),
    ("memory", "MiB", False),
    ("pruning_cost", "count, or seconds", False),
    ("paired", "", True),
)
INFOS = {name: MetricInfo(name, "1", unit, better, f"hand-made {name}") for name, unit, better in METRICS}
HPS_KEYS = ("anime", "concept-art", "paintings", "photo", "averaged")


def overfull(log: str, more_than: float = 1.0) -> list[str]:
    """The lines of a log of pdflatex that tell of boxes larger than there is room, by more than so many points."""
    pattern = r"^Overfull \\[hv]box \(([\d.]+)pt too (?:wide|high)\).*"
    return [found[0] for found in re.finditer(pattern, log, re.MULTILINE) if float(found[1]) > more_than]


@pytest.fixture(scope="session")
def measured() -> Measured:
    """An ok measurement of a metric by name; a text in place of values makes it a failed one with that reason."""

    def measure(name: str, values: Mapping[str, float] | str, version: str = "1", **extra: Any) -> Measurement:
        info = MetricInfo(name, version, INFOS[name].unit, INFOS[name].higher_is_better, INFOS[name].reference)
        return (
            Measurement.failed(info, values)
            if isinstance(values, str)
            else Measurement(info, "ok", values=values, **extra)
        )

    return measure


@pytest.fixture(scope="session")
def sampled(measured: Measured) -> Sampled:
    """A measurement of one score with single images': `level` for 12 prompts in 2 strata, each a bit off by `variant`.

    With a `spread` of 0.1 levels 1 apart differ significantly, those 0.01 apart do not.
    """

    def measure(key: str, level: float, variant: str = "", spread: float = 0.1) -> Measurement:
        metric, _, name = key.partition(".")
        offsets = [((7 * index + len(variant) * (3 + index)) % 5 - 2) * spread for index in range(12)]
        offsets = [offset - sum(offsets) / 12 for offset in offsets]
        samples = {f"{'ab'[index % 2]}/{metric}-{index}": [level + offset] for index, offset in enumerate(offsets)}
        found = stratified_means(
            strata_of(samples), weighting=metric_named(metric).weighting or "images", seed=0
        ).overall
        interval = {} if found.interval is None else {name: found.interval}
        return measured(metric, {name: found.value}, intervals=interval, samples=samples, scored=12)

    return measure


@pytest.fixture(scope="session")
def make_record() -> MakeRecord:
    """A record of a variant; `blocks` replaced blocks, `config` the pruning method's settings."""

    def make(
        variant: str, label: str, *measurements: Measurement, profile: str = "shapes", blocks: int = 0,
        config: Mapping[str, Any] | None = None, steps: int = 4, base: str = "tiny",
    ) -> RunRecord:  # fmt: skip
        replacements = [
            {"block": {"stack": "single_transformer_blocks", "index": index}, "kind": "linear"}
            for index in range(blocks)
        ]
        plan: dict[str, Any] = {"method": "any", "config": dict(config or {}), "replacements": replacements}
        return RunRecord(
            profile=profile, variant=variant, label=label, plan=None if variant in ("dense", "sd3") else plan,
            base_model=base, base_revision="0", environment={"device": "test device"}, sampling={"steps": steps},
            measurements=measurements, created="2026-01-01T00:00:00+00:00",
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def hps_records(make_record: MakeRecord, measured: Measured) -> tuple[RunRecord, ...]:
    """Dense, one pair of similar latency with a tie, one FastFLUX variant alone, one L1 variant whose HPS failed."""

    def latency(milliseconds: float) -> Measurement:
        return measured("latency", {"median_ms": milliseconds, "ratio_to_dense": milliseconds / 100.0})

    def hps(*values: float) -> Measurement:
        return measured("hps", dict(zip(HPS_KEYS, values, strict=True)), scored=8)

    return (
        make_record("dense", "FLUX-Shapes", hps(28.5, 27.5, 28.0, 28.25, 28.0625), latency(100.0)),
        make_record("fastflux-10", "FastFLUX-10%", hps(29.0, 27.0, 27.5, 28.251, 27.9), latency(91.0), blocks=5),
        make_record("fastflux-30", "FastFLUX-30%", hps(25.0, 24.0, 25.0, 26.0, 25.0), latency(73.0), blocks=16),
        make_record("l1-12", "FLUX-Pruning-12%", hps(28.0, 27.001, 27.75, 28.0, 27.7), latency(92.0)),
        make_record("l1-27", "FLUX-Pruning-27%", measured("hps", "scorer weights missing"), latency(82.0)),
    )


@pytest.fixture
def results(tmp_path: Path, hps_records: tuple[RunRecord, ...]) -> Path:
    """The hand-made records as a folder."""
    folder = tmp_path / "records"
    for record in hps_records:
        record.write(folder / f"{record.variant}.json")
    return folder


@pytest.fixture(scope="session")
def pdflatex() -> None:
    """Skip a test where pdflatex or a package is missing; fail it where FASTFLUX_REQUIRE_TOOLS=1 says they are here."""
    from reports.pdf import PACKAGES, check_latex

    try:
        check_latex(PACKAGES)
    except FastFluxError as error:
        if os.environ.get("FASTFLUX_REQUIRE_TOOLS") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


SHOTS = (
    ("geneval-a", 0, "a photo of a red star", "geneval colors"),
    ("geneval-a", 1, "a photo of a red star", "geneval colors"),
    ("geneval-b", 0, "two </script><script>window.hacked = 1</script> rings", "geneval counting"),
    ("geneval-c", 0, "<img src=x onerror='window.hacked = 1'> ]]> \u202eshapes \u2028 $x^2$ **b** 星形 🎨",
     "geneval counting"),
    ("hps-a", 0, "a painting of a \x00\x07 moon", "hps paintings"),
)  # fmt: skip
#: GenEval's verdicts by variant: of the two samples of a, then of b and c.
JUDGED = {"dense": (1, 0, 1, 0), "fastflux-10": (1, 1, 0, 0), "fastflux-30": (0, 0, 0, 1)}


@pytest.fixture
def judged_records(make_record: MakeRecord, measured: Measured) -> tuple[RunRecord, ...]:
    """Records with the scores of single images: three variants of GenEval, HPS and latency; one L1 variant failed."""

    def measure(variant: str, ratio: float) -> tuple[Measurement, ...]:
        first, second, b, c = (float(verdict) for verdict in JUDGED[variant])
        overall = (first + second + b + c) / 4
        verdicts = {"colors/geneval-a": [first, second], "counting/geneval-b": [b], "counting/geneval-c": [c]}
        return (
            measured("hps", {"averaged": 70.0 * ratio}, intervals={"averaged": (60.0 * ratio, 75.0 * ratio)},
                     samples={"paintings/hps-a": [70.0 * ratio]}, scored=1),
            measured("geneval", {"overall": overall}, samples=verdicts, scored=4),
            measured("latency", {"median_ms": 100.0 * ratio, "ratio_to_dense": ratio}, scored=9),
        )  # fmt: skip

    return (
        make_record("dense", "FLUX-Shapes", *measure("dense", 1.0)),
        make_record("fastflux-10", "FastFLUX-10%", *measure("fastflux-10", 0.9), config={"ratio": 0.1}),
        make_record("fastflux-30", "FastFLUX-30%", *measure("fastflux-30", 0.7), config={"ratio": 0.3}),
        make_record("l1-12", "<b>L1</b> & co", measured("hps", "scorer <weights> missing")),
    )


@pytest.fixture
def gallery(tmp_path: Path, judged_records: tuple[RunRecord, ...]) -> Gallery:
    """Five shots of three variants, a tile of its own colour each; red tells the variant, green the shot."""
    folder = tmp_path / "gallery"
    folder.mkdir()
    for index, variant in enumerate(JUDGED):
        sheet = Image.new("RGB", (16, 24))
        for shot in range(len(SHOTS)):
            colour = (60 + 80 * index, 30 + 40 * shot, 90)
            sheet.paste(colour, (shot % 2 * 8, shot // 2 * 8, shot % 2 * 8 + 8, shot // 2 * 8 + 8))
        sheet.save(folder / f"{variant}.png")
    return Gallery(
        folder=folder,
        tile=(8, 8),
        columns=2,
        shots=tuple(
            GalleryShot(prompt_id, sample, 2**52 + index, prompt, kind)
            for index, (prompt_id, sample, prompt, kind) in enumerate(SHOTS)
        ),
        sheets={variant: f"{variant}.png" for variant in JUDGED},
        records={record.variant: record.key for record in judged_records if record.variant in JUDGED},
    )
