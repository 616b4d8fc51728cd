"""What a run does, as data: its units in the order of their urgency, what each needs, and which may start next."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from bench.metrics.catalogue import metric_named
from bench.profiles.profile import Profile
from bench.profiles.variants import Variant, dense_of
from bench.records.variant_id import L1_EQUAL
from bench.tables import TABLES
from fastflux.methods.sandwich_training.config import SandwichTrainingConfig
from fastflux.methods.sublayer_replacement.method import SublayerReplacementConfig
from fastflux.plan import block_count

PART = 512
"""Pictures of a variant that are drawn by one unit, at the least."""
FIRST_TABLES = ("table1", "table2", "table6")
"""Those that are shown before all others are measured, where the run makes others too."""
FIRST_MEASURED = "measure:"
"""The key of the node that measures the variants of these."""
#: A training step by the forwards of as many pictures: one forward, a backward pass of twice the work.
_TRAINING = 3
#: Scoring a picture by one metric, likewise: on FLUX-Shapes .1 to .5, on FLUX.1-dev a third.
_SCORING = 1 / 3
#: A step of the calibration: with the statistics of all blocks.
_CALIBRATION = 1.4
_AMOUNTS = ("ratio", "blocks", "reuse_from", "flops", "latency")
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
    first = [TABLES[name] for name in FIRST_TABLES]
    early = [each for each in variants if not each.base and any(table.shows(each.name) for table in first)]
    return early, [variant for variant in variants if variant not in early]


def searched(variant: Variant) -> str:
    """By what name the ratio of equal latency is searched: other seeds, and width pruning, have the same shapes."""
    return str(replace(variant.name.unseeded, family=L1_EQUAL))


def _add(nodes: dict[str, Node], node: Node) -> None:
    nodes[node.key] = node


def _add_pruning(
    nodes: dict[str, Node],
    profile: Profile,
    variants: Sequence[Variant],
    extent: Extent,
    ends: dict[str, tuple[str, int]],
) -> None:
    """Calibration and pruning; `ends` are, by chain, what its next node comes after and the blocks that it replaces."""
    made: list[Node] = []
    for variant in sorted((each for each in variants if each.config is not None), key=_reach):
        config: Any = variant.config
        needs = [f"calibration:{variant.base}"] if config.needs_statistics else []
        if needs:
            calibration = extent.calibration * profile.calibration.steps * _CALIBRATION
            nodes.setdefault(needs[0], Node("calibration", variant.base, steps=calibration))
        if variant.as_fast_as:
            needs.append(f"equal_latency:{searched(variant)}")
        steps = float(getattr(config, "steps", 0) * getattr(config, "batch", 0) * _TRAINING)
        after: tuple[str, ...] = ()
        if isinstance(config, SandwichTrainingConfig | SublayerReplacementConfig):
            before, replaced = ends.get(chain := _chain_of(variant), ("", 0))
            after, count = (before,) if before else (), block_count(_reach(variant), extent.blocks)
            if isinstance(config, SandwichTrainingConfig):  # a few blocks are trained for each that is replaced
                steps *= config.layers / extent.blocks * max(0, count - replaced)
                ends[chain] = f"prune:{variant.id}", max(count, replaced)
            elif not before:  # whose scores serve all that differ in the budget
                steps += _scoring(profile, config, extent)
                ends[chain] = f"prune:{variant.id}", 0
        steps += getattr(config, "samples", 0)
        made.append(Node("prune", variant.id, 0, tuple(needs), after, steps=steps))
    for node in sorted(made, key=lambda node: -node.steps if not node.after else 0):  # long ones first, chains in order
        _add(nodes, node)


def _scoring(profile: Profile, config: SublayerReplacementConfig, extent: Extent) -> float:
    """Forwards by which FastFLUX+ chooses: what stands in each block's place is tried, and the dense model once."""
    tried = len(config.allowed) * (extent.blocks - len(config.kept))
    if config.trajectories:
        return float((1 + tried) * config.trajectories * profile.calibration.steps)
    return (1 + tried / 2) * config.scored  # a step, from the block that is tried on


def _chain_of(variant: Variant) -> str:
    """The same for variants of which one goes on where another ended, or chooses by what another scored."""
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


