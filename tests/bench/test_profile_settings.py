"""Settings of profiles: what is refused, and where paths, extended profiles and metrics of others come from."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.metrics.catalogue import metrics
from bench.profiles.profile import ROOT, load_profile
from bench.run.external import score
from bench.run.reproduce import reproduce
from bench.studies.full_size.random_weights import sizes_of
from fastflux.errors import FastFluxError
from tests.bench.conftest import WriteImages

_WHOLE = ["abc", "1.5", "-1", "true", "nan", "[1]", "{}", "10000000000000000000000", "2026-01-01"]
_TEXT = ["5", '""', "true", "[]", "{}", "1.5"]
_NUMBER = ["abc", "nan", "inf", "-inf", "-1", "true", "[1]", "1e9", '"3"']
#: Keys, and values that none of them can have.
BAD: list[tuple[str, list[str]]] = [
    (
        "sampling.steps sampling.batch sampling.height sampling.width calibration.steps calibration.batch",
        [*_WHOLE, "0"],
    ),
    ("calibration.batch latency.rounds latency.batch sampling.samples.hps metrics.hps.batch_size", [*_WHOLE, "0"]),
    ("disk_mib sampling.seed calibration.seed latency.warmup latency.together latency.end_to_end", _WHOLE),
    ("sampling.guidance calibration.guidance others.sd3.guidance", _NUMBER),
    ("title fast_title others.sd3.title others.sd3.ranking dtype device pipeline calibration_prompts", _TEXT),
    ("others.sd3.pipeline metrics.hps.model", ["5", "true", "[]", "{}", "1.5"]),
    ("name", [*_TEXT, "../../..", "a/b", ".hidden", "a b", "x" * 200, "/etc"]),
    ("prompts", ["5", "[]", "[5]", "true", "{}", "some.jsonl", '[""]']),
    ("dtype", ["float8", "int8", "torch.float32", "bf16"]),
    ("device", ["gpu", "mps", "meta", "cuda:x", "cpu:0", "cuda:-1"]),
    ("sampling calibration latency", ["5", "[]", "{}", "true"]),
    ("sampling.samples", ["5", "[]", "{hsp = 1}", "{hps = 0}", "{hps = 1001}"]),
    ("sampling.height sampling.width", ["33", "8", "100000"]),
    ("sampling.seed calibration.seed", ["18446744073709551616", "9223372036854775808"]),
    ("sampling.stpes smapling.steps sampling.steps.x sampling..steps others.sd3.gudance", ["1"]),
    ("scorers scorer_settings.hps scorer_files paired ranking_scorers", ["os:system"]),
    ("others methods method_prompts metrics ranking random", ["5", "[]"]),
    ("method_prompts.l1norm method_prompts.l1_norm", ["5", "[]"]),
    ("others.sd3 metrics.hps methods.l1_norm ranking.fid", ["5", "[]", "x"]),
    ("without", ["5", '["metrics.hsp"]', '[["a"]]', "{}", "metrics.hsp"]),
    ("families families.x", ["5", "[5]", '[""]', "{x = {}}"]),
    ("metrics", ['["hsp"]', "{}", "{hsp = {}}", "{latency = {}}"]),
    ("metrics.hsp.checkpoint metrics.hps.chekpoint metrics.flops.x ranking.hsp.x ranking.fid.weights", ["x"]),
    ("metrics.hps.version", ["v3", "2.0", "5"]),
    ("metrics.hps.antialias metrics.fid.precision_recall", ["5", "maybe"]),
    ("metrics.geneval.detector metrics.fid.reference_images", ["5", "[]"]),
    ("metrics.geneval.detector", ["yolo"]),
    ("metrics.geneval.templates", ["5", "a photo", "[5]"]),
    ("metrics.geneval.clip", ["5", "{tagg = 1}"]),
    ("methods.l1norm.steps methods.l1_norm.stesp", ["3"]),
    ("methods.l1_norm.steps methods.sandwich_training.rank", ["abc", "1.5", "[1]"]),
    ("methods.sandwich_training.lr", ["abc", "true"]),
    ("methods.sandwich_training.ranking", ["5", "no_such_order"]),
]
FAULTS = [("", "1"), *((key, value) for keys, values in BAD for key in keys.split() for value in values)]


@pytest.mark.parametrize(("key", "value"), FAULTS)
def test_a_bad_setting_is_one_sentence_that_names_its_key(key: str, value: str) -> None:
    with pytest.raises(FastFluxError) as error:
        load_profile("shapes", {key: value})
    text = str(error.value)
    assert "\n" not in text
    assert key in text or (key.rpartition(".")[0] or key) in text, text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sampling.steps", "abc", "The profile shapes: sampling.steps is 'abc': expected `int`, got `str`."),
        ("latency.rounds", "0", "The profile shapes: latency.rounds is 0: expected `int` >= 1."),
        ("sampling.guidance", "nan", "The profile shapes: sampling.guidance is nan: expected `float` >= 0.0."),
        ("others.sd3.guidance", "x", "The profile shapes: others.sd3.guidance is 'x': expected `float`, got `str`."),
    ],
)
def test_a_fault_is_told_with_key_value_and_what_was_expected(key: str, value: str, message: str) -> None:
    with pytest.raises(FastFluxError) as error:
        load_profile("shapes", {key: value})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("sampling.stpes", r"sampling\.steps"),
        ("smapling.steps", "sampling"),
        ("metrics.hsp.checkpoint", "hps"),
        ("metrics.hps.chekpoint", r"metrics\.hps\.checkpoint"),
        ("methods.l1norm.steps", "l1_norm"),
        ("methods.l1_norm.stesp", "steps"),
    ],
)
def test_the_nearest_key_is_proposed(key: str, nearest: str) -> None:
    with pytest.raises(FastFluxError, match=f"did you mean '{nearest}'"):
        load_profile("shapes", {key: "3"})


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": "10000000", "head_dim": "128"}, {"double_blocks": "10000000"}, {"resolutions": "[5]"}, {"seed": "-1"},
        {"axes": "[1, 2]"}, {"equal_ratios": "[0.5]"}, {"ratios": "[nan]"}, {"samples": "0"}, {"sampels": "1"},
    ],
)  # fmt: skip
def test_sizes_that_cannot_be_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(FastFluxError, match="random"):
        sizes_of(load_profile("flux-dev-random", {f"random.{key}": value for key, value in changes.items()}))


@pytest.mark.parametrize(
    "wish",
    [{"limit": 10**30}, {"seeds": 10**12}, {"seeds": -1}, {"tables": ()}, {"device": "cuda:7"}, {"device": "meta"}],
)
def test_wishes_that_no_run_can_fulfil_are_refused(wish: dict[str, object], tmp_path: Path) -> None:
    options = {"profile_name": "shapes", "variant_names": ["dense"], "runs": tmp_path, **wish}
    with pytest.raises(FastFluxError):
        reproduce(**options)  # type: ignore[arg-type]


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a profile of one's own and gives its path."""

    def write(text: str, name: str = "mine.toml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_a_profile_of_ones_own_extends_another_and_looks_for_files_beside_itself_first(
    own: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.jsonl").write_text("")
    path = own(
        'extends = "shapes"\nprompts = ["mine.jsonl", "geneval:mine.jsonl", "hpdv2:prompts/shapes"]\n'
        'without = ["others.sd3", "metrics.fid"]\n[sampling]\nsteps = 3\n'
    )
    profile, shapes = load_profile(str(path)), load_profile("shapes")
    assert (profile.name, profile.title) == ("mine", "FLUX-Shapes")
    assert (profile.sampling.steps, profile.sampling.batch) == (3, shapes.sampling.batch)
    mine = str(tmp_path / "mine.jsonl")
    assert profile.prompts == (mine, f"geneval:{mine}", f"hpdv2:{ROOT / 'prompts' / 'shapes'}")
    assert profile.pipeline == shapes.pipeline == str(ROOT / "bench/shapes/weights/pipeline")
    assert set(profile.others) == set(shapes.others) - {"sd3"}
    assert list(profile.metrics) == ["hps", "geneval", "clip_score", "paired"]
    deeper = own('extends = "mine.toml"\nname = "deeper"\n[sampling]\nbatch = 7\n', "other.toml")
    assert (load_profile(str(deeper)).sampling.steps, load_profile(str(deeper)).sampling.batch) == (3, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "mine.toml"', "extends itself"),
        ('extends = "shpes"', "did you mean 'shapes'"),
        ("extends = 5", "extends is 5: expected a profile's name"),
        ('extends = "shapes"\nwithout = ["others.sd4"]', "without names 'others.sd4'"),
        ('extends = "shapes"\nsteps = 3', "Unknown setting 'steps'"),
        ("name = ", "cannot be read"),
        ('title = "x"', r"not set, and has no default"),
        ('extends = "shapes"\npipeline = ""', "pipeline is empty"),
    ],
)
def test_a_faulty_file_is_named(own: Callable[..., Path], text: str, message: str) -> None:
    path = own(text)
    with pytest.raises(FastFluxError, match=message) as error:
        load_profile(str(path))
    assert "mine.toml" in str(error.value)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for name in ("absent.toml", "binary.toml"):
        with pytest.raises(FastFluxError, match=f"{name} cannot be read"):
            load_profile(str(tmp_path / name))


