"""L1-norm pruning at a target's measured latency: sliced copies of the dense model, timed in turn with the target."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from bench.metrics.cost.latency import measure_latency
from bench.metrics.cost.latency_search import EqualLatency, Reading, search_equal_latency
from bench.metrics.cost.timing import Clock, Step
from fastflux.methods.l1_norm import L1NormConfig, choose_widths, largest_ratio
from fastflux.pruning import prune_

CANDIDATE, TARGET = "candidate", "target"


def solve_equal_latency(
    dense: nn.Module,
    target: Step,
    inputs: Mapping[str, Any],
    *,
    tolerance: float = 0.02,
    rounds: int = 30,
    final_rounds: int = 100,
    precision: float = 0.0,
    final_precision: float = 0.0,
    warmup: int = 1,
    candidates: int = 6,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
    clock: Clock | None = None,
) -> EqualLatency:
    """Find the ratio at which L1-norm slicing makes one step of `dense` take as long as `target`.

    The sliced copies are not fine-tuned: latency does not depend on the weights' values. One copy is held at a time.

    Args:
        dense: stays as it is.
        target: runs one step of the model to meet, on the same inputs.
        inputs: keyword arguments of one step of `dense`, on `device`.
        tolerance: a fraction of the target's time.
        rounds, final_rounds: timed rounds of a candidate, and of the measurement that decides, at most: they end when
            the interval lies within the tolerance, or beyond it.
        precision, final_precision: of both, as `measure_latency` takes it.
        warmup: untimed rounds before each.
        candidates: measure at most so many, and up to three of them once more.
        seed: of the orders within the rounds.
        device: a CUDA device is waited for before and after each step.
        progress: told one line after every measurement.
        clock: seconds; without one the device's own, see `measure_latency`.

    Returns:
        The best found; ask `met`, and show the sentence that `str` gives where the target is out of reach.

    Raises:
        FastFluxError: a step that fails.
    """

    def decided(low: float, high: float) -> bool:
        within = 1 - tolerance <= low and high <= 1 + tolerance
        return within or high < 1 - tolerance or low > 1 + tolerance

    def measure(ratio: float, rounds: int) -> Reading:
        candidate = copy.deepcopy(dense).eval()
        kept = prune_(candidate, L1NormConfig(ratio)).config

        def step() -> None:
            with torch.inference_mode():
                candidate(**inputs)

        found = measure_latency(
            {CANDIDATE: step, TARGET: target},
            warmup=warmup,
            rounds=rounds,
            precision=final_precision if rounds == final_rounds else precision,
            decided=decided,
            seed=seed,
            baseline=TARGET,
            device=device,
            clock=clock,
        )
        widths = int(kept["heads"]), int(kept["mlp_channels"])  # type: ignore[arg-type]  # integers, as l1_norm gives them
        reading = Reading.of(found[CANDIDATE], found[TARGET], ratio, widths)
        if progress is not None:
            progress(
                f"L1-norm ratio {ratio:.3f} ({reading.heads} heads, {reading.mlp_channels} MLP channels): "
                f"{reading.latency_ratio:.3f} of the target's time in {reading.rounds} rounds"
            )
        return reading

    return search_equal_latency(
        measure,
        lambda ratio: choose_widths(dense, ratio),
        largest=largest_ratio(dense),
        tolerance=tolerance,
        rounds=rounds,
        final_rounds=final_rounds,
        candidates=candidates,
    )
