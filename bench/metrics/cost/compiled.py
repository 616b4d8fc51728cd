"""Latency of one compiled transformer step (`torch.compile`), a metric of its own beside the eager one."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Unpack, cast

import torch
from torch import Tensor, nn

from bench.metrics.catalogue import metric_named
from bench.metrics.cost.latency import Timing, measure_latency, with_value
from bench.records.results import JSON, Measurement
from fastflux.errors import FastFluxError, unknown_name

LATENCY_COMPILED = metric_named("latency_compiled").info
#: Calls of a mode until it runs as it will: CUDA graphs are warmed up, recorded, and only then replayed.
MODES = {"default": 1, "reduce-overhead": 3, "max-autotune-no-cudagraphs": 1, "max-autotune": 3}


@dataclass(frozen=True)
class CompileSettings:
    """How a transformer is compiled: the arguments of `torch.compile`; `mode` is for the backend "inductor" alone.

    Raises:
        FastFluxError: no such mode or backend, or a mode for another backend.
    """

    mode: str = "default"
    backend: str = "inductor"
    fullgraph: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_name("compile mode", self.mode, list(MODES))
        known = torch.compiler.list_backends(exclude_tags=())
        if self.backend not in known:
            raise unknown_name("compile backend", self.backend, known)
        if self.backend != "inductor" and self.mode != "default":
            raise FastFluxError(f"The mode {self.mode!r} is inductor's, but the backend is {self.backend!r}.")

    @property
    def warmup(self) -> int:
        """The least untimed rounds."""
        return MODES[self.mode]

    @property
    def graphs(self) -> bool:
        """Whether CUDA graphs are recorded and replayed."""
        return MODES[self.mode] > 1

    def compile(self, transformer: nn.Module) -> nn.Module:
        """The transformer compiled at its first call; the given one stays eager, and both share their weights."""
        mode = self.mode if self.backend == "inductor" else None
        compiled: Any = torch.compile(transformer, mode=mode, backend=self.backend, fullgraph=self.fullgraph)
        return cast("nn.Module", compiled)

    def describe(self) -> dict[str, JSON]:
        """For the settings of a measurement."""
        return {"compiled": True} | {f"compile_{name}": value for name, value in asdict(self).items()}


def measure_compiled_latency(
    transformers: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    compile_settings: CompileSettings,
    **timing: Unpack[Timing],
) -> dict[str, Measurement]:
    """`measure_latency` of one compiled step of every transformer on the same inputs, without gradients.

    Returns:
        Its values and "first_call_ms", in which the model was compiled. Failed, with the compiler's reason, for a
        transformer that cannot be compiled.

    Raises:
        FastFluxError: fewer warm-up rounds than the mode needs, or as `measure_latency`.
    """
    if timing["warmup"] < compile_settings.warmup:
        raise FastFluxError(
            f"warmup is {timing['warmup']}, but compiled in mode {compile_settings.mode!r} a model needs at least "
            f"{compile_settings.warmup} untimed rounds."
        )
    steps = {
        name: _Step(compile_settings.compile(model), inputs, compile_settings.graphs)
        for name, model in transformers.items()
    }
    timing["settings"] = {**(timing.get("settings") or {}), **compile_settings.describe()}
    with many_compilations(len(steps)):
        found = measure_latency(steps, info=LATENCY_COMPILED, **timing)
    return {name: with_value(one, "first_call_ms", steps[name].first_ms) for name, one in found.items()}


def many_compilations(models: int) -> Any:
    """A context in which so many models of one class are each compiled: torch gives up after eight, and runs eager."""
    torch.compiler.reset()  # what was compiled before counts too
    dynamo: Any = torch._dynamo  # noqa: SLF001  # its settings have no other place
    return dynamo.config.patch(recompile_limit=8 * (models + 1))


@dataclass
class _Step:
    """One step without gradients, which keeps the time of its first call."""

    model: nn.Module
    inputs: Mapping[str, Any]
    graphs: bool
    first_ms: float = 0.0

    def __call__(self) -> None:
        began = time.perf_counter()
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()  # the outputs of the step before may go
        with torch.inference_mode():
            self.model(**self.inputs)
        if not self.first_ms:
            self.first_ms = (time.perf_counter() - began) * 1000
