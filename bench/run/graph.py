"""What a run does, as data: its units in the order of their urgency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.metrics.catalogue import metric_named
from bench.profiles.profile import Profile
from bench.profiles.variants import Variant, dense_of
from bench.run.schedule import Node
from bench.tables import needed_by
from fastflux.methods.sandwich_training.config import SandwichTrainingConfig
from fastflux.methods.sublayer_replacement.config import SublayerReplacementConfig
from fastflux.plan import block_count

PART = 512
"""Pictures of a variant that are drawn by one unit, at the least."""
FIRST_TABLES = ("table1", "table2", "table6")
"""Those that are shown before all others are measured, where the run makes others too."""
FIRST_MEASURED = "measure:"
"""The key of the node that measures the variants of these."""
#: A training step by the forwards of as many pictures: one forward, a backward pass of twice the work.
_TRAINING = 3
#: Scoring a picture by one metric, likewise: from a third (a step of FLUX.1-dev) to twice that (FLUX-Shapes').
_SCORING = 1.0
_AMOUNTS = ("ratio", "blocks", "reuse_from")
_SEARCH_STEPS = 2 * (6 * 30 + 100)


@dataclass(frozen=True)
class Extent:
    """Numbers that the work of a run follows from, besides its profile.

    Args:
        pictures: of each variant.
        calibration: prompts of the calibration.
        blocks: of the dense model.
        removals: names of the blocks that are left out in turn, for `removal_pictures` pictures each.
    """

    pictures: int
    calibration: int
    blocks: int
    removals: tuple[str, ...] = ()
    removal_pictures: int = 0


def graph_of(profile: Profile, variants: Sequence[Variant], extent: Extent, *, shared: bool) -> list[Node]:
    """All units of a run, most urgent first; what comes later in the list never comes before in a run.

    Args:
        shared: workers compute on one device, such as the cores of a CPU: what is timed there runs alone.
    """
    early, late = groups_of(variants)
    nodes: dict[str, Node] = {}
    timed: list[str] = []
    ends: dict[str, tuple[str, int]] = {}
    for number, group in enumerate(part for part in (early, late) if part):
        if number == 1 or not early:
            for variant in (variant for variant in group if variant.as_fast_as):
                steps = float(_SEARCH_STEPS * profile.latency.batch)
                target = f"prune:{variant.as_fast_as}"
                _add(nodes, Node("equal_latency", searched(variant), 0, (target,), tuple(timed), shared, steps))
        _add_pruning(nodes, profile, group, extent, ends)
        _add_pictures(nodes, profile, group, variants, extent)
        if number == 1 or not late:
            each = extent.removal_pictures * profile.sampling.steps
            for block in extent.removals:
                _add(nodes, Node("draw_without", block, steps=float(each)))
        before = tuple(nodes) if shared else tuple(key for key in nodes if key.startswith("prune:"))
        for base in dict.fromkeys(variant.base for variant in group):
            count = 1 + sum(variant.base == base and not variant.is_dense and variant.is_timed for variant in group)
            steps = float(count * (profile.latency.rounds + profile.latency.warmup) * profile.latency.batch)
            part = number if any(variant.base == base for variant in early) else 0
            _add(nodes, Node("measure", base, part, (), before, shared, steps))
            timed.append(f"measure:{base}" + (f"#{part}" if part else ""))
    return list(nodes.values())


def groups_of(variants: Sequence[Variant]) -> tuple[list[Variant], list[Variant]]:
    """Those of the tables that are shown first, and the others; each group is measured in one run."""
    first = needed_by(FIRST_TABLES)
    early = [variant for variant in variants if not variant.base and first(variant.name)]
    return early, [variant for variant in variants if variant not in early]


def searched(variant: Variant) -> str:
    """By what name the ratio of equal latency is searched: other seeds have the same shapes."""
    return str(variant.name.unseeded)


def _add(nodes: dict[str, Node], node: Node) -> None:
    nodes[node.key] = node


def _add_pruning(
    nodes: dict[str, Node],
    profile: Profile,
    variants: Sequence[Variant],
    extent: Extent,
    ends: dict[str, tuple[str, int]],
) -> None:
    """Calibration and pruning; `ends` are, by chain, its last node so far and the blocks that it replaces."""
    made: list[Node] = []
    for variant in sorted((each for each in variants if each.config is not None), key=_reach):
        config: Any = variant.config
        needs = [f"calibration:{variant.base}"] if config.needs_statistics else []
        if needs:
            calibration = float(extent.calibration * profile.calibration.steps)
            nodes.setdefault(needs[0], Node("calibration", variant.base, steps=calibration))
        if variant.as_fast_as:
            needs.append(f"equal_latency:{searched(variant)}")
        training = getattr(config, "steps", 0) * getattr(config, "batch", 0) * _TRAINING
        after: tuple[str, ...] = ()
        if isinstance(config, SandwichTrainingConfig):  # of which a few blocks are trained for each that is replaced
            before, replaced = ends.get(chain := _chain_of(variant), ("", 0))
            after, count = (before,) if before else (), block_count(_reach(variant), extent.blocks)
            training = training * config.layers / extent.blocks * max(0, count - replaced)
            ends[chain] = f"prune:{variant.id}", max(count, replaced)
        steps = float(training + getattr(config, "samples", 0) + _scoring(profile, config, extent))
        made.append(Node("prune", variant.id, 0, tuple(needs), after, steps=steps))
    for node in sorted(made, key=lambda node: -node.steps if not node.after else 0):  # long ones first, chains in order
        _add(nodes, node)


def _scoring(profile: Profile, config: Any, extent: Extent) -> float:
    """Forwards by which FastFLUX+ chooses: what stands in each block's place is tried, and the dense model once."""
    if not isinstance(config, SublayerReplacementConfig):
        return 0.0
    tried = len(config.allowed) * (extent.blocks - len(config.kept))
    if config.trajectories:
        return float((1 + tried) * config.trajectories * profile.calibration.steps)
    return (1 + tried / 2) * config.scored  # a step, from the block that is tried on


