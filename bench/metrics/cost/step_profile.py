"""Where the time of one transformer step goes: by kind of block, and by kind of operation.

Blocks are timed by marks before and after each (CUDA events on a GPU, which keep the host from waiting). Operations are
those that torch's profiler saw; on a GPU the time of an operation is that of the kernels it launched.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity

from bench.metrics.catalogue import metric_named
from bench.metrics.cost.flops import kind_of_block
from bench.metrics.cost.memory import quiet_profiler
from bench.records.results import JSON, Measurement, MetricInfo
from fastflux.errors import FastFluxError
from fastflux.models.architecture import architecture_of
from fastflux.models.surgery import get_block

STEP_PROFILE = metric_named("step_profile").info
OPERATIONS = ("matrix_products", "attention", "norms", "copies", "elementwise")
"""Kinds of operations: "copies" join, copy, convert and fill tensors; "elementwise" is whatever is no other."""
PROFILED = 3
"""Steps under the profiler, which slows the host down: their wall time is not told."""
SHOWN = 20
"""Operations, and kernels, that a measurement lists by name."""
_KINDS = (
    ("attention", re.compile(r"attention")),
    ("matrix_products", re.compile(r"^(mm|addmm|bmm|baddbmm|matmul|linear|_?mkl_linear|_?mkldnn_linear)$|_linear_")),
    ("norms", re.compile(r"norm")),
    ("copies", re.compile(r"^(copy_|_to_copy|to|clone|contiguous|cat|stack|repeat|fill_|zero_|zeros|ones|full)$")),
)


@dataclass(frozen=True)
class _Marks:
    """Points in time on a device, and the milliseconds between two of them."""

    device: torch.device

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        """For all that was launched."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, last: Any) -> float:
        """Milliseconds; on a GPU both must have passed."""
        return float(first.elapsed_time(last)) if self.cuda else (last - first) * 1000


@contextmanager
def _marked_blocks(transformer: nn.Module, marks: _Marks) -> Iterator[list[tuple[str, Any, Any]]]:
    """The kind of every block that runs meanwhile, with the marks before and after it, in a list that grows."""
    passed: list[tuple[str, Any, Any]] = []
    handles, began = [], {}
    kinds: dict[int, str] = {}

    def enter(module: nn.Module, _arguments: Any) -> None:
        began[id(module)] = marks.now()

    def leave(module: nn.Module, _arguments: Any, _result: Any) -> None:
        passed.append((kinds[id(module)], began[id(module)], marks.now()))

    for reference in architecture_of(transformer).chain(transformer):
        block = get_block(transformer, reference)
        kinds[id(block)] = kind_of_block(transformer, reference)
        handles += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    try:
        yield passed
    finally:
        for handle in handles:
            handle.remove()


def measure_step_profile(
    transformer: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    rounds: int,
    warmup: int = 1,
    device: str = "cpu",
    settings: Mapping[str, JSON] | None = None,
    info: MetricInfo = STEP_PROFILE,
) -> Measurement:
    """Time eager steps without gradients, once with marks around the blocks and once under the profiler.

    Args:
        inputs: keyword arguments of a step, on `device`.
        rounds: steps with marks.
        warmup: untimed steps first.

    Returns:
        Medians over the rounds "forward_ms", "rest_ms" (what no block does), and of each kind of block
        "block.<kind>.total_ms" and "block.<kind>.ms" (one block), with "block.<kind>.count"; of each of `OPERATIONS`
        "operations.<kind>_ms" a step and "operations_ms", their sum; on a GPU "kernels" launched a step. Settings list
        the costliest "operations" and "kernels" as [name, ms a step, calls a step]. Failed for a step that raises a
        RuntimeError.

    Raises:
        FastFluxError: no rounds, or a model of no known architecture.
    """
    if rounds < 1 or warmup < 0:
        raise FastFluxError(f"rounds is {rounds} and warmup {warmup}; expected at least 1 and 0.")
    marks = _Marks(torch.device(device))
    on_device: AbstractContextManager[Any] = torch.cuda.device(device) if marks.cuda else nullcontext()
    common: dict[str, JSON] = {
        **(settings or {}), "rounds": rounds, "warmup": warmup, "profiled": PROFILED,
        "device_type": marks.device.type, "clock": "cuda_events" if marks.cuda else "perf_counter",
    }  # fmt: skip

    def step() -> None:
        with torch.inference_mode():
            transformer(**inputs)

    try:
        with on_device:  # marks are made on the current device's stream
            for _ in range(warmup):
                step()
            values, samples = _by_block(transformer, step, rounds, marks)
            found, lists = _by_operation(step, PROFILED, marks)
    except RuntimeError as error:
        return Measurement.failed(info, f"{type(error).__name__}: {error}", missing=rounds, settings=common)
    return Measurement(
        info, "ok", values={**values, **found}, scored=rounds, samples=samples, settings={**common, **lists}
    )


