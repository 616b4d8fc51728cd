"""Units of a run by name, what each comes after, and which may start next. Free of torch."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

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
