"""What the machine says of itself: power limit and clocks of an NVIDIA GPU, the CPU's model and frequency governor.

What cannot be read is None.
"""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.records.results import JSON

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


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
    """Of a CUDA device: "driver", "cuda" and "cudnn" versions, power limits in W, largest and set clocks in MHz.

    Limits, not the clocks of the moment, which would differ in every record.
    """
    import pynvml
    import torch

    def ask(name: str, *kinds: int) -> Any:
        return ask_driver(device, lambda gpu: getattr(pynvml, name)(gpu, *kinds))

    def number(value: float | None, unit: float = 1.0) -> float | None:
        return None if value is None else value / unit

    return {
        "driver": ask_driver(device, lambda _gpu: pynvml.nvmlSystemGetDriverVersion()),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "power_limit_w": number(ask("nvmlDeviceGetPowerManagementLimit"), 1000),
        "power_limit_default_w": number(ask("nvmlDeviceGetPowerManagementDefaultLimit"), 1000),
        "sm_clock_max_mhz": number(ask("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_SM)),
        "memory_clock_max_mhz": number(ask("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_MEM)),
        "sm_clock_set_mhz": number(ask("nvmlDeviceGetApplicationsClock", pynvml.NVML_CLOCK_GRAPHICS)),
        "memory_clock_set_mhz": number(ask("nvmlDeviceGetApplicationsClock", pynvml.NVML_CLOCK_MEM)),
    }


def gpu_utilisation(device: str) -> int | None:
    """Percent of the last second or so in which a CUDA device worked, as its driver tells."""
    import pynvml

    found: int | None = ask_driver(device, lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
    return found


def ask_driver(device: str, question: Callable[[Any], Any]) -> Any:
    """The answer to a question about a CUDA device's NVML handle; None without a driver or where it does not tell."""
    import pynvml
    import torch

    # Torch counts the devices that it may see, the driver all: the UUID is the same for both.
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    try:
        pynvml.nvmlInit()
        return question(pynvml.nvmlDeviceGetHandleByUUID(uuid))
    except pynvml.NVMLError:
        return None
