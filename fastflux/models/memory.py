"""The most memory that some work took at once: what the device allocated, or the process' resident size on a CPU."""

from pathlib import Path

import torch

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"
"""What `clear_refs` takes to let the peak resident size begin anew (proc_pid_clear_refs(5))."""


class PeakMemory:
    """Counts from its making on; a second one on the same device begins the count anew for both.

    On CUDA: the most bytes in tensors, weights among them. On a CPU: the most bytes of the whole process that were
    resident, which Linux tells; elsewhere it is not measured.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._counts = True
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._device.type == "cpu":
            try:
                (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
            except OSError:
                self._counts = False  # an earlier peak would be taken for this one's

    def read(self) -> int | None:
        """Bytes, or None where they cannot be measured."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if self._device.type != "cpu" or not self._counts:
            return None
        try:
            status = (_PROCESS / "status").read_text()
        except OSError:
            return None
        found = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(found[0][1]) * 1024 if found else None
