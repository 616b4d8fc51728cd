"""Which files make a pipeline: what an export copies from the base, and what must not be deleted with an old output."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastflux.errors import FastFluxError
from fastflux.files import require_new_folder
from fastflux.io.checkpoint import WEIGHTS, read_json, read_weights
from fastflux.io.model_card import CARD, PREVIOUS_CARDS, licence_files

INDEX = "model_index.json"

_SETTINGS = re.compile(
    r"\w*config\.json|vocab\.(json|txt)|merges\.txt|tokenizer\.(json|model)|spiece\.model|special_tokens_map\.json"
    r"|added_tokens\.json|\w+\.jinja"
)
"""Names of what components hold besides weights."""
_OTHER_FORMATS = (".bin", ".ckpt", ".h5", ".msgpack", ".onnx", ".pt", ".pth")


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a pipeline that has a transformer; raises ``FastFluxError`` for any other folder."""
    index = read_json(folder / INDEX)
    if "transformer" not in index:
        raise FastFluxError(f"{folder / INDEX} names no transformer: FastFLUX prunes transformer pipelines only.")
    return index


def components(folder: Path, index: Mapping[str, Any]) -> dict[str, Path]:
    """The folders of the components that an index names; raises ``FastFluxError`` for a name that is no folder's."""
    entries = {name: entry for name, entry in index.items() if isinstance(entry, list)}
    for name, entry in entries.items():
        if len(entry) != 2 or [type(part) for part in entry] not in ([str, str], [type(None)] * 2):
            raise FastFluxError(f"{folder / INDEX}: {name} is {entry!r}, but must name a library and a class.")
    names = [name for name, entry in entries.items() if entry[0] is not None]
    if faulty := [name for name in names if name.startswith(".") or Path(name).name != name]:
        raise FastFluxError(f"{folder / INDEX} names a component {faulty[0]!r}, which cannot be a folder's name.")
    return {name: folder / name for name in names}


def require_output(base: Path, out: Path, *, overwrite: bool, inputs: Mapping[str, Path | None] | None = None) -> None:
    """Raise ``FastFluxError`` unless a pipeline pruned from ``base`` can be written to ``out``, before any work.

    An existing ``out`` may be replaced where ``overwrite`` is set, it is a pipeline and nothing else, and neither the
    base nor any of the ``inputs`` lies in it, wherever links lead. All that the base gives must be there.
    """
    if base.resolve() in (out.resolve(), *out.resolve().parents):
        raise FastFluxError(f"Cannot export to {out}, which is the base pipeline's own folder: choose another folder.")
    require_new_folder(
        out, overwrite=overwrite, foreign=foreign_to_pipeline, inputs={"the base pipeline": base, **(inputs or {})}
    )
    for _ in copied_files(base):
        pass


def copied_files(base: Path, *, card: bool = True) -> Iterator[tuple[Path, str]]:
    """What an export copies from its base: (file, name in the pipeline), all but the transformer and the index.

    That is what is in the folders of the components which the index names, but for hidden files and further copies of
    weights that loading without a variant does not read, the licence's files, and the ``card`` if asked for. Links are
    resolved; raises ``FastFluxError`` for one that leads out of the base, other than into the hub cache, for one to a
    folder that is no component's, and for a component that is missing.
    """
    for name, component in components(base, read_index(base)).items():
        if name == "transformer":
            continue
        real = _real(component, base)
        if not real.is_dir() or real == base.resolve():
            raise FastFluxError(f"The pipeline's component {component} is missing: restore it from its source.")
        yield from ((file, f"{name}/{inner}") for file, inner in _files(real, base))
    for file in (*licence_files(base), *([base / CARD] if card and (base / CARD).is_file() else [])):
        yield _real(file, base), file.name


def _files(folder: Path, base: Path) -> Iterator[tuple[Path, str]]:
    read = read_weights(folder)
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or (read and _is_further_copy(path, read)):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from ((file, f"{path.name}/{inner}") for file, inner in _files(path, base))
            continue
        real = _real(path, base)
        if not real.is_file():
            raise FastFluxError(f"{path} is no file, or a link to none: replace it or take it away.")
        yield real, path.name


def _is_further_copy(path: Path, read: list[Path]) -> bool:
    """Whether a file holds weights in another precision or format than those read, or is the index of such."""
    if path.suffix not in _OTHER_FORMATS and not WEIGHTS.fullmatch(path.name):
        return False
    index = f"{read[0].name.removesuffix('.safetensors').partition('-')[0]}.safetensors.index.json"
    return path not in read and path.name != index


def _real(path: Path, base: Path) -> Path:
    """A path with its links resolved; raises ``FastFluxError`` where they lead nowhere or out of the base."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop, before Python 3.13
        raise FastFluxError(f"{path} is missing, or a link to nothing: restore it from its source.") from error
    in_cache = real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    if base.resolve() not in real.parents and real != base.resolve() and not in_cache:
        raise FastFluxError(
            f"{path} is a link out of the pipeline's folder, to {real}, which is not copied into the new one: "
            "put a copy of what it leads to in its place."
        )
    return real


def foreign_to_pipeline(folder: Path) -> list[str]:
    """What a folder holds that neither diffusers nor FastFLUX writes: all of it where it is no pipeline."""
    entries = sorted(folder.iterdir())
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        known = components(folder, index)
    except (OSError, ValueError, AttributeError, FastFluxError):
        return [path.name for path in entries]
    own = {*(path.name for path in licence_files(folder)), INDEX, CARD}
    found: list[str] = []
    for path in entries:
        if path.name in known and path.is_dir():
            inner = [] if path.is_symlink() else sorted(path.iterdir())
            found += [
                f"{path.name}/{file.name}"
                for file in inner
                if file.is_dir() or not (WEIGHTS.fullmatch(file.name) or _SETTINGS.fullmatch(file.name))
            ]
        elif path.name not in own and not PREVIOUS_CARDS.fullmatch(path.name):
            found.append(path.name)
    return found
