"""How this package asks for documents: reports run in a process of their own, they read files and know no model."""

from __future__ import annotations

import subprocess
import sys

from bench.profiles.profile import ROOT
from fastflux.errors import FastFluxError

RESULTS = ROOT / "reports" / "data" / "results"
GENERATED = ROOT / "reports" / "generated"
GALLERIES = ROOT / "reports" / "data" / "galleries"
RECOLLECTION = ROOT / "reports" / "data" / "recollection"
FULL_SIZE = ROOT / "reports" / "data" / "full_size"


def run_reports(*arguments: str) -> None:
    """Run `python -m reports`; raises FastFluxError when that fails."""
    process = subprocess.run([sys.executable, "-m", "reports", *arguments], cwd=ROOT, check=False, text=True)  # noqa: S603
    if process.returncode:
        raise FastFluxError("the reports could not be built; the message above says why. All measurements are kept.")
