"""``python -m fastflux``: see `fastflux.cli`."""

import sys

from fastflux.cli import main

sys.exit(main())
