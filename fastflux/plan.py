"""What was pruned, as data, and how much: no tensors, no torch. Plan and dense model are all a skeleton is built of."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from fastflux.errors import FastFluxError, unknown_name

JSON: TypeAlias = 'str | int | float | bool | list["JSON"] | dict[str, "JSON"] | None'

SCHEMA_VERSION = 1
WHOLE_KINDS = ("linear", "removed")
SUBLAYER_KINDS = ("linear_attention", "linear_mlp", "linear_halves")
REPLACEMENT_KINDS = (*WHOLE_KINDS, *SUBLAYER_KINDS)


@dataclass(frozen=True, order=True)
class BlockRef:
    """A block by the name diffusers gives its stack and by its index there: ``single_transformer_blocks.7``."""

    stack: str
    index: int

    def __str__(self) -> str:
        return f"{self.stack}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` writes; raises ``FastFluxError`` on anything else."""
        stack, _, index = text.rpartition(".")
        if not stack or not index.isdecimal():
            raise FastFluxError(
                f"{text!r} names no block: expected a stack and an index, such as transformer_blocks.3."
            )
        return cls(stack, int(index))


@dataclass(frozen=True)
class Replacement:
    """What stands in a block's place: ``linear`` (shortcut + linear layers) or ``removed`` (shortcut alone).

    Or linear layers inside the block, between its norms and gates, in the place of its attention
    (``linear_attention``), of its MLP (``linear_mlp``) or of both (``linear_halves``).
    """

    block: BlockRef
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in REPLACEMENT_KINDS:
            raise unknown_name("replacement kind", self.kind, REPLACEMENT_KINDS)


@dataclass(frozen=True)
class PruningPlan:
    """How a dense model was pruned: base model and revision, method with its settings, and the blocks replaced.

    ``config`` holds the method's settings and whatever else its skeleton needs (the L1-norm method adds the kept
    ``heads`` and ``mlp_channels``). ``calibration`` is a digest of the data it was calibrated on and of how, where
    `fastflux.prune` ran that. ``hash`` names the variant.

    Example:
        >>> plan = fastflux.PruningPlan("FLUX.1-dev", "", "l1_norm", {"ratio": 0.1})
        >>> fastflux.PruningPlan.from_json(plan.to_json()) == plan
        True
    """

    base_model: str
    base_revision: str
    method: str
    config: Mapping[str, JSON]
    replacements: tuple[Replacement, ...] = field(default=())
    schema_version: int = SCHEMA_VERSION
    calibration: str = ""

    def __post_init__(self) -> None:
        seen = [replacement.block for replacement in self.replacements]
        twice = sorted({str(block) for block in seen if seen.count(block) > 1})
        if twice:
            raise FastFluxError(f"A pruning plan replaces a block once, but this one repeats {', '.join(twice)}.")

    @property
    def hash(self) -> str:
        """16 hex digits of the SHA-256 over the plan's canonical JSON."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, JSON]:
        """The plan as plain JSON values; ``from_json`` reads it back to an equal plan."""
        return {
            "base_model": self.base_model,
            "base_revision": self.base_revision,
            "method": self.method,
            "config": dict(self.config),
            "replacements": [{"block": str(r.block), "kind": r.kind} for r in self.replacements],
            "schema_version": self.schema_version,
            **({"calibration": self.calibration} if self.calibration else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> Self:
        """Read a plan; unknown or missing keys and newer schema versions raise ``FastFluxError``."""
        if not isinstance(data, Mapping):
            raise FastFluxError(f"A pruning plan is a JSON object, not {data!r}.")
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise FastFluxError(
                f"This pruning plan has schema version {version!r}, but this FastFLUX reads version {SCHEMA_VERSION}: "
                "use the FastFLUX release that wrote it or a newer one."
            )
        expected = {"base_model", "base_revision", "method", "config", "replacements", "schema_version"}
        _require_keys("pruning plan", data, expected, {"calibration"})
        config, replacements = data["config"], data["replacements"]
        if not isinstance(config, dict) or not isinstance(replacements, list):
            raise FastFluxError("A pruning plan's config is a JSON object and its replacements are a JSON list.")
        return cls(
            base_model=_text("base_model", data["base_model"]),
            base_revision=_text("base_revision", data["base_revision"]),
            method=_text("method", data["method"]),
            config=config,
            replacements=tuple(_replacement(item) for item in replacements),
            calibration=_text("calibration", data.get("calibration", "")),
        )


def _replacement(item: JSON) -> Replacement:
    if not isinstance(item, dict):
        raise FastFluxError(f"A replacement is a JSON object with a block and a kind, not {item!r}.")
    _require_keys("replacement", item, {"block", "kind"})
    return Replacement(BlockRef.parse(_text("block", item["block"])), _text("kind", item["kind"]))


def _text(key: str, value: JSON) -> str:
    if not isinstance(value, str):
        raise FastFluxError(f"A pruning plan's {key} is a string, not {value!r}.")
    return value


def _require_keys(what: str, data: Mapping[str, JSON], expected: set[str], optional: Collection[str] = ()) -> None:
    if missing := sorted(expected - set(data)):
        raise FastFluxError(f"This {what} lacks {', '.join(missing)}: the file was cut short or is no FastFLUX plan.")
    if unknown := sorted(set(data) - expected - {*optional}):
        raise FastFluxError(
            f"This {what} has unknown keys {', '.join(unknown)}; expected {', '.join(sorted(expected))}."
        )


PAPER_BLOCKS = 57
PAPER_COUNTED_BLOCKS = 54
"""The paper's Table 6 drops 3, 5, 8, 11, 14 and 16 blocks at 5 to 30 %: that is round(ratio * 54), not * 57."""


def require_fraction(name: str, value: float) -> None:
    """Raise ``FastFluxError`` unless ``value`` lies in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise FastFluxError(f"{name} is {value}, but it must lie between 0 and 1: 0.2 stands for 20 %.")


def block_count(ratio: float, blocks: int) -> int:
    """How many of ``blocks`` blocks, all that a forward runs, to replace at a pruning ratio in [0, 1].

    FLUX.1-dev's 57 blocks follow the paper's counts (see `PAPER_COUNTED_BLOCKS`), other depths ``round(ratio *
    blocks)``. Raises ``FastFluxError`` for a ratio outside [0, 1].
    """
    require_fraction("The pruning ratio", ratio)
    return round(ratio * (PAPER_COUNTED_BLOCKS if blocks == PAPER_BLOCKS else blocks))


def require_ridge(ridge: float) -> None:
    """Raise ``FastFluxError`` for a relative ridge that is negative or not finite."""
    if not (math.isfinite(ridge) and ridge >= 0):
        raise FastFluxError(f"The ridge is {ridge}, but it must be a finite number that is not negative.")
