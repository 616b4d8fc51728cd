"""A clock that leaves out the time in which other processes had the core: what a busy machine adds to a step."""

import time
from pathlib import Path

_SCHEDSTAT = Path("/proc/thread-self/schedstat")


class OwnTime:
    """Seconds since some moment, less those that this thread was ready to run and had to wait for a core.

    Waiting for anything else (a sleep, a file) counts, so that no slowness of the code's own is lost. Linux tells the
    waiting of one thread: it fits steps that one thread computes. Where it does not, this is ``time.perf_counter``.
    Source: https://docs.kernel.org/scheduler/sched-stats.html, "/proc/<pid>/schedstat".
    """

    def __init__(self, schedstat: Path = _SCHEDSTAT) -> None:
        self.schedstat = schedstat
        self.__name__ = "perf_counter" if self._waited() is None else "perf_counter less waiting for a core"

    def __call__(self) -> float:
        """Now."""
        return time.perf_counter() - (self._waited() or 0.0)

    def _waited(self) -> float | None:
        try:
            return int(self.schedstat.read_text(encoding="ascii").split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return None
