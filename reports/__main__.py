"""`python -m reports`, and ``fastflux-bench``."""

import sys

from fastflux.entry import enter


def suite() -> int:
    """The suite's command line, with its documents."""
    return enter("reports.cli", "suite")


if __name__ == "__main__":
    sys.exit(enter("reports.cli"))
