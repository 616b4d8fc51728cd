"""Profiles: model, prompts, metrics and settings of a run, read from bench/profiles/<name>.toml or another file."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec.structs import replace

from bench.metrics.base import settings_class
from bench.metrics.catalogue import metric_named
from bench.records.results import JSON, Data, digest
from bench.samples.prompts import Prompt, Sampling, read_prompts
from bench.settings import Batch, Count, Guidance, Place, Seed, Steps, Text, content_of, read_settings
from fastflux.errors import FastFluxError, unknown_name
from fastflux.methods.registry import make_config, pruning_method
from fastflux.settings import require_device

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent
KINDS = ("hpdv2", "geneval")


class CalibrationSettings(Data, frozen=True):
    """How the model's own trajectories are drawn for the least-squares fit."""

    steps: Steps
    guidance: Guidance
    seed: Seed
    batch: Batch


class LatencySettings(Data, frozen=True):
    """Rounds of the interleaved latency measurement, and images in one step.

    `together` models are timed in turn, the dense one among them, since all of them may not fit into memory; 0 is all.
    No more rounds are timed than it takes for the 95% intervals of all ratios to be narrower than `precision`; 0 takes
    them all. Whole pipeline calls are timed in `end_to_end` rounds; 0 leaves them out.
    """

    warmup: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    rounds: Steps
    batch: Batch
    together: Count = 0
    precision: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    end_to_end: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0


class OtherModel(Data, frozen=True):
    """A second dense model that the profile prunes; `ranking` as pruning methods take it.

    `methods` and `method_prompts` are laid over the profile's.
    """

    title: Text
    pipeline: Place
    guidance: Guidance
    ranking: Text
    methods: Mapping[str, Mapping[str, Any]] = {}
    method_prompts: Mapping[str, Place] = {}


class Profile(Data, frozen=True):
    """One profile, all paths absolute."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    """Names the run's folder."""
    title: Text
    sampling: Sampling
    calibration: CalibrationSettings
    latency: LatencySettings
    disk_mib: Annotated[int, msgspec.Meta(ge=0, le=10**9)]
    pipeline: Place = Place()
    prompts: tuple[Place, ...] = ()
    calibration_prompts: Place = Place()
    methods: Mapping[str, Mapping[str, Any]] = {}
    """Settings of pruning methods by name, where they are not the method's defaults."""
    method_prompts: Mapping[str, Place] = {}
    """Files of calibration prompts of pruning methods by name, where they are not `calibration_prompts`."""
    metrics: Mapping[str, Any] = {}
    """The metrics of images and their settings, each of its own class (`bench.metrics.base.settings_class`)."""
    ranking: Mapping[str, Any] = {}
    """Settings of FID and CLIP score behind the importance of blocks, where they are not those of `metrics`."""
    fast_title: Text = "FastFLUX"
    """What the models pruned from the profile's own by Sandwich Training are called, before their ratio."""
    families: tuple[Text, ...] = ()
    """The families of variants that the profile has; all where it is empty."""
    device: Annotated[str, msgspec.Meta(pattern=r"^(cpu|cuda(:\d{1,2})?)$")] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the pipeline and its transformer."""
    others: Mapping[str, OtherModel] = {}
    """Further dense models by name, drawn and scored as the profile's own."""
    random: Mapping[str, Any] = {}
    """Sizes of a model of random weights in the place of `pipeline` (`bench.studies.full_size`); empty is none."""

    def __post_init__(self) -> None:
        needed = () if self.random else ("pipeline", "prompts", "calibration_prompts", "metrics")
        if lacking := [name for name in needed if not getattr(self, name)]:
            raise ValueError(f"{lacking[0]} is empty, and only a profile with a table [random] needs none")
        if not all(self.prompts):
            raise ValueError("prompts has an empty entry: give the path of a file")

    def of(self, name: str) -> Profile:
        """The profile with one of the `others` for its model; itself for ""."""
        if not name:
            return self
        other = self.others[name]
        return replace(
            self,
            title=other.title,
            pipeline=other.pipeline,
            sampling=replace(self.sampling, guidance=other.guidance),
            calibration=replace(self.calibration, guidance=other.guidance),
            methods={
                name: {**self.methods.get(name, {}), **other.methods.get(name, {})}
                for name in {**self.methods, **other.methods}
            },
            method_prompts={**self.method_prompts, **other.method_prompts},
        )

    def device_for(self, asked: str | None) -> str:
        """The device asked for, or else the profile's; raises FastFluxError for one that is not there."""
        return require_device(self.device if asked is None else asked)

    def scorers_hash(self) -> str:
        """16 hex digits of all that defines the scores: the metrics' settings, and the content of their files."""
        return self.scorers_hashes()[""]

    def scorers_hashes(self) -> dict[str, str]:
        """`scorers_hash` by the name "", and by a metric's name the same of that one alone."""
        read = {name: content_of(settings) for name, settings in self.metrics.items()}
        return {name: digest({name: content}) for name, content in read.items()} | {"": digest(read)}


