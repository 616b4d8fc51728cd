"""torch's profiler, without what it says on stderr of every start and of the GPU that it did not find."""

import os
from collections.abc import Sequence
from typing import Any

from torch.profiler import ProfilerActivity, profile

_LEVEL = "KINETO_LOG_LEVEL"
_NOTHING = "99"


def quiet_profiler(activities: Sequence[ProfilerActivity] = (ProfilerActivity.CPU,), **options: Any) -> profile:
    """``torch.profiler.profile`` of these activities; a log level that the environment names is left as it is."""
    os.environ.setdefault(_LEVEL, _NOTHING)  # read when a profiler first starts
    return profile(activities=list(activities), **options)