Stage = Literal[
    "calibration", "equal_latency", "prune", "draw_part", "draw", "draw_without", "score", "measure", "removal"
]


@dataclass(frozen=True)
class Node:
    """A unit of a run by name, from which a process makes the unit itself (`bench.run.evaluate.unit_of`).

    Args:
        name: of a dense model or a variant; "<variant>,<metric>" of scores, a block of drawings without it.
        part: of the pictures of a variant, or of a dense model's variants that are measured together.
        needs: keys of nodes without which it cannot be made.
        after: keys of nodes that come first if they come at all, such as those whose progress it shares.
        alone: nothing else may run on the machine meanwhile.
        steps: the work in transformer steps on one picture, roughly.
    """

    stage: Stage
    name: str
    part: int = 0
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    alone: bool = False
    steps: float = 0.0

    @property
    def key(self) -> str:
        """Unlike any other node's."""
        return f"{self.stage}:{self.name}" + (f"#{self.part}" if self.part else "")

    def __str__(self) -> str:
        """For people."""
        return f"{self.stage} {self.name or 'the main model'}" + (f", part {self.part}" if self.part else "")

    @property
    def variant(self) -> str:
        """The variant that it is about, "" for none alone."""
        return self.name.split(",")[0] if self.stage in {"prune", "draw_part", "draw", "score"} else ""


@dataclass
class Schedule:
    """Which node comes next, in the order of the list as far as dependencies let it.

    A node that runs `alone` waits until nothing runs, and what is behind it in the list waits for it.
    """

    nodes: Sequence[Node]
    failures: dict[str, str] = field(default_factory=dict)
    """Reasons by key, of nodes that cannot be made and of all that need them."""
    running: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._waiting = {node.key: node for node in self.nodes}

    @property
    def ended(self) -> bool:
        """Whether nothing is left to start or to wait for."""
        return not self._waiting and not self.running

    @property
    def left(self) -> list[Node]:
        """What is not done, running nodes included."""
        return [*self.running.values(), *self._waiting.values()]

    def start(self) -> Node | None:
        """The next node, which runs from now on; None while there is none that may start."""
        if any(node.alone for node in self.running.values()):
            return None
        busy = self._waiting.keys() | self.running.keys()
        node = next((node for node in self._waiting.values() if busy.isdisjoint(node.needs + node.after)), None)
        if node is None or (node.alone and self.running):
            return None
        self.running[node.key] = self._waiting.pop(node.key)
        return node

    def finish(self, node: Node) -> None:
        """A running node is done."""
        del self.running[node.key]

    def put_back(self, node: Node) -> None:
        """A running node was lost and is to be made again."""
        self._waiting = {node.key: self.running.pop(node.key), **self._waiting}

    def fail(self, node: Node, reason: str) -> None:
        """A running node cannot be made, nor can what needs it."""
        self.running.pop(node.key, None)
        self.failures[node.key] = reason
        for other in [other for other in self._waiting.values() if node.key in other.needs]:
            del self._waiting[other.key]
            self.fail(other, f"{node} failed: {reason}" if str(node) not in reason else reason)


def wanted(nodes: Sequence[Node], done: Mapping[str, bool], goals: Iterable[Stage]) -> list[Node]:
    """The nodes that are not done of the stages that are the goals, with what they need and come after."""
    found: set[str] = set()
    goals = set(goals)
    for node in reversed(nodes):
        if not done[node.key] and (node.stage in goals or node.key in found):
            found |= {node.key, *node.needs, *node.after}
    return [node for node in nodes if node.key in found and not done[node.key]]


def simulate(nodes: Sequence[Node], workers: int, seconds_per_step: float, start: float = 0.0) -> float:
    """Seconds that so many workers take for the nodes, each `start` seconds besides its steps."""
    schedule, clock = Schedule(nodes), 0.0
    ends: list[tuple[float, int, Node]] = []
    for number in itertools.count():
        if len(ends) < workers and (node := schedule.start()) is not None:
            heapq.heappush(ends, (clock + start + node.steps * seconds_per_step, number, node))
        elif ends:
            clock, _, node = heapq.heappop(ends)
            schedule.finish(node)
        else:
            break
    return clock
