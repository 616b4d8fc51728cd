"""Rules about the repository as a whole: who imports whom, what the wheel holds, what may be committed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import fastflux

ROOT = Path(__file__).resolve().parent.parent
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
MIB = 2**20


def run(*command: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def tracked_files() -> list[Path]:
    listed = run("git", "ls-files", "-z")
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def python_modules(package: str) -> list[str]:
    paths = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def test_planted_imports_break_their_contracts(tmp_path: Path) -> None:
    packages = "reports -> bench -> fastflux"
    heavy = "reports never import a model library"
    planted = (
        ("fastflux.errors", "bench.records.results", packages),
        ("bench.records.results", "reports.rows", packages),
        ("reports.table", "bench.samples.prompts", "of bench, reports know records and declarations only"),
        ("reports.table", "torch", heavy),
        ("fastflux.files", "torch", heavy),
        ("bench.records.results", "diffusers", heavy),
        ("fastflux.errors", "fastflux.plan", "within a package modules import only lower ones"),
    )
    for package in ("fastflux", "bench", "reports"):
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=lambda _, names: {n for n in names if "." in n and not n.endswith(".py")},
        )
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    for importer, imported, _ in planted:
        with (tmp_path / f"{importer.replace('.', '/')}.py").open("a") as source:
            source.write(f"\nimport {imported}\n")
    checked = run(sys.executable, "-c", LINT_IMPORTS, cwd=tmp_path)
    assert checked.returncode == 1
    sections = re.split(r"\n(?=.+\n-{9,}\n)", checked.stdout)
    for importer, imported, contract in planted:
        [told] = [section for section in sections if section.startswith(contract) and "BROKEN" not in section]
        # Of a cycle its other half is told.
        assert (f"{importer} -> {imported} (" if imported != "fastflux.plan" else ".plan -> .errors (") in told


RECORDS = "fastflux.plan fastflux.files bench.records.results bench.records.statistics bench.tables"
RECORDS += " bench.regression.history bench.cli reports.build"


@pytest.mark.parametrize(
    ("modules", "drawing"),
    [(RECORDS.split(), "matplotlib"), (python_modules("reports"), "")],
    ids=["records and commands", "reports"],
)
def test_importing_leaves_the_model_libraries_alone(modules: list[str], drawing: str) -> None:
    heavy = f"{{'torch', 'diffusers', 'transformers', 'open_clip', {drawing!r}}}"
    code = f"import sys, {', '.join(modules)}; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    imported = run(sys.executable, "-c", code)
    assert imported.returncode == 0, imported.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder))
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_the_packages_with_their_data_and_no_weights(wheel: Path) -> None:
    entries = {entry.filename: entry.file_size for entry in zipfile.ZipFile(wheel).infolist()}
    packages = ("fastflux", "bench", "reports")
    assert {name.split("/")[0] for name in entries} == {*packages, f"fastflux-{fastflux.__version__}.dist-info"}
    assert {name for name in entries if name.endswith(".py")} == {
        name
        for path in tracked_files()
        if path.suffix == ".py" and (name := str(path.relative_to(ROOT))).split("/")[0] in packages
    }
    profiles = {
        str(path.relative_to(ROOT)) for path in (ROOT / "bench" / "profiles").rglob("*.*") if path.suffix != ".pyc"
    }
    prompts = {f"bench/{path.relative_to(ROOT)}" for path in tracked_files() if path.is_relative_to(ROOT / "prompts")}
    assert {*profiles, *prompts, "reports/data/paper_tables.json", "fastflux/py.typed"} <= entries.keys()
    assert not [name for name in entries if name.endswith((".safetensors", ".png", ".avif"))]
    assert sum(entries.values()) < 4 * 2**20


def test_what_the_wheel_installs_runs_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """Nothing of the checkout is used: commands answer, profiles and their prompts are found, nothing is written."""
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    empty = tmp_path / "empty"
    empty.mkdir()
    code = """
import sys
from pathlib import Path
import bench, fastflux, reports
assert {Path(package.__file__).parents[1] for package in (bench, fastflux, reports)} == {Path(sys.argv[1])}
from bench.profiles.profile import load_profile
from bench.profiles.profile import read_all_prompts
from reports.cli import suite
from reports.paper import paper_data
assert read_all_prompts(load_profile("shapes"))
assert paper_data()
assert suite(["build", "--help"]) == 0
assert suite(["score", "--help"]) == 0
assert suite(["reproduce", "--only", "tabel1"]) == 1
"""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = run(sys.executable, "-c", code, str(installed), cwd=empty, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "did you mean 'table1'?" in ran.stderr
    assert not list(empty.iterdir())


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)  # fails for anything but an exact version
    normal = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned}
    missing = {
        name
        for entry in declared
        if (name := re.split(r"[<>=!~\[ ]", entry)[0].replace("_", "-").lower()) not in normal
    }
    assert not missing


def test_no_tracked_file_is_large() -> None:
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked_files()}
    assert not {name: size for name, size in sizes.items() if size > 16 * MIB}
    assert sum(size for name, size in sizes.items() if name.startswith("bench/shapes/weights/")) <= 60 * MIB


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    home = re.compile(r"(?<![\w.:/~-])(?:/(?:root|home|Users|work)/|[A-Z]:\\Users\\)[\w.]", re.ASCII)
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # images and weights
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in home.finditer(text)]
    assert not found
