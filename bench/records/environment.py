"""Where and with what something was measured: device, operating system, library versions, commit, weight hashes."""

import hashlib
import platform
import re
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from bench.records.results import JSON, digest
from fastflux.errors import FastFluxError
from fastflux.files import file_hash
from fastflux.threads import usable_cores

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "open_clip_torch", "torch-fidelity", "numpy")
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


def describe_environment(device: str = "cpu") -> dict[str, JSON]:
    """What a record says of the machine.

    Args:
        device: a torch device, "cpu" or "cuda[:index]".

    Returns:
        "device" (model name), "device_type", "cores" (this process may use), "threads" (torch's), "memory_gib", "os",
        "python", "libraries" (version by name; None where not installed), "commit" ({"hash", "dirty"} or None), "cpu"
        (model), "cpu_capability" (the vector instructions that torch uses), "governor" (of its frequency, or None) and,
        on a CUDA device, "gpu" (`describe_gpu`).
    """
    import torch

    cuda = torch.device(device).type == "cuda"
    return {
        "device": device_name(device),
        "device_type": torch.device(device).type,
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "os": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "commit": git_commit(Path(__file__).parent),
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "governor": cpu_governor(),
        **({"gpu": describe_gpu(device)} if cuda else {}),
    }


def device_name(device: str) -> str:
    """The model name of a torch device: of the GPU, or of the CPU as the operating system states it."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_model()


def git_commit(folder: Path) -> dict[str, JSON] | None:
    """The checked-out commit and whether tracked files differ from it; without git that of an archive that git made."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"hash": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        notes = [note for place in (folder, *folder.parents) if (note := place / ".git_archival.txt").is_file()]
        commit = notes[0].read_text(encoding="utf-8").removeprefix("node: ").strip() if notes else ""
        return {"hash": commit, "dirty": False} if _COMMIT.fullmatch(commit) else None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder: over the relative name and the hash of each file, hidden ones left out.

    Raises:
        FastFluxError: there is neither.
    """
    if path.is_file():
        return file_hash(path).hex()
    if not path.is_dir():
        raise FastFluxError(f"{path} is neither a file nor a folder; give the path of one that is there.")
    depth = len(path.parts)
    names = {"/".join(entry.parts[depth:]): entry for entry in path.rglob("*") if entry.is_file()}
    lines = [
        f"{file_hash(entry).hex()}  {name}\n"
        for name, entry in sorted(names.items())
        if not any(part.startswith(".") for part in name.split("/"))
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256_of_sources(package: Path) -> str:
    """Over all Python files of a package."""
    return digest([[path.relative_to(package).as_posix(), sha256_of(path)] for path in sorted(package.rglob("*.py"))])


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    # git from the path, with our own arguments
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=30).stdout.strip()  # noqa: S603


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


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