def test_whatever_defines_a_score_is_in_the_hash_of_the_scorers(tmp_path: Path) -> None:
    first = load_profile("shapes").scorers_hash()
    assert first == load_profile("shapes").scorers_hash()
    (tmp_path / "copy").symlink_to(ROOT / "bench/shapes/weights/hps")
    assert load_profile("shapes", {"metrics.hps.model": str(tmp_path / "copy")}).scorers_hash() == first
    changes = {
        "metrics.hps.model": "bench/shapes/weights/clip",
        "metrics.hps.reference": "another",
        "metrics.retrieval.tag": "x",
        "metrics.geneval.templates": '["a {color} {name}"]',
        "metrics.fid.precision_recall": "true",
    }
    hashes = {load_profile("shapes", {key: value}).scorers_hash() for key, value in changes.items()}
    assert len({first, *hashes}) == 6


MINE = """
import msgspec
from bench.metrics.catalogue import Metric
from bench.records.results import Data, Measurement, MetricInfo

INFO = MetricInfo("mine", "1", "share", True, "bright pixels")
METRIC = Metric(INFO, "my_metrics:Mine", "images", "Bright", "share")

class Settings(Data, frozen=True):
    threshold: int = 128

class Mine:
    Settings = Settings

    def __init__(self, threshold):
        self.info, self.threshold = INFO, threshold

    @classmethod
    def load(cls, settings, device):
        return cls(settings.threshold)

    def __call__(self, images):
        share = sum(float((pixels > self.threshold).mean()) for pixels in images) / len(images)
        return Measurement(INFO, "ok", values={"share": share}, scored=len(images))
"""