def _chain_of(variant: Variant) -> str:
    """The same for variants of which one goes on where another ended."""
    settings = {name: value for name, value in asdict(variant.config).items() if name not in _AMOUNTS}  # type: ignore[call-overload]
    return f"{variant.base} {settings}"


def _reach(variant: Variant) -> float:
    """The ratio up to which blocks are replaced on the way."""
    config: Any = variant.config
    return float(getattr(config, "reuse_from", None) or getattr(config, "ratio", None) or 0.0)


def _add_pictures(
    nodes: dict[str, Node], profile: Profile, group: Sequence[Variant], variants: Sequence[Variant], extent: Extent
) -> None:
    """Drawing, in parts where there are many pictures, and scoring."""
    steps = float(extent.pictures * profile.sampling.steps)
    parts = parts_of(extent.pictures)
    for variant in group:
        needs: tuple[str, ...] = () if variant.config is None else (f"prune:{variant.id}",)
        if parts > 1:
            numbers = range(1, parts + 1)
            for part in numbers:
                _add(nodes, Node("draw_part", variant.id, part, needs, steps=steps / parts))
            needs = tuple(f"draw_part:{variant.id}#{part}" for part in numbers)
        _add(nodes, Node("draw", variant.id, 0, needs, steps=0.0 if parts > 1 else steps))
    for variant in group:
        for metric in scored_by(profile, variant):
            needs = (f"draw:{variant.id}",)
            if metric_named(metric).measures == "pairs":
                needs = (*needs, f"draw:{dense_of(variants, variant.base).id}")
            name = f"{variant.id},{metric}"
            _add(nodes, Node("score", name, 0, needs, steps=extent.pictures * _SCORING))


def scored_by(profile: Profile, variant: Variant) -> list[str]:
    """The metrics of a variant's images: nothing pairs the dense model with itself."""
    return [name for name in profile.metrics if not (variant.is_dense and metric_named(name).measures == "pairs")]


def parts_of(pictures: int) -> int:
    """In how many parts a variant's pictures are drawn."""
    return max(1, pictures // PART)
