"""A variant's manifest.jsonl: which image was drawn from which prompt and seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fastflux.errors import FastFluxError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class OfKind(Protocol):
    """Whatever shows an HPS style or a GenEval task."""

    @property
    def kind(self) -> str:
        """Such as "hps photo"."""


@dataclass(frozen=True)
class Shot:
    """One line of a manifest: the image file, its prompt and the seed it was drawn from."""

    file: Path
    prompt_id: str
    sample: int
    seed: int
    prompt: str
    kind: str  # HPS style or GenEval task: rows are spread over these


def read_manifest(path: Path) -> dict[tuple[str, int], Shot]:
    """A manifest.jsonl's lines by (prompt id, sample); raises FastFluxError naming the file and line of a bad one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FastFluxError(
            f"The manifest {path} cannot be read ({error.strerror}); generate the images of this variant."
        ) from error
    shots = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                entry = json.loads(line)
                kind = entry.get("style") or (entry.get("metadata") or {}).get("tag") or entry["set"]
                shot = Shot(
                    file=path.parent / entry["file"],
                    prompt_id=entry["prompt_id"],
                    sample=int(entry["sample"]),
                    seed=int(entry["seed"]),
                    prompt=entry["prompt"],
                    kind=f"{entry['set']} {kind}",
                )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise FastFluxError(
                    f"Line {number} of {path} is no image entry ({error!r}); generate the images of this variant again."
                ) from error
            shots[shot.prompt_id, shot.sample] = shot
    return shots


def pick_shots(shots: Mapping[tuple[str, int], OfKind], count: int) -> list[tuple[str, int]]:
    """`count` images spread evenly over styles and tasks (the first of each, then the second), by kind."""
    kinds: dict[str, list[tuple[str, int]]] = {}
    # A second sample of a prompt shows less than another prompt would: so the first samples come first.
    for key in sorted(shots, key=lambda key: (key[1], key[0])):
        kinds.setdefault(shots[key].kind, []).append(key)
    turns = max((len(keys) for keys in kinds.values()), default=0)
    order = [kinds[kind][turn] for turn in range(turns) for kind in sorted(kinds) if turn < len(kinds[kind])]
    chosen = sorted(order, key=lambda key: key[1])[:count]
    return sorted(chosen, key=lambda key: (shots[key].kind, key))
