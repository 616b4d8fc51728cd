"""The way into the command lines of all packages, whose imports take seconds in which people press Ctrl-C."""

import sys
from importlib import import_module


def enter(module: str, function: str = "main") -> int:
    """Import a command line and run it; Ctrl-C meanwhile ends it in one line, as it does afterwards."""
    try:
        run = getattr(import_module(module), function)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was begun\n")
        return 130
    return int(run())
