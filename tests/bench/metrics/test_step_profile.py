"""Where a step's time goes: blocks add up, operations are told by kind, and waste that was planted is seen."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType

from bench.metrics.cost import step_profile
from bench.metrics.cost.step_profile import kind_of_operation, measure_step_profile
from bench.records.results import Measurement
from fastflux.errors import FastFluxError
from fastflux.models.architecture import example_inputs
from fastflux.models.flux import FLUX
from fastflux.models.sublayers import LinearReplacementBlock
from tests.fastflux.conftest import make_tiny_flux


@pytest.fixture
def flux() -> Any:
    return make_tiny_flux().eval()


def measured(flux: nn.Module, **options: Any) -> Measurement:
    inputs = example_inputs(flux, 1, 64, 64, 8)
    return measure_step_profile(flux, inputs, **{"rounds": 3, **options})


def test_blocks_and_the_rest_add_up_to_the_forward(flux: Any) -> None:
    flux.single_transformer_blocks[1] = LinearReplacementBlock(flux.inner_dim, joint=True)
    found = measured(flux)
    assert found.status == "ok"
    chain = FLUX.chain(flux)
    counts = {name: value for name, value in found.values.items() if name.endswith(".count")}
    assert sum(counts.values()) == len(chain)
    assert counts["block.linear.count"] == 1
    for place in range(3):
        parts = sum(found.samples[name][place] for name in found.samples if name != "forward/ms")
        assert parts == pytest.approx(found.samples["forward/ms"][place])
    assert found.values["rest_ms"] > 0
    assert found.values["block.single.ms"] == pytest.approx(
        found.values["block.single.total_ms"] / counts["block.single.count"]
    )


def test_no_mark_is_left_on_the_model(flux: Any) -> None:
    before = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in flux.modules())
    measured(flux)
    after = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in flux.modules())
    assert after == before


def test_a_slow_block_is_told_from_a_fast_one(flux: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**9))
    monkeypatch.setattr(step_profile.time, "perf_counter", lambda: next(ticks) / 1000)
    flux.single_transformer_blocks[0].register_forward_hook(lambda *_: [next(ticks) for _ in range(50)] and None)
    slow = measured(flux).values
    singles = len(flux.single_transformer_blocks)
    # A mark before and one behind: 1 ms each, and 50 more of the slow one.
    assert slow["block.double.ms"] == pytest.approx(1.0)
    assert slow["block.single.total_ms"] == pytest.approx(50.0 + singles)


def test_a_copy_that_nothing_needs_is_seen(flux: Any) -> None:
    before = measured(flux)

    def copied(module: nn.Module, arguments: tuple[Any, ...], kwargs: dict[str, Tensor]) -> Any:
        del module
        return arguments, {**kwargs, "hidden_states": torch.cat([kwargs["hidden_states"]] * 60_000, 1)[:, :16].clone()}

    flux.single_transformer_blocks[0].register_forward_pre_hook(copied, with_kwargs=True)
    after = measured(flux)
    assert after.values["operations.copies_ms"] > 2 * before.values["operations.copies_ms"]
    assert after.settings["operations"][0][0] == "cat"  # type: ignore[index]  # a list


def test_a_replaced_block_copies_and_joins_nothing() -> None:
    block = LinearReplacementBlock(32, joint=True)
    image, text = torch.randn(1, 16, 32), torch.randn(1, 8, 32)
    with torch.inference_mode(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        block(image, text)
    names = {event.key.rpartition("::")[2] for event in seen.key_averages()}
    assert "linear" in names
    assert not names & {"cat", "clone", "contiguous", "split", "split_with_sizes", "narrow", "slice", "chunk"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("addmm", "matrix_products"), ("mm", "matrix_products"), ("bmm", "matrix_products"),
        ("linear", "matrix_products"), ("_mkl_linear", "matrix_products"), ("_flash_attention_forward", "attention"),
        ("_scaled_dot_product_cudnn_attention", "attention"), ("native_layer_norm", "norms"),
        ("_fused_rms_norm", "norms"), ("cat", "copies"), ("copy_", "copies"), ("clone", "copies"),
        ("gelu", "elementwise"), ("mul", "elementwise"), ("add", "elementwise"), ("cumsum", "elementwise"),
        ("catalogue", "elementwise"),
    ],
)  # fmt: skip
def test_operations_are_told_by_their_names(name: str, kind: str) -> None:
    assert kind_of_operation(name) == kind


def test_operations_add_up_and_the_costliest_are_listed(flux: Any) -> None:
    found = measured(flux)
    kinds = [value for name, value in found.values.items() if name.startswith("operations.")]
    assert sum(kinds) == pytest.approx(found.values["operations_ms"])
    listed: Any = found.settings["operations"]
    assert [ms for _, ms, _ in listed] == sorted((ms for _, ms, _ in listed), reverse=True)
    assert {"addmm", "linear", "mm"} & {name for name, _, _ in listed}


def test_a_step_that_fails_says_why(flux: Any) -> None:
    def planted(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    flux.transformer_blocks[0].register_forward_pre_hook(planted)
    found = measured(flux)
    assert (found.status, found.reason) == ("failed", "OutOfMemoryError: no memory")


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"warmup": -1}])
def test_wrong_numbers_are_refused(flux: Any, wrong: dict[str, int]) -> None:
    with pytest.raises(FastFluxError, match="expected at least 1 and 0"):
        measured(flux, **wrong)


def test_what_the_profiler_itself_takes_on_a_gpu_is_no_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    def event(key: str, ms: float, device: DeviceType) -> SimpleNamespace:
        return SimpleNamespace(key=key, count=2, device_type=device, self_device_time_total=2000 * ms)

    events = [
        event("aten::addmm", 3.0, DeviceType.CPU),
        event("gemm", 3.0, DeviceType.CUDA),
        event("Command Buffer Full", 5.0, DeviceType.CPU),
        event("Activity Buffer Request", 1.0, DeviceType.CPU),
    ]
    profiler = nullcontext(SimpleNamespace(key_averages=lambda: events))
    monkeypatch.setattr(step_profile, "quiet_profiler", lambda _activities: profiler)
    marks: Any = SimpleNamespace(cuda=True, wait=lambda: None)
    values, lists = step_profile._by_operation(lambda: None, 2, marks)
    assert values["operations_ms"] == values["operations.matrix_products_ms"] == 3.0
    assert lists["operations"] == [["addmm", 3.0, 1.0]]
    assert values["kernels"] == 1
