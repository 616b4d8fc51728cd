"""Profiles: model, prompts, scorers and settings of a run, read from bench/profiles/<name>.toml."""

from __future__ import annotations

import dataclasses
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.records.environment import sha256_of
from bench.records.results import digest
from fastflux.errors import FastFluxError, unknown_name
from fastflux.plan import JSON

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Sampling:
    """What determines the images besides model and prompts; `samples` images of each prompt, by prompt set."""

    height: int
    width: int
    steps: int
    guidance: float
    seed: int
    batch: int
    samples: Mapping[str, int]


@dataclass(frozen=True)
class CalibrationSettings:
    """How the model's own trajectories are drawn for the least-squares fit."""

    steps: int
    guidance: float
    seed: int
    batch: int


@dataclass(frozen=True)
class LatencySettings:
    """Rounds of the interleaved latency measurement, and images in one step.

    `together` models are timed in turn, the dense one among them, since all of them may not fit into memory; 0 is all.
    Whole pipeline calls are timed in `end_to_end` rounds; 0 leaves them out.
    """

    warmup: int
    rounds: int
    batch: int
    together: int = 0
    end_to_end: int = 0


@dataclass(frozen=True)
class OtherModel:
    """A second dense model that the profile prunes; `ranking` as pruning methods take it."""

    title: str
    pipeline: str
    guidance: float
    ranking: str


@dataclass(frozen=True)
class Profile:
    """One profile; paths are absolute or relative to the repository."""

    name: str
    title: str
    pipeline: str
    scorers: str
    prompts: tuple[str, ...]
    calibration_prompts: str
    disk_mib: int
    sampling: Sampling
    calibration: CalibrationSettings
    latency: LatencySettings
    methods: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    """Settings of pruning methods by name, where they are not the method's defaults."""
    metrics: tuple[str, ...] = ("hps", "geneval", "clip_score", "fid")
    """The image metrics that `scorers` measure."""
    fast_title: str = "FastFLUX"
    """What the models pruned from the profile's own by Sandwich Training are called, before their ratio."""
    families: tuple[str, ...] = ()
    """The families of variants that the profile has, by their names; all where it is empty."""
    ranking_scorers: str = ""
    """"module:function" of the FID and CLIP score behind the importance of blocks; "" is `scorers`."""
    paired: str = ""
    """"module:function" of the paired metrics, called with the dense images and what `scorers` takes; "" is none."""
    scorer_files: tuple[str, ...] = ()
    """Files and folders of the scorers' weights."""
    scorer_settings: Mapping[str, JSON] = field(default_factory=dict)
    """Keyword arguments of `scorers` besides the device."""
    device: str = "cpu"
    dtype: str = "float32"
    """Number format of the pipeline and its transformer, by torch's name."""
    others: Mapping[str, OtherModel] = field(default_factory=dict)
    """Further dense models by name, drawn and scored as the profile's own."""
    random: Mapping[str, JSON] = field(default_factory=dict)
    """Sizes of a model of random weights in the place of `pipeline` (`bench.studies.full_size`); empty is none."""

    def of(self, name: str) -> Profile:
        """The profile with one of the `others` for its model; itself for ""."""
        if not name:
            return self
        other = self.others[name]
        return dataclasses.replace(
            self,
            title=other.title,
            pipeline=other.pipeline,
            sampling=dataclasses.replace(self.sampling, guidance=other.guidance),
            calibration=dataclasses.replace(self.calibration, guidance=other.guidance),
        )

    def scorers_hash(self) -> str:
        """16 hex digits of the files that score and of the scorers' settings, wherever the files lie.

        Raises FastFluxError for one of `scorer_files` that is not there.
        """
        files = [sha256_of(self.path(name)) for name in self.scorer_files]
        settings: dict[str, JSON] = {}
        for key, value in self.scorer_settings.items():
            is_file = isinstance(value, str) and self.path(value).is_file()
            settings[key] = sha256_of(self.path(str(value))) if is_file else value
        return digest([*files, settings] if settings else [*files])

    def path(self, text: str) -> Path:
        """A path of the profile, made absolute."""
        return ROOT / text


def load_profile(name: str, changes: Mapping[str, str] | None = None) -> Profile:
    """The profile of that name, with `changes` ("sampling.steps": "28") to its file.

    Raises FastFluxError (with a suggestion) for an unknown profile or setting, or a faulty file.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.toml"))
    if name not in known:
        raise unknown_name("profile", name, known)
    path = FOLDER / f"{name}.toml"
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        for key, text in (changes or {}).items():
            _change(data, key, text)
        parts = {"sampling": Sampling, "calibration": CalibrationSettings, "latency": LatencySettings}
        settings = {key: kind(**data.pop(key)) for key, kind in parts.items()}
        others = {key: OtherModel(**value) for key, value in data.pop("others", {}).items()}
        lists: dict[str, Any] = {
            key: tuple(data[key]) for key in ("prompts", "metrics", "scorer_files", "families") if key in data
        }
        return Profile(**{**data, **lists}, **settings, others=others)
    except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        fields = ", ".join(field.name for field in dataclasses.fields(Profile))
        raise FastFluxError(f"the profile {path} is faulty: {error}; it needs {fields}") from error


def _change(data: dict[str, Any], key: str, text: str) -> None:
    """Set the dotted key to the text, read as TOML where it is a number, a truth value, a list or a quoted text."""
    *tables, name = key.split(".")
    place: dict[str, Any] = data
    for depth, table in enumerate(tables, start=1):
        if not isinstance(place.get(table), dict):
            raise unknown_name("table of the profile", ".".join(tables[:depth]), _tables(data))
        place = place[table]
    known = {*place, *(field.name for field in dataclasses.fields(Profile))} if place is data else set(place)
    # These tables are checked by what takes them.
    if name not in known and all(place is not data.get(table) for table in ("scorer_settings", "random")):
        raise unknown_name(f"setting of the profile's {'.'.join(tables) or 'top level'}", name, sorted(known))
    try:
        place[name] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        place[name] = text


def _tables(data: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = [f"{prefix}{key}" for key, value in data.items() if isinstance(value, dict)]
    return found + [name for key in found for name in _tables(data[key.rpartition(".")[2]], f"{key}.")]


def require_disk(folder: Path, mib: int) -> None:
    """Raise FastFluxError when the file system of `folder` has less than `mib` free, before long work starts."""
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 2**20
    if free < mib:
        raise FastFluxError(f"{existing} has {free:.0f} MiB free, but the run writes about {mib} MiB: free some space")