def test_a_metric_of_another_package_joins_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_images: WriteImages, own: Callable[..., Path]
) -> None:
    (tmp_path / "my_metrics.py").write_text(MINE)
    (tmp_path / "my_metrics-1.dist-info").mkdir()
    (tmp_path / "my_metrics-1.dist-info" / "METADATA").write_text("Name: my_metrics\nVersion: 1\n")
    points = tmp_path / "my_metrics-1.dist-info" / "entry_points.txt"
    points.write_text("[fastflux.metrics]\nmine = my_metrics:METRIC\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    metrics.cache_clear()
    try:
        profile = load_profile(str(own('extends = "shapes"\n[metrics.mine]\nthreshold = 200\n')))
        assert profile.metrics["mine"].threshold == 200
        with pytest.raises(FastFluxError, match=r"metrics\.mine\.threshold is 'x': expected `int`, got `str`"):
            load_profile("shapes", {"metrics.mine.threshold": "x"})
        images = write_images([{"id": "p", "set": "hps", "style": "photo", "prompt": "a star"}])
        by_default = score(images, "a", metrics=["mine"]).measurement("mine")
        by_profile = score(images, "b", metrics=["mine"], profile_name="mine.toml").measurement("mine")
        assert 0.4 < by_default.values["share"] < 0.6
        assert 0.1 < by_profile.values["share"] < 0.3
        assert (tmp_path / "runs" / "mine" / "external" / "external-b.json").is_file()
    finally:
        metrics.cache_clear()
        sys.modules.pop("my_metrics", None)
