"""All stages of a run in their order, each skipping what is done; what they measured becomes records."""

from __future__ import annotations

from bench.profiles.variants import ranking_file
from bench.run import measure, score
from bench.run.draw import draw, draw_single_removals
from bench.run.evaluation import Evaluation
from bench.run.prune import prune
from bench.run.records import write_record
from fastflux.io.ranking_files import read_ranking


def evaluate(evaluation: Evaluation) -> None:
    """Prune, draw, score and measure; a kill at any moment loses one unit at most."""
    prune(evaluation)
    draw(evaluation)
    if (order := ranking_file(evaluation.profile, "sandwich_training")) is not None:  # else nobody knows which matter
        draw_single_removals(evaluation, read_ranking(order))
    score.score(evaluation)
    write_records(evaluation)
    measure.measure(evaluation)
    write_records(evaluation)


def write_records(evaluation: Evaluation) -> None:
    """Write the records of all variants as far as they go."""
    runner = evaluation.runner
    measured = {name: runner.find(measure.STAGE, measure.unit(evaluation, name)) for name in evaluation.bases}
    for variant in evaluation.variants:
        found = [runner.find(score.STAGE, unit) for unit in score.units(evaluation, variant)]
        write_record(evaluation, variant, [done for done in (*found, measured[variant.base]) if done is not None])
