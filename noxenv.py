"""The one environment that all nox sessions share.

nox makes an environment per session and has no option to share one, and this one is over 6 GB. So the sessions run in
`.venv`, made here once and kept until what pyproject.toml and constraints.txt declare, or the Python version, changes.
Standard library only: nox imports it before anything is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    Run = Callable[[Sequence[str]], None]

ENVIRONMENT_VARIABLE = "FASTFLUX_VENV"
FOLDER = ".venv"
EXTRAS = "bench,cluster,reports,dev"
# The reference that parity is tested against, without what it pins (protobuf<4, pytest==7.2.0) and does not need here.
BARE = ("--no-deps", "hpsv2==1.2.0")
STAMP = "fastflux-environment.sha256"
REQUIRED_GIB = 8  # the installed packages, and room for pip to unpack the largest wheel


class EnvironmentSetupError(Exception):
    """The environment cannot be made or used; the message says why and what to do."""


def environment_python(root: Path, environ: Mapping[str, str] | None = None, run: Run | None = None) -> Path:
    """The Python of the sessions' environment, which is made or renewed first where needed.

    FASTFLUX_VENV names an existing environment folder (relative to the repository) to use as it is: nothing is checked
    or installed there. Of two calls at once the second waits. An installation that was killed is redone.
    Raises EnvironmentSetupError when the named folder is no environment, the disk is too full or the installation
    fails.
    """
    environ = os.environ if environ is None else environ
    if named := environ.get(ENVIRONMENT_VARIABLE):
        python = _python_in(root / named)
        if not python.exists():
            message = (
                f"{ENVIRONMENT_VARIABLE}={named} has no {python.relative_to(root / named)}: name the folder of an "
                f"existing environment, or unset it to let {FOLDER} be made."
            )
            raise EnvironmentSetupError(message)
        return python
    with _lock(root):
        if not is_current(root):
            _install(root, run or _run)
    return _python_in(root / FOLDER)


def environment_key(root: Path) -> str:
    """The sha256 of what determines the installed packages: their declaration, the constraints and the Python version.

    Of pyproject.toml only what an installation reads counts, so that a new ruff rule does not cost an installation.
    """
    pyproject = tomllib.loads((root / "pyproject.toml").read_text())
    declared = {
        "build-system": pyproject.get("build-system"),
        "project": pyproject.get("project"),
        "hatch": pyproject.get("tool", {}).get("hatch"),
        "constraints": (root / "constraints.txt").read_text(),
        "bare": BARE,
        "python": list(sys.version_info[:2]),
    }
    return hashlib.sha256(json.dumps(declared, sort_keys=True, default=str).encode()).hexdigest()


def is_current(root: Path) -> bool:
    """Whether `.venv` was installed completely and for the files as they are now."""
    stamp = root / FOLDER / STAMP
    return _python_in(root / FOLDER).exists() and stamp.is_file() and stamp.read_text().strip() == environment_key(root)


def _install(root: Path, run: Run) -> None:
    folder, key, start = root / FOLDER, environment_key(root), time.monotonic()
    stamp = folder / STAMP
    if folder.exists():
        # Always from nothing: packages that are no longer declared, or the half of a killed install, would hide faults.
        why = "the declared packages or Python changed" if stamp.exists() else "its installation was not finished"
        _say(f"{FOLDER} is made anew: {why}.")
        stamp.unlink(missing_ok=True)  # first, so that being killed now leaves no folder that looks complete
        shutil.rmtree(folder)
    if (free := shutil.disk_usage(root).free / 2**30) < REQUIRED_GIB:
        message = (
            f"{free:.1f} GiB are free at {root}, the environment needs {REQUIRED_GIB} GiB: free some, or set "
            f"{ENVIRONMENT_VARIABLE} to the folder of an environment elsewhere."
        )
        raise EnvironmentSetupError(message)
    uv = shutil.which("uv")
    _say(
        f"{FOLDER} is being installed with {'uv' if uv else 'pip'}: once, over 6 GB, 2 to 5 minutes on an idle machine."
    )
    for command in install_commands(root, uv):
        _say(" ".join(command))
        run(command)
    stamp.write_text(key + "\n")
    _say(f"{FOLDER} is ready after {time.monotonic() - start:.0f} s; later sessions use it as it is.")


def install_commands(root: Path, uv: str | None) -> list[list[str]]:
    """The commands that make the environment and install this repository with its extras at the pinned versions."""
    folder, python = str(root / FOLDER), str(_python_in(root / FOLDER))
    what = ["-c", str(root / "constraints.txt"), "-e", f"{root}[{EXTRAS}]"]
    quiet = [] if sys.stdout.isatty() else ["--quiet"]  # both installers show their progress on a terminal
    if uv is not None:
        install = [uv, "pip", "install", *quiet, "--python", python]
        return [[uv, "venv", "--quiet", "--python", sys.executable, folder], [*install, *what], [*install, *BARE]]
    install = [python, "-m", "pip", "install", *quiet, "--disable-pip-version-check"]
    return [[sys.executable, "-m", "venv", folder], [*install, *what], [*install, *BARE]]


def _python_in(folder: Path) -> Path:
    return folder / "bin" / "python"


@contextlib.contextmanager
def _lock(root: Path) -> Iterator[None]:
    path = root / ".nox" / "environment.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:  # the kernel lets go of the lock when the process ends, however it ends
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"another session is installing {FOLDER}: waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str]) -> None:
    try:
        subprocess.run(command, check=True)  # noqa: S603  # our own commands, from install_commands
    except subprocess.CalledProcessError as error:
        message = (
            f"The environment could not be installed: `{' '.join(command)}` ended with status {error.returncode} "
            "(its reason is above); mend that and run the same command again."
        )
        raise EnvironmentSetupError(message) from None


def _say(line: str) -> None:
    print(f"environment: {line}", flush=True)
