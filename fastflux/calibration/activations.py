"""Where the recorded streams of all samples lie while blocks are pruned, in RAM or in files, and how many bytes.

A file has no name in its folder: it is gone once nobody needs it, however the process ends. What is read of it is read
row by row, so that no more than a batch is ever in RAM.
"""

import hashlib
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from weakref import WeakSet

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastflux.errors import FastFluxError, unknown_name
from fastflux.files import save_tensors
from fastflux.models.architecture import Streams

_SEAL = "sha256"


def save_sealed(
    tensors: Mapping[str, Tensor], path: Path, *, remedy: str, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as `save_tensors` does, with a hash of all that the file says, which `load_sealed` checks."""
    noted = dict(metadata or {})
    save_tensors(tensors, path, remedy=remedy, metadata={**noted, _SEAL: _digest(tensors, noted)})


def load_sealed(path: Path, *, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata that `save_sealed` wrote.

    Raises ``FastFluxError`` that ends with the ``remedy`` for a file that is missing or damaged, be it by one bit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            noted = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # is no mapping
    except (OSError, SafetensorError) as error:
        raise FastFluxError(f"Cannot read {path} ({error}): {remedy}.") from error
    if noted.pop(_SEAL, "") != _digest(tensors, noted):
        raise FastFluxError(f"{path} is damaged: its content is not what was written; {remedy}.")
    return tensors, noted


def kept_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """What `save_sealed` wrote; None where it does not lie there whole, and is to be made again."""
    with suppress(FastFluxError):
        return load_sealed(path, remedy="")
    return None


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of every name, format, shape and byte."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(bytes_of(tensor.detach().cpu().contiguous()))
    return digest.hexdigest()


PLACES = ("ram", "disk")
KEEP = 4


def require_bounds(activations: str, keep: int) -> None:
    """Raise ``FastFluxError`` unless ``activations`` is one of `PLACES` and ``keep`` is not negative."""
    if activations not in PLACES:
        raise unknown_name("place for activations", activations, PLACES)
    if keep < 0:
        raise FastFluxError(f"Activations are to be kept at {keep} places, but it must not be negative.")


class KeptStreams(ABC):
    """Streams of all samples at one place of a model, batch after batch, on the CPU; all batches but the last alike."""

    def __init__(self, store: "ActivationStore") -> None:
        self.nbytes = 0
        self._store = store
        self._sizes: list[int] = []

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[Streams]:
        return (self[batch] for batch in range(len(self)))

    def __getitem__(self, batch: int) -> Streams:
        return self._read(batch, 0, self._sizes[batch])

    @property
    def samples(self) -> int:
        """Rows of all batches."""
        return sum(self._sizes)

    def rows(self, rows: Tensor) -> Streams:
        """The samples of the given numbers, in their order."""
        places = (divmod(row, self._sizes[0]) for row in rows.tolist())
        found = [self._read(batch, row, row + 1) for batch, row in places]
        return tuple(torch.cat(rows) for rows in zip(*found, strict=True))

    def append(self, streams: Streams) -> None:
        """Add a batch; raises ``FastFluxError`` when the disk is full."""
        self._write(streams)
        self._sizes.append(len(streams[0]))
        size = sum(stream.nbytes for stream in streams)
        self.nbytes += size
        self._store.count(size)

    def close(self) -> None:
        """Let go of all batches."""
        self._store.count(-self.nbytes)
        self.nbytes = 0
        self._sizes.clear()

    def __del__(self) -> None:
        self.close()

    @abstractmethod
    def _write(self, streams: Streams) -> None:
        """Keep one batch more."""

    @abstractmethod
    def _read(self, batch: int, start: int, stop: int) -> Streams:
        """Samples of a batch that was kept."""


class _InRam(KeptStreams):
    def __init__(self, store: "ActivationStore") -> None:
        super().__init__(store)
        self._batches: list[Streams] = []

    def _write(self, streams: Streams) -> None:
        self._batches.append(streams)

    def _read(self, batch: int, start: int, stop: int) -> Streams:
        return tuple(stream[start:stop] for stream in self._batches[batch])

    def close(self) -> None:
        super().close()
        self._batches.clear()


class _OnDisk(KeptStreams):
    """One file without a name: the batches one behind the other, image tokens first."""

    def __init__(self, store: "ActivationStore", folder: Path) -> None:
        super().__init__(store)
        self._file: IO[bytes] | None = None  # until it is open, for `close`
        self._folder = folder
        with _refusing(folder):
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # `close` closes it
        self._batches: list[list[tuple[int, Tensor]]] = []
        """Where each stream of a batch begins, and a tensor on no device that tells its shape and type."""

    def _write(self, streams: Streams) -> None:
        self._batches.append([self._put(stream) for stream in streams])

    def _put(self, stream: Tensor) -> tuple[int, Tensor]:
        file = self._open()
        with _refusing(self._folder):
            start = file.seek(0, os.SEEK_END)
            left = bytes_of(stream.contiguous())
            while left:
                left = left[file.write(left) :]
        return start, stream.to("meta")

    def _read(self, batch: int, start: int, stop: int) -> Streams:
        return tuple(self._get(at, like, start, stop) for at, like in self._batches[batch])

    def _get(self, at: int, like: Tensor, start: int, stop: int) -> Tensor:
        file = self._open()
        found = torch.empty((stop - start, *like.shape[1:]), dtype=like.dtype)
        with _refusing(self._folder):
            file.seek(at + start * like[:1].nbytes)
            left = bytes_of(found)
            while left:
                if not (count := file.readinto(left)):  # type: ignore[attr-defined]  # raw files have it
                    raise OSError("the file ends too early")
                left = left[count:]
        return found

    def _open(self) -> IO[bytes]:
        if self._file is None or self._file.closed:
            raise ValueError("these activations have been let go")
        return self._file

    def close(self) -> None:
        super().close()
        if self._file is not None:
            self._file.close()


@dataclass
class ActivationStore:
    """Keeps streams in RAM, or in files below ``folder``, and counts what is held at once; leaving it deletes all."""

    folder: Path | None = None
    bytes_held: int = 0
    peak_bytes: int = 0
    """The most bytes held at once since `restart`, wherever they lie."""
    _kept: WeakSet[KeptStreams] = field(default_factory=WeakSet)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for kept in list(self._kept):  # an error's traceback may hold some yet
            kept.close()

    def keep(self, batches: Iterable[Streams]) -> KeptStreams:
        """Take the batches one by one; held until nobody refers to the result any more."""
        kept = _InRam(self) if self.folder is None else _OnDisk(self, self.folder)
        self._kept.add(kept)
        for streams in batches:
            kept.append(streams)
        return kept

    def restart(self) -> None:
        """Count the most bytes held from now on."""
        self.peak_bytes = self.bytes_held

    def count(self, change: int) -> None:
        """Note that so many bytes more, or fewer, are held."""
        self.bytes_held += change
        self.peak_bytes = max(self.peak_bytes, self.bytes_held)


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Turn a full disk or a refused write below ``folder`` into a ``FastFluxError``."""
    try:
        yield
    except OSError as error:
        raise FastFluxError(
            f"Cannot keep activations in files below {folder}: {error.strerror or error}; free some space, choose "
            "another folder, keep fewer places or calibrate on fewer samples."
        ) from error


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    array: Any = tensor.detach().view(-1).view(torch.uint8).numpy()
    return memoryview(array)