def load_profile(name: str, changes: Mapping[str, str] | None = None) -> Profile:
    """The profile of that name, or in that file (``mine.toml``), with `changes` ("sampling.steps": "28") to it.

    A file may say ``extends = "shapes"`` (a name, or another file beside it): its tables are then laid over that
    profile's, of which it can leave some away, as `changes` can too (``without = ["others.sd3"]``). Paths are looked up
    in the folder of the file, or where this package's own data lies, then in the working directory.

    Raises:
        FastFluxError: no such profile, or one that is faulty: the key, its value, what was expected.
    """
    data, folders = _read(name, ())
    for key, text in (changes or {}).items():
        _change(data, key, text)
    with _under(f"The profile {name}"):
        _leave_away(data, data.pop("without", []))
        return _profile(data, [*folders, Path.cwd()])


def _profile(data: dict[str, Any], folders: Sequence[Path]) -> Profile:
    def resolve(text: str) -> str:
        kind, colon, rest = text.partition(":")
        prefix, place = (f"{kind}:", rest) if colon and kind in KINDS else ("", text)
        there = [folder / place for folder in folders if place and (folder / place).exists()]
        return f"{prefix}{there[0]}" if there else text

    def tables(key: str) -> dict[str, Any]:
        """The tables below `key`, which are read one by one, so that a fault has its whole path."""
        found = data.get(key, {})
        if not isinstance(found, dict):
            raise FastFluxError(f"{key} is {found!r}: expected tables [{key}.NAME].")
        return found

    def metric_settings(key: str) -> dict[str, Data]:
        found = {}
        for name, table in tables(key).items():
            with _under(f"{key}.{name}"):
                kind = settings_class(metric_named(name))
            found[name] = read_settings(kind, table, f"{key}.{name}", resolve)
        return found

    others = {
        name: read_settings(OtherModel, table, f"others.{name}", resolve) for name, table in tables("others").items()
    }
    methods = {name: _method(name, table, resolve) for name, table in tables("methods").items()}
    for name in tables("method_prompts"):
        with _under(f"method_prompts.{name}"):
            pruning_method(name)
    for name, other in others.items():
        _method("sandwich_training", {"ranking": other.ranking}, resolve, f"others.{name}")
        for method, table in other.methods.items():
            _method(method, table, resolve, f"others.{name}.methods")
    typed = {"metrics": metric_settings("metrics"), "ranking": metric_settings("ranking"), "methods": methods}
    return read_settings(Profile, {**data, **typed, "others": others}, "", resolve)


@contextmanager
def _under(key: str) -> Iterator[None]:
    """Put the key before what is told of a name below it."""
    try:
        yield
    except FastFluxError as error:
        raise FastFluxError(f"{key}: {error}") from error


def _method(name: str, table: object, resolve: Any, key: str = "") -> dict[str, JSON]:
    """A method's settings, checked as its config will be, at a ratio that it can have."""
    key = key or f"methods.{name}"
    if not isinstance(table, dict):
        raise FastFluxError(f"{key} is {table!r}: expected a table [{key}].")
    settings = dict(table)
    with _under(key):
        config_class = pruning_method(name).config_class
    if str(settings.get("ranking", "")).endswith(".json"):
        settings["ranking"] = resolve(str(settings["ranking"]))
    amount = {"ratio": 0.1} if "ratio" in config_class.__dataclass_fields__ else {"flops": 0.9}
    tried = {**settings, **amount}
    if str(settings.get("ranking", "")).endswith(".json"):
        tried.pop("ranking")  # a file, which is read when variants are made
    try:
        make_config(name, tried)
        msgspec.convert(tried, config_class)
    except (FastFluxError, TypeError, msgspec.ValidationError) as error:
        what, _, place = str(error).partition(" - at `$")
        raise FastFluxError(f"{key}{place.rstrip('`')}: {what.rstrip('.')}.") from error
    return settings


