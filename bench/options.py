"""What options of several commands are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from bench.run.folders import RUNS
from fastflux.command_line import names
from fastflux.errors import FastFluxError


def _numbers(_type: object, tokens: Sequence[Token]) -> tuple[int, ...]:
    return tuple(int(name) for name in names(_type, tokens))


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """What KEY=VALUE options say."""
    if wrong := [text for text in texts if not text.partition("=")[0] or "=" not in text]:
        raise FastFluxError(f"{wrong[0]!r} is no KEY=VALUE")
    return dict(text.split("=", 1) for text in texts)


Names = Annotated[
    tuple[str, ...] | None, Parameter(converter=names, n_tokens=1, accepts_keys=False, show_default=False)
]
Numbers = Annotated[tuple[int, ...], Parameter(converter=_numbers, n_tokens=1, show_default=lambda found: found[0])]
Texts = Annotated[tuple[str, ...], Parameter(show_default=False)]
Set = Annotated[Texts, Parameter(name="--set")]
Out = Annotated[Path, Parameter(name=("--out", "-o"))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is measured, and on what.

    Attributes:
        profile: name of a profile, or a .toml
        changes: KEY=VALUE, another value for a setting of the profile, such as sampling.steps=20; may be given again
        device: torch device; default: the profile's
    """

    profile: str = "shapes"
    changes: Set = ()
    device: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the function behind a command."""
        return {"profile_name": self.profile, "changes": pairs(self.changes), "device": self.device}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Run(Measured):
    """What is measured, and into which folder.

    Attributes:
        out: folder of all runs
    """

    out: Out = RUNS

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the function behind a command."""
        return {**super().options, "runs": self.out}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FullSizeRun(Run):
    """The same of random weights."""

    profile: str = "flux-dev-random"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Regression:
    """What a regression run is compared with, and what it leaves.

    Attributes:
        baseline: a file, or a folder of <device>/<profile>.json; default: runs/regress/baselines
        update: write this run as the baseline; needs --reason
        reason: why the baseline changes, kept in it
        force: prune again what is kept of earlier runs
        require_idle: refuse to measure while other work runs
        out: where all goes; default: runs/regress/<profile>
        summary: the Markdown summary; default: OUT/summary.md
        junit: the JUnit XML; default: OUT/junit.xml
    """

    baseline: Path | None = None
    update: bool = False
    reason: str = ""
    force: bool = False
    require_idle: bool = False
    out: Annotated[Path | None, Parameter(name=("--out", "-o"))] = None
    summary: Path | None = None
    junit: Path | None = None


MEASURED, RUN, FULL_SIZE, REGRESSION = Measured(), Run(), FullSizeRun(), Regression()
