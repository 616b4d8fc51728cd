"""Peak memory: tensors that live at once are added up, those that do not are not."""

import pytest
import torch
from torch import nn

from bench.metrics.cost.memory import cpu_peak, measure_memory, weight_bytes

MIB = 2**20


def mebibytes(count: float) -> torch.Tensor:
    return torch.zeros(int(count * MIB / 4))


def test_the_peak_is_what_lives_at_once() -> None:
    def one_after_another() -> None:
        for _ in range(3):
            mebibytes(4)

    def together() -> list[torch.Tensor]:
        return [mebibytes(4) for _ in range(3)]

    assert cpu_peak(one_after_another) / MIB == pytest.approx(4, abs=0.1)
    assert cpu_peak(together) / MIB == pytest.approx(12, abs=0.1)


def test_shared_weights_count_once() -> None:
    first, second = nn.Linear(256, 256, bias=False), nn.Linear(256, 256, bias=False)
    model = nn.Sequential(first, second)
    assert weight_bytes(model) == 2 * 256 * 256 * 4
    second.weight = first.weight
    assert weight_bytes(model) == 256 * 256 * 4


def test_a_measurement_adds_weights_and_step_and_is_the_same_twice() -> None:
    model = nn.Linear(512, 512, bias=False)
    x = torch.zeros(1024, 512)

    def step() -> None:
        with torch.no_grad():
            model(x)

    found = measure_memory(model, step, settings={"resolution": 64})
    assert found.values["peak_mib"] == pytest.approx(1 + 2, abs=0.1)
    assert found.settings["weights_mib"] == 1
    assert found.settings["resolution"] == 64
    assert measure_memory(model, step, settings={"resolution": 64}) == found


def test_a_step_that_raises_fails_the_measurement() -> None:
    def step() -> None:
        raise torch.OutOfMemoryError("no more")

    found = measure_memory(nn.Linear(2, 2), step)
    assert (found.status, found.values) == ("failed", {})
    assert found.reason == "OutOfMemoryError: no more"
