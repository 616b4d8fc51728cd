"""Run the command line."""

import sys

from fastflux.entry import enter

sys.exit(enter("bench.cli"))
