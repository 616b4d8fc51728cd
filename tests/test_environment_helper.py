"""The shared environment of the nox sessions: when it is made, when it is kept, what a killed installation leaves."""

import fcntl
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

import noxenv
from noxenv import EnvironmentSetupError, environment_key, environment_python, install_commands, is_current

PYPROJECT = """
[build-system]
requires = ["hatchling"]
[project]
dependencies = ["torch>=2"]
[tool.ruff]
line-length = 120
"""


COMMANDS = 3


class Installer:
    """Stands in for uv and pip: notes the commands, and makes the Python that the first of them makes."""

    def __init__(self, root: Path, fails_at: int | None = None) -> None:
        self.root, self.fails_at = root, fails_at
        self.commands: list[Sequence[str]] = []

    def __call__(self, command: Sequence[str]) -> None:
        self.commands.append(command)
        if len(self.commands) == self.fails_at:
            raise KeyboardInterrupt
        python = self.root / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "constraints.txt").write_text("torch==2.15.0\n")
    return tmp_path


def test_installs_once_and_keeps_it(root: Path) -> None:
    installer = Installer(root)
    assert environment_python(root, {}, installer) == root / ".venv" / "bin" / "python"
    assert len(installer.commands) == COMMANDS
    environment_python(root, {}, installer)
    assert len(installer.commands) == COMMANDS


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("constraints.txt", "2.15.0", "2.15.1"),
        ("pyproject.toml", "torch>=2", "torch>=3"),
        ("pyproject.toml", '["hatchling"]', '["hatchling>=2"]'),
    ],
)
def test_a_changed_declaration_is_installed_from_nothing(root: Path, file: str, old: str, new: str) -> None:
    environment_python(root, {}, Installer(root))
    (root / ".venv" / "left-over").touch()
    (root / file).write_text((root / file).read_text().replace(old, new))
    installer = Installer(root)
    environment_python(root, {}, installer)
    assert len(installer.commands) == COMMANDS
    assert not (root / ".venv" / "left-over").exists()


def test_a_changed_tool_setting_is_no_reason_to_install(root: Path) -> None:
    key = environment_key(root)
    (root / "pyproject.toml").write_text(PYPROJECT.replace("120", "100"))
    assert environment_key(root) == key


def test_another_python_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = environment_key(root)
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    assert environment_key(root) != key


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_a_killed_installation_is_redone(root: Path, killed_at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        environment_python(root, {}, Installer(root, fails_at=killed_at))
    assert not is_current(root)
    installer = Installer(root)
    environment_python(root, {}, installer)
    assert len(installer.commands) == COMMANDS
    assert is_current(root)


def test_an_environment_without_its_python_is_not_current(root: Path) -> None:
    environment_python(root, {}, Installer(root))
    (root / ".venv" / "bin" / "python").unlink()
    assert not is_current(root)


def test_a_named_environment_is_used_as_it_is(root: Path) -> None:
    python = root / "elsewhere" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    installer = Installer(root)
    for name in ("elsewhere", str(root / "elsewhere")):
        assert environment_python(root, {"FASTFLUX_VENV": name}, installer) == python
    assert not installer.commands


def test_a_named_folder_that_is_no_environment_is_refused(root: Path) -> None:
    with pytest.raises(EnvironmentSetupError, match="FASTFLUX_VENV=nowhere has no bin/python"):
        environment_python(root, {"FASTFLUX_VENV": "nowhere"}, Installer(root))


def test_a_full_disk_is_told_before_the_work(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 2**30))
    installer = Installer(root)
    with pytest.raises(EnvironmentSetupError, match=r"3\.0 GiB are free"):
        environment_python(root, {}, installer)
    assert not installer.commands


def test_a_failed_command_is_told_with_its_status(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noxenv, "install_commands", lambda root, uv: [[sys.executable, "-c", "raise SystemExit(7)"]])
    with pytest.raises(EnvironmentSetupError, match="ended with status 7"):
        environment_python(root, {})
    assert not is_current(root)


def test_two_sessions_do_not_install_at_once(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (root / ".nox").mkdir()
    installer = Installer(root)
    with (root / ".nox" / "environment.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        session = threading.Thread(target=environment_python, args=(root, {}, installer))
        session.start()
        session.join(0.2)
        assert session.is_alive()
        assert not installer.commands
    session.join(10)
    assert is_current(root)
    assert "waiting" in capfd.readouterr().out


@pytest.mark.parametrize("uv", [None, "/opt/uv"])
def test_both_installers_hold_to_the_constraints(root: Path, uv: str | None) -> None:
    make, install, bare = install_commands(root, uv)
    assert make[0] == (uv or sys.executable)
    assert make[-1] == str(root / ".venv")
    assert install[install.index("-c") + 1] == str(root / "constraints.txt")
    assert install[install.index("-e") + 1] == f"{root}[bench,cluster,reports,dev]"
    assert bare[-2:] == ["--no-deps", "hpsv2==1.2.0"]
    assert bare[0] == install[0]


def test_needs_only_the_standard_library() -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(noxenv.__file__).parent)!r}); import noxenv"
    subprocess.run([sys.executable, "-S", "-I", "-c", code], check=True)
