"""How a regression run ends: its exit codes, and the errors that stand for those of bad input."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from fastflux.errors import FastFluxError


class Exit(IntEnum):
    """Exit codes of `python -m bench regress`; only PASSED says that nothing is worse."""

    PASSED = 0
    REGRESSED = 1
    COMMAND_LINE = 2
    NO_BASELINE = 3
    NOT_COMPARABLE = 4
    OTHER_DEVICE = 5
    DEVICE_BUSY = 6
    UNDECIDED = 7
    ERROR = 8
    STOPPED = 130

    @property
    def meaning(self) -> str:
        """What the code says, in one line."""
        return _MEANINGS[self]


_MEANINGS = {
    Exit.PASSED: "every check was taken, and none is worse than the baseline; or --update wrote one",
    Exit.REGRESSED: "at least one check is worse than the baseline",
    Exit.COMMAND_LINE: "the command line cannot be read",
    Exit.NO_BASELINE: "there is no baseline to compare with",
    Exit.NOT_COMPARABLE: "the baseline has another schema, prompt set, settings, weights, scorers or variants",
    Exit.OTHER_DEVICE: "the baseline was measured on another device, and checks were asked for that depend on it",
    Exit.DEVICE_BUSY: "the device is busy with other work",
    Exit.UNDECIDED: "nothing is seen to be worse, but a check has too few samples for a verdict or cannot be compared",
    Exit.ERROR: "another error: a file that is missing or damaged, a full disk, a crash",
    Exit.STOPPED: "stopped by the keyboard; the same command continues",
}


def exit_codes() -> str:
    """All codes with their meanings, a line each."""
    return "\n".join(f"  {code.value:>3}  {code.meaning}" for code in Exit)


class NoVerdictError(FastFluxError):
    """A run that ends without a verdict; its kinds have exit codes of their own."""

    exit: ClassVar[Exit] = Exit.ERROR


class NoBaselineError(NoVerdictError):
    """There is nothing to compare with."""

    exit = Exit.NO_BASELINE


class NotComparableError(NoVerdictError):
    """The baseline speaks of something else."""

    exit = Exit.NOT_COMPARABLE


class OtherDeviceError(NoVerdictError):
    """The baseline speaks of another device."""

    exit = Exit.OTHER_DEVICE


class DeviceBusyError(NoVerdictError):
    """Other work would end up in every time."""

    exit = Exit.DEVICE_BUSY
