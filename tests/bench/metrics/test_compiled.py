"""Compiled steps on the CPU with backends that take no compiler, and what becomes of a model that does not compile."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.metrics import latency
from bench.metrics.compiled import CompileSettings, measure_compiled_latency
from bench.metrics.timing import Clock
from bench.results import Measurement
from fastflux.errors import FastFluxError
from tests.fastflux.conftest import make_replaced_flux, make_tiny_flux, run, tiny_inputs

EAGER = CompileSettings(backend="eager")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    torch.compiler.reset()


def measured(models: dict[str, nn.Module], how: CompileSettings = EAGER, **options: Any) -> dict[str, Measurement]:
    clock: Clock = __import__("time").perf_counter
    inputs = options.pop("inputs", None) or tiny_inputs(next(iter(models.values())))
    asked: dict[str, Any] = {"warmup": 1, "rounds": 6, "seed": 0, "clock": clock, **options}
    return measure_compiled_latency(models, inputs, how, **asked)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_dense_and_pruned_are_compiled_and_timed(backend: str) -> None:
    how = CompileSettings(backend=backend)
    models = {"dense": make_tiny_flux(), "pruned": make_replaced_flux([2, 3])}
    expected = {name: run(model) for name, model in models.items()}
    found = measured(models, how)
    for name, measurement in found.items():
        assert (measurement.info.name, measurement.status) == ("latency_compiled", "ok"), measurement.reason
        assert {"median_ms", "p99_ms", "ratio_to_dense", "first_call_ms"} <= measurement.values.keys()
        assert measurement.values["first_call_ms"] > measurement.values["median_ms"], "it was compiled in it"
        assert measurement.settings["compiled"] is True
        assert measurement.settings["compile_backend"] == backend
        assert torch.equal(run(models[name]), expected[name]), "the given models stay eager"


def test_compiled_and_eager_agree() -> None:
    model = make_replaced_flux([2])
    compiled = CompileSettings(backend="aot_eager").compile(model)
    assert torch.allclose(run(compiled, tiny_inputs(model)), run(model), atol=1e-6)


class Broken(nn.Module):
    """Breaks its graph, which `fullgraph` forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        halfway = self.linear(x)
        torch._dynamo.graph_break()
        return halfway + 1


def test_a_model_that_does_not_compile_fails_alone_with_the_reason() -> None:
    models = {"dense": nn.Linear(4, 4), "broken": Broken()}
    inputs = {"input": torch.zeros(2, 4)}
    inputs_of_both = {"dense": inputs, "broken": {"x": inputs["input"]}}

    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.model, self.name = models[name], name

        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return self.model(**{next(iter(inputs_of_both[self.name])): input})

    found = measured({name: Named(name) for name in models}, CompileSettings("default", "eager", True), inputs=inputs)
    assert found["dense"].status == "ok"
    assert found["broken"].status == "failed"
    assert "Unsupported in round 0: " in found["broken"].reason
    assert "graph_break" in found["broken"].reason
    assert "\n" not in found["broken"].reason


def test_more_variants_than_torch_compiles_by_default_are_all_compiled() -> None:
    models = {"dense": make_tiny_flux()} | {f"pruned-{place}": make_replaced_flux([place]) for place in range(6)}
    models |= {f"removed-{place}": make_replaced_flux([], [place]) for place in range(4)}
    found = measured(models, rounds=1)
    assert [name for name, measurement in found.items() if measurement.status != "ok"] == []


def test_settings_that_cannot_be_are_refused_at_once() -> None:
    with pytest.raises(FastFluxError, match="Unknown compile mode 'reduce'"):
        CompileSettings("reduce")
    with pytest.raises(FastFluxError, match=r"Unknown compile backend 'inductr'.*did you mean 'inductor'"):
        CompileSettings(backend="inductr")
    with pytest.raises(FastFluxError, match="'reduce-overhead' is inductor's"):
        CompileSettings("reduce-overhead", "eager")


def test_warmup_must_cover_the_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "interleave", lambda *_, **__: pytest.fail("it was measured"))
    with pytest.raises(FastFluxError, match="warmup is 0, but compiled in mode 'default'"):
        measured({"dense": make_tiny_flux()}, warmup=0)
    with pytest.raises(FastFluxError, match="at least 3 untimed rounds"):
        measured({"dense": make_tiny_flux()}, CompileSettings("reduce-overhead"), warmup=2)
    with pytest.raises(FastFluxError, match="rounds is 0"):
        measured({"dense": make_tiny_flux()}, rounds=0)
