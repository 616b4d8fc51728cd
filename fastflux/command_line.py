"""What the command lines of all packages share: how a command is run, and what its user sees when it fails."""

import ctypes
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from types import FrameType
from typing import get_args

from cyclopts import App, ArgumentCollection, CycloptsError, Token
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastflux.errors import FastFluxError, memory_is_full
from fastflux.text import one_line

_ENDING = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
"""Signals that end a run, and the exit status that a shell gives a process which they ended."""
PARENT = "FASTFLUX_PARENT"
"""In the environment: the id of the process with which a command is to end."""
_SET_PARENT_DEATH_SIGNAL = 1
_WHOLE = re.compile(r"[+-]?\d{1,15}")
_UNDECODED = re.compile("[\ud800-\udfff]")
MOST = 2**48
"""Above all sizes, counts and seeds, which multiply without leaving 64 bits."""


class _Ended(KeyboardInterrupt):
    """A signal that ends the run as Ctrl-C does: what is open is closed, what is half written deleted."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = _ENDING[signal.Signals(number)]


def _end(number: int, _frame: FrameType | None) -> None:
    raise _Ended(number)


def names(_type: object, tokens: Sequence[Token]) -> tuple[str, ...]:
    """The names of an option that takes several, comma-separated, or given again."""
    found = tuple(name for token in tokens for part in token.value.split(",") if (name := part.strip()))
    if not found:
        raise ValueError("it names nothing")
    return found


def _require_whole_numbers(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse fractions for integers, which cyclopts would round, and numbers that no count, size or seed reaches."""
    for argument in arguments:
        kinds = get_args(argument.hint) or (argument.hint,)
        for token in argument.tokens if int in kinds and not {float, str} & {*kinds} else ():
            if not _WHOLE.fullmatch(token.value) or abs(int(token.value)) >= MOST:
                raise CycloptsError(msg=f"{argument.name} is {token.value!r}, but must be a whole number below 2^48.")


def _end_with_parent() -> None:
    """End when the process ends that started this one and said so by `PARENT`, however it ends (Linux)."""
    if os.environ.pop(PARENT, "") == str(os.getppid()):
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def run(app: App, arguments: Sequence[str] | None = None, *, interrupted: str = "interrupted") -> int:
    """Run a command and return its exit status: what the command returns, 0 for None.

    What users can mend is one sentence on stderr and status 1, a faulty option status 2. Ctrl-C, SIGTERM and SIGHUP end
    with ``interrupted``, the sentence that says what is kept, and the status that shells give them.
    """
    if isinstance(sys.stdout, TextIOWrapper):  # names come from outside, and terminals know fewer characters
        sys.stdout.reconfigure(errors="backslashreplace")
    given = sys.argv[1:] if arguments is None else list(arguments)
    if foreign := [text for text in given if _UNDECODED.search(text)]:
        _say(app.name[0], f"{foreign[0]} is no text in UTF-8: write or rename it in that encoding.")
        return 2
    _end_with_parent()
    app.config = _require_whole_numbers
    app.suppress_keyboard_interrupt = False  # it would end the process without a word of what is kept
    is_main = threading.current_thread() is threading.main_thread()  # elsewhere no handlers can be set
    previous = {number: signal.signal(number, _end) for number in _ENDING} if is_main else {}
    try:
        return int(app(arguments, exit_on_error=False, print_error=False, result_action="return_value") or 0)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        status, sentence = _explain(error, interrupted)
        if not status:
            raise
        _say(app.name[0], sentence)
        return status
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _explain(error: BaseException, interrupted: str) -> tuple[int, str]:
    """The exit status and the sentence for an error; status 0 for one that is a fault of ours."""
    if isinstance(error, KeyboardInterrupt):
        notes = getattr(error, "__notes__", ())  # what knows better what is kept has added one
        return getattr(error, "status", _ENDING[signal.SIGINT]), notes[0] if notes else interrupted
    if isinstance(error, CycloptsError):
        return 2, str(error)
    if isinstance(error, FastFluxError):
        return 1, str(error)
    if memory_is_full(error):
        return 1, "the memory is full: close other programs, or ask for less at once"
    if isinstance(error, OSError):
        return 1, f"{error}; mend that and run the same command again"
    return 0, ""


def _say(name: str, sentence: str) -> None:
    """One line on stderr, without what the terminal cannot show or what would steer it: names come from outside."""
    encoding = sys.stderr.encoding or "ascii"
    sys.stderr.write(f"{name}: {one_line(sentence)}\n".encode(encoding, "backslashreplace").decode(encoding))


def progress_bar(console: Console) -> Progress:
    """Bars with counts, elapsed and remaining time; nothing where the console is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)
