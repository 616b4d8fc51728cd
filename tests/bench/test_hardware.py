"""What nvidia-smi and the kernel tell, and what becomes of it where they do not."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.records import hardware
from bench.records.hardware import ask_nvidia_smi, cpu_governor, cpu_model, describe_gpu


def answering(monkeypatch: pytest.MonkeyPatch, answer: str | Exception) -> list[list[str]]:
    """Let nvidia-smi answer; the commands it was given."""
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        assert options["timeout"] > 0
        asked.append(command)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(stdout=answer)

    monkeypatch.setattr(hardware.subprocess, "run", run)
    return asked


def test_fields_come_in_their_order_and_what_is_not_told_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, "575.51, [N/A], 350.00\n")
    found = ask_nvidia_smi("GPU-1", ["driver_version", "clocks.max.sm", "power.limit"])
    assert found == {"driver_version": "575.51", "clocks.max.sm": None, "power.limit": "350.00"}
    assert asked[0][1:4] == ["-i", "GPU-1", "--query-gpu=driver_version,clocks.max.sm,power.limit"]


@pytest.mark.parametrize(
    "answer",
    [
        FileNotFoundError("nvidia-smi"),
        subprocess.TimeoutExpired("nvidia-smi", 10),
        subprocess.CalledProcessError(6, "nvidia-smi"),
        "one field too many, 1, 2",
        "",
    ],
)
def test_without_an_answer_all_is_none(monkeypatch: pytest.MonkeyPatch, answer: str | Exception) -> None:
    answering(monkeypatch, answer)
    assert ask_nvidia_smi("0", ["power.limit", "clocks.max.sm"]) == {"power.limit": None, "clocks.max.sm": None}


def test_a_gpu_is_asked_for_by_its_uuid_and_described_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, "575.51, 700.00, 700.00, 1980, 3201, [Not Supported], 2619")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc-1"))
    found = describe_gpu("cuda:0")
    assert found.pop("cuda") == torch.version.cuda
    assert "cudnn" in found
    del found["cudnn"]
    assert found == {
        "driver": "575.51",
        "power_limit_w": 700.0,
        "power_limit_default_w": 700.0,
        "sm_clock_max_mhz": 1980.0,
        "memory_clock_max_mhz": 3201.0,
        "sm_clock_set_mhz": None,
        "memory_clock_set_mhz": 2619.0,
    }
    assert "GPU-abc-1" in asked[0]


def test_the_cpu_is_named_by_its_model(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Other\n")
    assert cpu_model(cpuinfo) == "Some CPU @ 2 GHz"
    assert cpu_model(tmp_path / "absent")


def test_the_governor_is_none_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "governor").write_text("performance\n")
    assert cpu_governor(tmp_path / "governor") == "performance"
    assert cpu_governor(tmp_path / "absent") is None
