"""Typed settings: structs read from tables of TOML, each fault told by its key, its value and what was expected."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_type_hints

import msgspec
from msgspec.structs import asdict

from bench.records.environment import sha256_of
from bench.records.results import JSON, Data
from fastflux.errors import FastFluxError, unknown_name

Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Batch: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65_536)]
Steps: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
Pixels: TypeAlias = Annotated[int, msgspec.Meta(ge=16, le=8192, multiple_of=8)]
Seed: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Guidance: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1000)]

_Settings = TypeVar("_Settings", bound=Data)
_FAULT = re.compile(r"(?P<what>.*?)(?: - at `(?:key` in `)?\$\.?(?P<place>[^`]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`")
_LACKING = re.compile(r"Object missing required field `(?P<name>.*)`")


class Place(str):
    """A file or folder by its path, absolute where it was found; or what is none: a hub id, "" for nothing."""

    __slots__ = ()

    @property
    def path(self) -> Path:
        """As a path, whether or not there is such a file."""
        return Path(self)

    @property
    def is_path(self) -> bool:
        """Whether it was found, or can be nothing but a path."""
        return self.path.is_absolute()


class PlaceOrName(Place):
    """A place, or a name that a library knows: a path has a slash or a dot in it."""

    __slots__ = ()


def read_settings(kind: type[_Settings], table: object, key: str, resolve: Callable[[str], str] = str) -> _Settings:
    """The settings in a table that stands under `key` ("" for the whole file); `resolve` makes paths absolute.

    Raises:
        FastFluxError: a key that there is not (with the nearest one), one that lacks, or a value of another type or
            out of its range; it names the key from the top and the value.
    """

    def place(expected: type[Place], value: object) -> Place:
        if not isinstance(value, str):
            raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
        is_name = expected is PlaceOrName and not {"/", "."} & set(value)
        return expected(value if is_name else resolve(value))

    try:
        return msgspec.convert(table, kind, dec_hook=place)
    except msgspec.ValidationError as error:
        raise _told(str(error), kind, table, key) from error
    except UnicodeEncodeError as error:
        raise FastFluxError(f"{key or 'a setting'} holds half a surrogate pair: give whole characters.") from error


def changed(settings: _Settings, key: str, **changes: object) -> _Settings:
    """A copy with other values, checked as in a file; those that are None stay as they are."""
    given = {name: value for name, value in changes.items() if value is not None}
    return read_settings(type(settings), {**asdict(settings), **given}, key)


def content_of(settings: Data) -> JSON:
    """The settings as plain data in which the hash of their content stands for files and folders."""

    def hashed(value: object) -> str:
        if not isinstance(value, Place):
            raise NotImplementedError
        return sha256_of(value.path) if value.is_path and value.path.exists() else str(value)

    found: JSON = msgspec.to_builtins(settings, enc_hook=hashed)
    return found


def _told(text: str, kind: type[Data], table: object, key: str) -> FastFluxError:
    found = _FAULT.fullmatch(text)
    what, inner = (found["what"], found["place"] or "") if found else (text, "")
    place = inner.partition("[")[0]
    path = ".".join(part for part in (key, place) if part)
    prefix = f"{path}." if path else ""
    if unknown := _UNKNOWN.fullmatch(what):
        known = [prefix + name for name in _type_at(kind, place).__struct_fields__]
        return unknown_name("setting", prefix + unknown["name"], known)
    if lacking := _LACKING.fullmatch(what):
        return FastFluxError(f"{prefix}{lacking['name']} is not set, and has no default: give it.")
    value = table
    for part in filter(None, place.split(".")):
        value = value.get(part) if isinstance(value, Mapping) else None
    if choices := get_args(_type_at(kind, place)) if what.startswith("Invalid enum value") else ():
        return unknown_name(path, str(value), choices)
    said = what[:1].lower() + what[1:].rstrip(".")
    if isinstance(value, Mapping) and "`" not in said:  # a rule between its settings
        return FastFluxError(f"{path}: {said}." if path else f"{said}.")
    return FastFluxError(f"{path} is {value!r}: {said}.")


def _type_at(kind: Any, place: str) -> Any:
    """The type of the setting at a place in a table."""
    for part in filter(None, place.split(".")):
        kind = get_type_hints(kind).get(part)
    return kind
