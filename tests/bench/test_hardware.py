"""What the GPU's driver and the kernel tell, and what becomes of it where they do not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from bench.records.environment import cpu_governor, cpu_model, describe_gpu, gpu_utilisation


def driver(monkeypatch: pytest.MonkeyPatch, *, refused: tuple[str, ...] = ()) -> list[str]:
    """A driver that answers for one GPU, but for what it refuses; the UUIDs that it is asked for."""
    asked: list[str] = []

    def answer(name: str, value: Any) -> None:
        def give(*arguments: Any) -> Any:
            if name in refused:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return value(*arguments) if callable(value) else value

        monkeypatch.setattr(pynvml, name, give)

    answer("nvmlInit", None)
    answer("nvmlDeviceGetHandleByUUID", lambda uuid: asked.append(uuid) or "gpu")
    answer("nvmlSystemGetDriverVersion", "575.51")
    answer("nvmlDeviceGetPowerManagementLimit", 350_000)
    answer("nvmlDeviceGetPowerManagementDefaultLimit", 700_000)
    answer("nvmlDeviceGetMaxClockInfo", lambda _gpu, kind: 1980 if kind == pynvml.NVML_CLOCK_SM else 3201)
    answer("nvmlDeviceGetApplicationsClock", lambda _gpu, _kind: 2619)
    answer("nvmlDeviceGetUtilizationRates", SimpleNamespace(gpu=97, memory=3))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc-1"))
    return asked


def test_a_gpu_is_asked_for_by_its_uuid_and_described_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = driver(monkeypatch, refused=("nvmlDeviceGetApplicationsClock",))
    found = describe_gpu("cuda:0")
    assert found.pop("cuda") == torch.version.cuda
    assert "cudnn" in found
    del found["cudnn"]
    assert found == {
        "driver": "575.51", "power_limit_w": 350.0, "power_limit_default_w": 700.0, "sm_clock_max_mhz": 1980.0,
        "memory_clock_max_mhz": 3201.0, "sm_clock_set_mhz": None, "memory_clock_set_mhz": None,
    }  # fmt: skip
    assert set(asked) == {"GPU-abc-1"}
    assert gpu_utilisation("cuda:0") == 97


def test_without_a_driver_all_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, refused=("nvmlInit",))
    assert gpu_utilisation("cuda:0") is None
    assert {name for name, value in describe_gpu("cuda:0").items() if value is not None} <= {"cuda", "cudnn"}


def test_the_cpu_is_named_by_its_model(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Other\n")
    assert cpu_model(cpuinfo) == "Some CPU @ 2 GHz"
    assert cpu_model(tmp_path / "absent")


def test_the_governor_is_none_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "governor").write_text("performance\n")
    assert cpu_governor(tmp_path / "governor") == "performance"
    assert cpu_governor(tmp_path / "absent") is None
