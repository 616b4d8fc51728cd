"""Sliced copies of a tiny model against targets, by a clock that the models themselves move."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.metrics.cost.latency_search import EqualLatency
from bench.profiles.profile import load_profile
from bench.profiles.variants import Variant, paper_variants
from bench.run import prune
from bench.run.equal_latency import solve_equal_latency
from bench.run.units import Runner, Store
from fastflux.errors import FastFluxError
from fastflux.files import write_text
from fastflux.methods.l1_norm import L1NormConfig, choose_widths, largest_ratio
from fastflux.models.pruned import parameter_count
from fastflux.pruning import prune_
from tests.fastflux.conftest import make_tiny_flux, tiny_inputs


class Workbench:
    """A dense model whose steps, and those of its copies, take a second for each parameter."""

    def __init__(self) -> None:
        self.now = 0.0
        self.dense = make_tiny_flux(num_attention_heads=4, attention_head_dim=16, axes_dims_rope=(4, 6, 6))
        self.parameters = parameter_count(self.dense)
        self.dense.register_forward_hook(lambda model, *_: self.spend(parameter_count(model)))
        self.inputs = tiny_inputs(self.dense)
        self.lines: list[str] = []

    def spend(self, seconds: float) -> None:
        self.now += seconds

    def target(self, share: float) -> Callable[[], None]:
        """A step that takes this share of the dense one's time."""
        return lambda: self.spend(share * self.parameters)

    def solve(self, target: Callable[[], object], **settings: Any) -> EqualLatency:
        return solve_equal_latency(
            self.dense, target, self.inputs, progress=self.lines.append, clock=lambda: self.now, **settings
        )


@pytest.fixture
def bench() -> Workbench:
    return Workbench()


@pytest.mark.parametrize("share", [0.95, 0.87, 0.8])
def test_the_ratio_found_prunes_to_the_targets_latency(bench: Workbench, share: float) -> None:
    before = {name: value.clone() for name, value in bench.dense.state_dict().items()}
    found = bench.solve(bench.target(share))
    assert found.met
    assert found.latency_ratio == pytest.approx(1, abs=0.02)
    assert found.ratio == pytest.approx(1 - share, abs=0.02)
    sliced = make_tiny_flux(num_attention_heads=4, attention_head_dim=16, axes_dims_rope=(4, 6, 6))
    plan = prune_(sliced, L1NormConfig(found.ratio))
    assert (plan.config["heads"], plan.config["mlp_channels"]) == (found.heads, found.mlp_channels)
    assert parameter_count(sliced) == pytest.approx(share * bench.parameters, rel=0.02)
    assert len(found.candidate_ms) == len(found.target_ms) == found.rounds == 6, "which decide where nothing varies"
    assert found.interval is not None
    assert len(bench.lines) == len(found.tried)
    assert "of the target's time in 6 rounds" in bench.lines[-1]
    after = bench.dense.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_an_interval_across_the_tolerance_decides_nothing(bench: Workbench) -> None:
    paces = itertools.cycle([1.0, 1.05])  # its own pace, or 5% slower
    found = bench.solve(lambda: bench.spend(0.87 * bench.parameters * next(paces)), rounds=8, final_rounds=12)
    assert {reading.rounds for reading in found.tried[1:]} >= {8, 12}
    assert found.tried[0].rounds == 6, "the dense model is slower, whatever the pace"


def test_a_target_slower_than_the_dense_model(bench: Workbench) -> None:
    found = bench.solve(bench.target(1.3))
    assert (found.ratio, found.heads, found.met) == (0.0, 4, False)
    assert "23.1% faster than its target, not within 2.0%" in str(found)


def test_a_target_faster_than_slicing_can_reach(bench: Workbench) -> None:
    found = bench.solve(bench.target(0.01))
    assert not found.met
    assert found.heads == 1
    assert found.ratio == pytest.approx(largest_ratio(bench.dense), abs=0.001)
    assert "slower than its target" in str(found)


def fails() -> None:
    raise RuntimeError("out of memory")


def test_steps_that_fail_are_named(bench: Workbench) -> None:
    with pytest.raises(FastFluxError, match=r"The target's step failed, .*RuntimeError in round 0: out of memory"):
        bench.solve(fails)
    bench.dense.register_forward_pre_hook(lambda *_: fails())
    with pytest.raises(FastFluxError, match=r"step of L1-norm pruning at 0.0 failed"):
        bench.solve(bench.target(0.9))


def test_real_time_shows_a_target_that_runs_the_model_twice(bench: Workbench) -> None:
    def twice() -> None:
        with torch.inference_mode():
            bench.dense(**bench.inputs)
            bench.dense(**bench.inputs)

    found = solve_equal_latency(bench.dense, twice, bench.inputs)
    assert found.ratio == 0
    assert found.latency_ratio < 0.8


def test_a_ratio_keeps_the_same_widths_every_time() -> None:
    one, other = (
        Workbench().dense,
        make_tiny_flux(5, num_attention_heads=4, attention_head_dim=16, axes_dims_rope=(4, 6, 6)),
    )
    for ratio in (0.1437, 0.25, largest_ratio(one)):
        assert choose_widths(one, ratio) == choose_widths(one, ratio) == choose_widths(other, ratio)
    with pytest.raises(FastFluxError, match="Cannot remove"):
        choose_widths(one, largest_ratio(one) + 0.02)


def test_other_seeds_take_the_ratio_that_was_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = {variant.id: variant for variant in paper_variants(load_profile("shapes"))}
    chosen = [variants[name] for name in ("fastflux-10", "l1_equal-10", "l1_equal_seed1-10", "l1_equal_seed2-10")]
    evaluation = SimpleNamespace(
        variants=chosen,
        device="cpu",
        saved=lambda variant: tmp_path / variant.id / "transformer",
        pruning_inputs=lambda variant: {"of": variant.id},
        step_settings=dict,
        pruner=Runner(Store(tmp_path), dict),
        variant=lambda name: next(each for each in evaluation.variants if each.id == name),
    )
    made = []

    def search(_: Any, variant: Variant, target: Variant, note: Path) -> dict[str, list[Any]]:
        made.append((variant.id, target.id))
        write_text(note, EqualLatency(0.07, 3, 200, 1.0, None, 5, (), ()).to_json())
        return {}

    monkeypatch.setattr(prune, "_search", search)
    for variant in chosen[1:]:
        evaluation.pruner.settle(prune.SEARCH, prune.search_unit(evaluation, variant))  # type: ignore[arg-type]
    prune.meet_latencies(evaluation)  # type: ignore[arg-type]
    met = evaluation.variants[1:]
    assert made == [("l1_equal-10", "fastflux-10")]
    assert [(one.config.ratio, one.config.seed) for one in met] == [(0.07, 0), (0.07, 1), (0.07, 2)]  # type: ignore[union-attr]
    assert met[2].label == "FLUX-Pruning-7.0% (latency of FastFLUX-10%), seed 2"
