"""Every command ends with a status and a sentence, whatever stops it."""

import os
import signal
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
import torch
from cyclopts import App

from fastflux.command_line import PARENT, run
from fastflux.entry import enter
from fastflux.errors import FastFluxError


def app_of(error: BaseException | int | None) -> App:
    app = App(name="tool")

    @app.command
    def work(*, size: int = 1) -> int | None:
        if isinstance(error, BaseException):
            raise error
        return error

    return app


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (3, 3)])
def test_the_status_is_what_the_command_returns(returned: int | None, status: int) -> None:
    assert run(app_of(returned), ["work"]) == status


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (FastFluxError("There is no x: give another."), 1, "tool: There is no x: give another.\n"),
        (FastFluxError("named \x1b[2J\u202e"), 1, "tool: named ⟨U+001B⟩[2J⟨U+202E⟩\n"),
        (OSError(28, "No space left on device", "/a"), 1, "No space left on device: '/a'; mend that"),
        (MemoryError(), 1, "the memory is full"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), 1, "the memory is full"),
        (KeyboardInterrupt(), 130, "tool: nothing is kept\n"),
    ],
)
def test_what_users_can_mend_is_one_line(
    error: BaseException, status: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app_of(error), ["work"], interrupted="nothing is kept") == status
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1


def test_an_error_of_ours_is_no_sentence() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        run(app_of(RuntimeError("shapes do not match")), ["work"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["work", "--sise", "2"],
        ["work", "--size", "x"],
        ["work", "--size", "1.5"],
        ["work", "--size", "9" * 30],
        ["wrok"],
    ],
)
def test_a_faulty_option_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app_of(None), arguments) == 2
    assert capsys.readouterr().err.startswith("tool: ")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_end_as_ctrl_c_does(number: int, status: int) -> None:
    closed = []
    app = App(name="tool")

    @app.command
    def work() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            closed.append(True)

    before = signal.getsignal(number)
    assert run(app, ["work"]) == status
    assert closed == [True]
    assert signal.getsignal(number) is before


def test_ctrl_c_while_libraries_load_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "slow_library.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    assert enter("slow_library") == 130
    assert capsys.readouterr().err == "interrupted; nothing was begun\n"


def test_what_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app_of(None), ["work", "--size", "1\udcff"]) == 2
    assert capsys.readouterr().err == "tool: 1⟨U+DCFF⟩ is no text in UTF-8: write or rename it in that encoding.\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_terminals_of_any_encoding_are_written_to(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = {name: TextIOWrapper(BytesIO(), encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    app = App(name="tool")

    @app.command
    def work() -> None:
        sys.stdout.write("☃ é\n")
        raise FastFluxError("no ☃ é")

    assert run(app, ["work"]) == 1
    for stream in streams.values():
        stream.flush()
    assert "☃ é".encode(encoding, "backslashreplace") in streams["stdout"].buffer.getvalue()  # type: ignore[attr-defined]
    assert b"tool: no " in streams["stderr"].buffer.getvalue()  # type: ignore[attr-defined]


CHILD = """
import sys, time
from cyclopts import App
from fastflux.command_line import run
app = App()
@app.default
def work() -> None:
    print("works", flush=True)
    time.sleep(60)
sys.exit(run(app, []))
"""
PARENT_OF_IT = """
import os, subprocess, sys
environ = os.environ | {name: str(os.getpid()) for name in sys.argv[2:]}
subprocess.run([sys.executable, "-c", sys.argv[1]], env=environ)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for a signal")
def test_a_command_ends_with_the_process_that_asked_for_that() -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", PARENT_OF_IT, CHILD, PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert parent.stdout.readline() == "works\n"
        parent.kill()
        assert "interrupted" in parent.stderr.read(), "read to its end: the child has closed it too"
