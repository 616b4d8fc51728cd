"""``python -m fastflux``: see `fastflux.cli`."""

import sys

from fastflux.entry import enter


def main() -> int:
    """The command line."""
    return enter("fastflux.cli")


if __name__ == "__main__":
    sys.exit(main())