def _by_block(
    transformer: nn.Module, step: Callable[[], None], rounds: int, marks: _Marks
) -> tuple[dict[str, float], dict[str, list[float]]]:
    samples: dict[str, list[float]] = {"forward/ms": [], "rest/ms": []}
    for _ in range(rounds):
        marks.wait()
        with _marked_blocks(transformer, marks) as passed:
            began = marks.now()
            step()
            ended = marks.now()
        marks.wait()
        forward = marks.between(began, ended)
        totals: dict[str, float] = {}
        for kind, first, last in passed:
            totals[kind] = totals.get(kind, 0.0) + marks.between(first, last)
        samples["forward/ms"].append(forward)
        samples["rest/ms"].append(forward - sum(totals.values()))
        for kind, total in totals.items():
            samples.setdefault(f"block.{kind}/ms", []).append(total)
    values = {f"{name}_ms": median(samples[f"{name}/ms"]) for name in ("forward", "rest")}
    for kind, count in Counter(kind for kind, _, _ in passed).items():
        total, block = median(samples[f"block.{kind}/ms"]), f"block.{kind}"
        values |= {f"{block}.count": float(count), f"{block}.ms": total / count, f"{block}.total_ms": total}
    return values, samples


def _by_operation(step: Callable[[], None], steps: int, marks: _Marks) -> tuple[dict[str, float], dict[str, JSON]]:
    with quiet_profiler([ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if marks.cuda else [])]) as profiler:
        for _ in range(steps):
            step()
        marks.wait()
    taken = dict.fromkeys(OPERATIONS, 0.0)
    operations: list[tuple[str, float, float]] = []
    kernels: list[tuple[str, float, float]] = []
    for event in profiler.key_averages():
        calls = event.count / steps
        if event.device_type != DeviceType.CPU:  # a kernel, whose time its operation has too
            kernels.append((event.key, event.self_device_time_total / steps / 1000, calls))
            continue
        spent = event.self_device_time_total if marks.cuda else event.self_cpu_time_total
        if spent > 0 and "::" in event.key:  # what bears no library's name is the profiler's, as "Command Buffer Full"
            name = event.key.rpartition("::")[2]
            operations.append((name, spent / steps / 1000, calls))
            taken[kind_of_operation(name)] += spent / steps / 1000
    if marks.cuda and not kernels:
        unseen = "saw no kernels: CUPTI is not there, or not allowed"
        return {}, {"operations": [], "kernels": [], "profiler": unseen}
    values = {f"operations.{kind}_ms": spent for kind, spent in taken.items()}
    values["operations_ms"] = sum(taken.values())
    lists: dict[str, JSON] = {"operations": _costliest(operations)}
    if marks.cuda:
        values["kernels"] = sum(calls for _, _, calls in kernels)
        lists["kernels"] = _costliest(kernels)
    return values, lists


def kind_of_operation(name: str) -> str:
    """Which of `OPERATIONS` an operation of torch is, by its name without the library's."""
    return next((kind for kind, pattern in _KINDS if pattern.search(name)), "elementwise")


def _costliest(found: list[tuple[str, float, float]]) -> list[JSON]:
    return [list(entry) for entry in sorted(found, key=lambda entry: -entry[1])[:SHOWN]]
