"""A run: its units settled in order, here or by workers, each kept when it is there; what they measured is records."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from time import monotonic

from bench.metrics.catalogue import metric_named
from bench.profiles.variants import Variant, ranking_file
from bench.progress import Board
from bench.records.results import Measurement
from bench.run import draw, measure, prune, score
from bench.run.evaluation import Evaluation
from bench.run.graph import Extent, Node, Schedule, Stage, graph_of, groups_of, scored_by, searched, wanted
from bench.run.score import write_record
from bench.run.units import Done as Settled
from bench.run.units import Runner, Unit, reason_of
from bench.samples.generate import jobs_of
from bench.samples.prompts import limited
from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import read_ranking
from fastflux.models.architecture import architecture_of

GOALS: tuple[Stage, ...] = ("prune", "draw", "draw_without", "score", "measure")
#: What a run tells of the seconds of its stages.
SHOWN = {
    **dict.fromkeys(("equal_latency", "calibration"), "prune"),
    **dict.fromkeys(("draw_part", "draw_without", "draw"), "generate"),
}
Done = Callable[[Node, float], None]
"""Is told a node that is done, and its seconds."""
Settler = Callable[[Node], str]
"""Makes a node unless it is done; the reason where it cannot be made."""


def nodes_of(evaluation: Evaluation) -> list[Node]:
    """All units of the run."""
    order = ranking_file(evaluation.profile, "sandwich_training")  # without one nobody knows which blocks matter
    dense = evaluation.main.outline.transformer
    extent = Extent(
        pictures=len(jobs_of(evaluation.prompts, evaluation.sampling)),
        calibration=len(evaluation.main.calibration_prompts),
        blocks=len(architecture_of(dense).chain(dense)),
        removals=() if order is None else draw.removed_blocks(read_ranking(order)),
        removal_pictures=len(limited(evaluation.prompts, draw.PROMPTS_OF_A_KIND)),
    )
    return graph_of(evaluation.profile, evaluation.variants, extent, shared=evaluation.on_cpu)


def unit_of(evaluation: Evaluation, node: Node) -> tuple[Runner, str, Unit]:  # noqa: PLR0911  # one for each stage
    """Who settles a node, its stage in the store, and how; what it needs must be done."""
    stage, name = node.stage, node.name
    if stage == "calibration":
        base = evaluation.base(name)
        return base.runner, stage, base.calibration_unit
    if stage == "draw_without":
        return evaluation.runner, stage, draw.unit_without(evaluation, name)
    if stage == "measure":
        return evaluation.runner, stage, measure.unit(evaluation, measured_with(evaluation, node))
    if stage == "equal_latency":
        chosen = next(each for each in evaluation.variants if each.as_fast_as and searched(each) == name)
        return evaluation.pruner, prune.SEARCH, prune.search_unit(evaluation, chosen)
    variant, _, metric = name.partition(",")
    chosen = evaluation.variant(variant)
    if stage == "prune":
        return evaluation.pruner, stage, prune.unit(evaluation, chosen)
    if stage == "score":
        return evaluation.runner, stage, score.unit(evaluation, chosen, metric)
    return evaluation.runner, "draw", draw.unit(evaluation, chosen)


def settler(evaluation: Evaluation) -> Settler:
    """What makes the nodes of a run, unless they are done; it gives the reason where one cannot be made."""

    def settle(node: Node) -> str:
        prune.meet_latencies(evaluation)
        if node.stage == "draw_part":
            draw.draw_part(evaluation, evaluation.variant(node.name), node.part)
            return ""
        runner, stage, unit = unit_of(evaluation, node)
        return next(iter(runner.settle(stage, unit).failures.values()), "")

    return settle


def attempt(settle: Settler, node: Node) -> str:
    """The reason where a node cannot be made, "" where it is done."""
    try:
        return settle(node)
    except (OSError, MemoryError, RuntimeError, ValueError, ArithmeticError, FastFluxError) as error:
        return reason_of(error)


def settle_here(evaluation: Evaluation, *goals: Stage) -> None:
    """Settle the stages in this process, with what they need; the first that cannot be made raises its reason.

    Raises FastFluxError.
    """
    evaluation.require_inputs()
    schedule = Schedule(todo(evaluation, nodes_of(evaluation), goals))
    run_here(settler(evaluation), schedule, lambda node, seconds: add_seconds(evaluation, node, seconds))
    for key, reason in schedule.failures.items():
        if not key.startswith("score:"):  # a metric that failed is noted as such
            raise FastFluxError(reason)
    prune.meet_latencies(evaluation)


def run_here(settle: Settler, schedule: Schedule, done: Done) -> None:
    """Settle one node after the other in this process."""
    with board_of(schedule) as board:
        while (node := schedule.start()) is not None:
            board.show([str(node)])
            began = monotonic()
            if reason := attempt(settle, node):
                board.failed(str(node), reason)
                schedule.fail(node, reason)
                continue
            seconds = monotonic() - began
            schedule.finish(node)
            board.finished(node.steps, seconds)
            done(node, seconds)


def board_of(schedule: Schedule, workers: int = 1) -> Board:
    """Of a schedule from its start."""
    left = schedule.left
    return Board(len(left), sum(node.steps for node in left), workers)


def add_seconds(evaluation: Evaluation, node: Node, seconds: float) -> None:
    """Add the seconds of a node to those of its stage."""
    evaluation.add_seconds(SHOWN.get(node.stage, node.stage), seconds)


def todo(evaluation: Evaluation, nodes: Sequence[Node], goals: Sequence[Stage] = GOALS) -> list[Node]:
    """The nodes that are not done, as far as the goals need them."""
    done: dict[str, bool] = {}
    for node in nodes:
        # Before its models are there, nobody knows what a unit would be made from.
        known = all(done[key] for key in node.needs if key.startswith(("prune:", "equal_latency:")))
        known = known and done.get(f"prune:{node.variant}" if node.stage == "score" else "", True)
        if node.stage == "measure":
            known = all(done[key] for key in node.after if key.startswith("prune:"))
        found = _found(evaluation, node) if known and node.stage != "draw_part" else None
        done[node.key] = found is not None and not found.failures
        if node.stage == "equal_latency" and done[node.key]:
            prune.meet_latencies(evaluation)
    return wanted(nodes, done, goals)


def _found(evaluation: Evaluation, node: Node) -> Settled | None:
    """What settles a node whose models are there; None where nothing does."""
    try:
        runner, stage, unit = unit_of(evaluation, node)
    except FastFluxError:
        return None
    return runner.find(stage, unit)


def measured_with(evaluation: Evaluation, node: Node) -> list[Variant]:
    """The variants that a node measures in turn: those of its dense model that are pruned.

    Raises FastFluxError for none.
    """
    early, late = groups_of(evaluation.variants)
    group = early if not node.part and not node.name and early else late
    found = [
        each for each in group if each.base == node.name and (each.config is None or prune.is_pruned(evaluation, each))
    ]
    if not found:
        raise FastFluxError("none of the models to measure could be pruned")
    return found


def forget(evaluation: Evaluation, nodes: Sequence[Node]) -> None:
    """Leave all nodes to be made once more, whatever earlier runs left."""
    stores = [evaluation.runner.store, evaluation.pruner.store]
    for node, store in itertools.product(nodes, stores):
        store.forget_names(node.stage, [node.name])
    evaluation.runner.store.forget_names(measure.STAGE, [variant.id for variant in evaluation.variants])
    for base in map(evaluation.base, evaluation.bases):
        base.forget()
    draw.forget(evaluation)


def write_records(
    evaluation: Evaluation, nodes: Sequence[Node], failures: Mapping[str, str], variants: Collection[str]
) -> None:
    """Write the records of these variants as far as they go; what failed is a measurement with its reason."""
    timed = [node for node in nodes if node.stage == measure.STAGE]
    measured = [done for node in timed if (done := _found(evaluation, node)) is not None]
    untimed = {node.name: failures[node.key] for node in timed if node.key in failures}
    for variant in (each for each in evaluation.variants if each.id in variants):
        found: list[Settled] = []
        failed: list[Measurement] = []
        for name in scored_by(evaluation.profile, variant):
            if (done := evaluation.runner.find(score.STAGE, score.unit(evaluation, variant, name))) is not None:
                found.append(done)
            elif reason := failures.get(f"score:{variant.id},{name}"):
                failed.append(Measurement.failed(metric_named(name).info, reason))
        settled = next((done for done in measured if variant.id in done.results), None)
        if settled is not None:
            found.append(settled)
        elif reason := failures.get(f"prune:{variant.id}") or untimed.get(variant.base):
            failed += [Measurement.failed(metric_named(name).info, reason) for name in measure.metrics_of(evaluation)]
        write_record(evaluation, variant, found, failed)