def _read(name: str, seen: tuple[Path, ...]) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """The data of a profile laid over those that it extends, and the folders of its paths, its own first."""
    path = _file(name, seen[-1].parent if seen else Path())
    if path in seen:
        raise FastFluxError(f"{path} extends itself by way of {', '.join(file.name for file in seen)}: end that.")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise FastFluxError(f"The profile {path} cannot be read ({error}): give a file of TOML in UTF-8.") from error
    own = (ROOT, ROOT / "bench") if path.parent == FOLDER else (path.parent,)
    extended = data.pop("extends", None)
    data.setdefault("name", path.stem)
    if extended is None:
        return data, own
    if not isinstance(extended, str):
        raise FastFluxError(f"The profile {path}: extends is {extended!r}: expected a profile's name or file.")
    with _under(f"{path.name}, extends"):
        base, folders = _read(extended, (*seen, path))
    with _under(f"The profile {path}"):
        _leave_away(base, data.pop("without", []))
    return _merged(base, data), (*own, *folders)


def _file(name: str, beside: Path) -> Path:
    """The file of a profile by its name or path."""
    if name.endswith(".toml"):
        return (beside / name).resolve()
    known = sorted(path.stem for path in FOLDER.glob("*.toml"))
    if name not in known:
        raise unknown_name("profile (nor is it a file NAME.toml)", name, known)
    return FOLDER / f"{name}.toml"


def _leave_away(data: dict[str, Any], keys: object) -> None:
    for key in keys if isinstance(keys, list) else [keys]:
        *tables, name = str(key).split(".")
        place: Any = data
        for table in tables:
            place = place.get(table) if isinstance(place, dict) else None
        if not isinstance(place, dict) or name not in place:
            raise FastFluxError(f"without names {key!r}, which is not there: expected a list of keys that are.")
        del place[name]


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _merged(base[key], own[key]) for key in own if _is_table(base.get(key)) and _is_table(own[key])}
    return {**base, **own, **both}


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _change(data: dict[str, Any], key: str, text: str) -> None:
    """Set the dotted key to the text, read as TOML where it is a number, a truth value, a list or a quoted text."""
    *tables, name = key.split(".")
    place: Any = data
    for depth, table in enumerate(tables, start=1):
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            raise FastFluxError(f"There is no setting {key}: {'.'.join(tables[:depth])} is {place!r}, no table.")
    try:
        value = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        value = {}
    place[name] = value["value"] if len(value) == 1 else text


def read_all_prompts(profile: Profile) -> tuple[Prompt, ...]:
    """All prompts of the profile in order: "hpdv2:FOLDER", "geneval:FILE", or a JSONL file of our own.

    Raises FastFluxError for files that are not there or faulty, and for an id that two files share.
    """
    prompts = tuple(prompt for text in profile.prompts for prompt in _read_prompt_file(text))
    if uncounted := {prompt.set for prompt in prompts} - profile.sampling.samples.keys():
        name = min(uncounted)
        raise FastFluxError(
            f"{profile.name} has prompts of the set {name}, but no number of images: set sampling.samples.{name}."
        )
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise FastFluxError(f"two prompts of {profile.name} have the id {prompt.id!r}: ids name images")
        seen.add(prompt.id)
    return prompts


def _read_prompt_file(text: str) -> tuple[Prompt, ...]:
    """The prompts that one entry of a profile's `prompts` names."""
    kind, colon, place = text.partition(":")
    if not colon or Path(text).is_absolute():
        return read_prompts(Path(text))
    if kind == "hpdv2":
        from bench.samples.layouts import read_benchmark_prompts

        return read_benchmark_prompts(Path(place))
    if kind == "geneval":
        from bench.samples.layouts import read_metadata

        return read_metadata(Path(place))
    raise unknown_name("kind of prompt file", kind, KINDS)


def require_disk(folder: Path, mib: int) -> None:
    """Raise FastFluxError when the file system of `folder` has less than `mib` free, before long work starts."""
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 2**20
    if free < mib:
        raise FastFluxError(f"{existing} has {free:.0f} MiB free, but the run writes about {mib} MiB: free some space")
