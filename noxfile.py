"""Sessions of FastFLUX: `nox -l` lists them. All run in one shared environment, see noxenv.py."""

import os
import sys
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # nox runs this file without its folder on the path

from noxenv import EnvironmentSetupError, environment_python  # noqa: E402  # after the path is set

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "tests"]


# Large tensors come and go in every step; letting glibc keep their pages saves a third of the time on Linux.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
}


def run_python(session: nox.Session, *arguments: str) -> None:
    """Run the shared environment's Python, which is installed first where needed."""
    try:
        python = environment_python(ROOT)
    except EnvironmentSetupError as error:
        session.error(str(error).rstrip("."))  # nox adds its own full stop
    session.run(str(python), *arguments, external=True, env=ALLOCATOR | {"FASTFLUX_PARENT": str(os.getpid())})


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests: CPU only, no network, about 10 minutes on two cores; one a core, `-- -n 0` one by one."""
    run_python(session, "-m", "pytest", "--benchmark-disable", "-n", "auto", "--dist", "loadfile", *session.posargs)


@nox.session(venv_backend="uv")
def tests_oldest(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml allows, in an environment of its own; needs uv."""
    session.install("--resolution", "lowest-direct", "--index-strategy", "unsafe-best-match", ".[bench,reports,dev]")
    session.run("uv", "pip", "uninstall", "fastflux", external=True)  # the checkout is what is tested
    # Old libraries warn of what newer ones beneath them deprecate.
    session.run("pytest", "--benchmark-disable", "-n", "auto", "--dist", "loadfile", "-W", "ignore", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, types and the direction of imports."""
    checks = {
        "ruff check": ["-m", "ruff", "check"],
        "ruff format": ["-m", "ruff", "format", "--check"],
        "mypy": ["-m", "mypy"],
        "lint-imports": ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
    }
    failed = []
    for name, arguments in checks.items():  # all of them, so that one run tells everything there is to mend
        try:
            run_python(session, *arguments)
        except CommandFailed:
            failed.append(name)
    if failed:
        session.error(f"{', '.join(failed)} failed")


@nox.session
def reproduce_tables(session: nox.Session) -> None:
    """Prune, generate, score and measure afresh, then write the paper's tables."""
    run_python(session, "-m", "reports", "reproduce", *session.posargs)


@nox.session
def rank(session: nox.Session) -> None:
    """Measure the paper's importance of every block: FID and CLIP score without it."""
    run_python(session, "-m", "reports", "rank", *session.posargs)


@nox.session
def full_size(session: nox.Session) -> None:
    """Measure FLUX.1-dev's size on one GPU with random weights, in pieces; the same command continues."""
    run_python(session, "-m", "reports", "full_size", *session.posargs)


@nox.session
def train_shapes(session: nox.Session) -> None:
    """Train FLUX-Shapes and its scorers; a killed run continues."""
    run_python(session, "-m", "bench.shapes.train", *session.posargs)


@nox.session
def reports(session: nox.Session) -> None:
    """Rebuild the committed documents from the committed records; with `-- --check` only say whether they differ."""
    run_python(session, "-m", "reports", "rebuild", *session.posargs)


@nox.session
def report_pdf(session: nox.Session) -> None:
    """Set all tables and figures as one PDF, of the committed records unless --results says otherwise."""
    committed = not any(each.startswith("--results") for each in session.posargs)
    gallery = ["--gallery", "reports/data/galleries/cpu/shapes"] if committed else []
    run_python(session, "-m", "reports", "pdf", *gallery, *session.posargs)


@nox.session
def regress(session: nox.Session) -> None:
    """Measure a small suite and compare it with the committed baseline; fails on a regression."""
    named = any(each.partition("=")[0] in ("--baseline", "--model") for each in session.posargs)
    baseline = [] if named else ["--baseline", "reports/data/regression"]
    run_python(session, "-m", "bench", "regress", *baseline, *session.posargs)


@nox.session
def benchmark(session: nox.Session) -> None:
    """Time the library's own hot paths, kept in .benchmarks/ and compared with the run before (pytest-benchmark)."""
    options = ["--benchmark-only", "--benchmark-autosave", "--benchmark-columns=min,median,iqr,rounds"]
    # The machine is not quite as it was, its clock of the moment already is not: worth a line, no reason to stop.
    options += ["-W", "default::pytest_benchmark.logger.PytestBenchmarkWarning"]
    if any(Path(".benchmarks").glob("*/*.json")):  # with nothing to compare with, it would warn
        options.append("--benchmark-compare")
    run_python(session, "-m", "pytest", "tests/bench/bench_hot_paths.py", *options, *session.posargs)
