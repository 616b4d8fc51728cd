"""What the machine says of itself: power limit and clocks of an NVIDIA GPU, the CPU's model and frequency governor.

GPUs are asked through ``nvidia-smi``, which comes with the driver. What cannot be read is None.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.records.results import JSON

_TIMEOUT_S = 10
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
#: Name in the record -> field of nvidia-smi. Limits, not the clocks of the moment, which would differ in every record.
_GPU_NUMBERS = {
    "power_limit_w": "power.limit",
    "power_limit_default_w": "power.default_limit",
    "sm_clock_max_mhz": "clocks.max.sm",
    "memory_clock_max_mhz": "clocks.max.memory",
    "sm_clock_set_mhz": "clocks.applications.graphics",
    "memory_clock_set_mhz": "clocks.applications.memory",
}


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU as the operating system names it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, [*names, platform.processor(), platform.machine()]), "unknown CPU")


def cpu_governor(path: Path = _GOVERNOR) -> str | None:
    """Linux' frequency governor of the first core ("performance", "schedutil", ...); None where there is none."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def describe_gpu(device: str) -> dict[str, JSON]:
    """Of a CUDA device: "driver", "cuda" and "cudnn" versions, power limits in W, largest and set clocks in MHz."""
    import torch

    texts = query_gpu(device, ["driver_version", *_GPU_NUMBERS.values()])
    numbers = {name: _number(texts[field]) for name, field in _GPU_NUMBERS.items()}
    return {
        "driver": texts["driver_version"],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **numbers,
    }


def query_gpu(device: str, fields: Sequence[str]) -> dict[str, str | None]:
    """Fields of ``nvidia-smi --query-gpu`` of a CUDA device, as text; None for each that it does not tell."""
    import torch

    # Torch counts the devices that it may see, nvidia-smi all: the UUID is the same for both.
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return ask_nvidia_smi(uuid, fields)


def ask_nvidia_smi(gpu: str, fields: Sequence[str], program: str = "nvidia-smi") -> dict[str, str | None]:
    """`query_gpu` of the GPU that `gpu` (a UUID or index) names; all None without the program or its answer."""
    unknown: dict[str, str | None] = dict.fromkeys(fields)
    command = [program, "-i", gpu, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        # from the path, with our own arguments
        answered = subprocess.run(command, capture_output=True, check=True, text=True, timeout=_TIMEOUT_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return unknown
    texts = [text.strip() for text in answered.stdout.strip().split(",")]
    if len(texts) != len(fields):
        return unknown
    return {field: None if _absent(text) else text for field, text in zip(fields, texts, strict=True)}


def _absent(text: str) -> bool:
    return not text or text.startswith("[") or text == "N/A"  # "[N/A]", "[Not Supported]"


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
