"""Compiled steps on the CPU with backends that take no compiler, and what becomes of a model that does not compile."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends import registry

from bench.metrics.cost import latency
from bench.metrics.cost.latency import CompileSettings, measure_compiled_latency
from bench.records.results import Measurement
from fastflux.errors import FastFluxError
from fastflux.models.surgery import replace_block_
from fastflux.plan import BlockRef, Replacement
from tests.fastflux.conftest import make_tiny_flux, run, tiny_inputs

EAGER = CompileSettings(backend="eager")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    torch.compiler.reset()


def shallow() -> Any:
    """Compiling takes a time for every block."""
    return make_tiny_flux(num_layers=1, num_single_layers=1)


def shallow_replaced() -> Any:
    model = shallow()
    replace_block_(model, Replacement(BlockRef("single_transformer_blocks", 0), "linear"))
    return model


def measured(models: dict[str, nn.Module], how: CompileSettings = EAGER, **options: Any) -> dict[str, Measurement]:
    inputs = options.pop("inputs", None) or tiny_inputs(next(iter(models.values())))
    asked: dict[str, Any] = {"warmup": 1, "rounds": 6, "seed": 0, "clock": time.perf_counter, **options}
    return measure_compiled_latency(models, inputs, how, **asked)


def test_dense_and_pruned_are_compiled_and_timed() -> None:
    models = {"dense": shallow(), "pruned": shallow_replaced()}
    expected = {name: run(model) for name, model in models.items()}
    found = measured(models)
    for name, measurement in found.items():
        assert (measurement.info.name, measurement.status) == ("latency_compiled", "ok"), measurement.reason
        assert {"median_ms", "p99_ms", "ratio_to_dense", "first_call_ms"} <= measurement.values.keys()
        assert measurement.values["first_call_ms"] > measurement.values["median_ms"], "it was compiled in it"
        assert measurement.settings["compiled"] is True
        assert measurement.settings["compile_backend"] == "eager"
        assert torch.equal(run(models[name]), expected[name]), "the given models stay eager"
    assert torch.allclose(run(EAGER.compile(models["pruned"]), tiny_inputs(models["pruned"])), expected["pruned"])


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


class Wide(nn.Module):
    """Of a width of its own, so that each is another graph of the same code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, width)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x)
        return output


def test_more_variants_than_torch_compiles_by_default_are_all_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []

    def counting(graph: Any, examples: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setitem(registry._COMPILER_FNS, "counting", counting)
    monkeypatch.setitem(registry._BACKENDS, "counting", None)
    models: dict[str, nn.Module] = {"dense": Wide(1)} | {f"pruned-{width}": Wide(width) for width in range(2, 13)}
    found = measured(models, CompileSettings(backend="counting"), rounds=1, inputs={"x": torch.zeros(2, 4)})
    assert {measurement.status for measurement in found.values()} == {"ok"}
    assert len(graphs) == len(models) == 12


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
        measured({"dense": shallow()}, warmup=0)
    with pytest.raises(FastFluxError, match="at least 3 untimed rounds"):
        measured({"dense": shallow()}, CompileSettings("reduce-overhead"), warmup=2)
    with pytest.raises(FastFluxError, match="rounds is 0"):
        measured({"dense": shallow()}, rounds=0)
