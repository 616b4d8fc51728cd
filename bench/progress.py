"""Progress bars on a terminal, a line now and then elsewhere; and how third-party chatter is kept out of both."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Self, TypeVar

from rich.console import Console
from rich.markup import escape

from fastflux.command_line import progress_bar
from fastflux.threads import use_threads

T = TypeVar("T")
#: All messages to the person at the keyboard go here; results go to stdout.
console = Console(stderr=True, highlight=False)
#: Where there is no terminal, at most one line in so many seconds.
QUIET_SECONDS = 60.0


def track(items: Iterable[T], label: str, *, total: int, completed: int = 0) -> Iterator[T]:
    """Yield the items, showing how many of `total` are done (`completed` at first) and the time that remains."""
    if not console.is_terminal:
        yield from _quiet(items, label, total, completed)
        return
    with progress_bar(console) as progress:
        task = progress.add_task(label, total=total, completed=completed)
        for item in items:
            yield item
            progress.advance(task)


def _quiet(items: Iterable[T], label: str, total: int, completed: int) -> Iterator[T]:
    began = shown = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - shown > QUIET_SECONDS:
            left = (now - began) / done * (total - completed - done)
            print(f"{label}: {completed + done}/{total}, about {left / 60:.0f} min left", file=sys.stderr, flush=True)
            shown = now


class Ticks:
    """A progress bar fed by numbers of finished images."""

    def __init__(self, total: int, label: str) -> None:
        self._items = track(range(total), label, total=total)
        next(self._items, None)

    def advance(self, count: int) -> None:
        """Count so many more."""
        for _ in range(count):
            next(self._items, None)

    def close(self) -> None:
        """End the bar."""
        for _ in self._items:
            pass


class Board:
    """What runs, what is left and how long that takes, in a line: always on a terminal, now and then elsewhere.

    Args:
        units: how many there are.
        steps: the work of them all, in any unit.
    """

    def __init__(self, units: int, steps: float, workers: int = 1) -> None:
        self._units, self._steps, self._workers = units, steps, workers
        self._done, self._steps_done, self._seconds = 0, 0.0, 0.0
        self._status = console.status("")
        self._shown = time.monotonic()

    def __enter__(self) -> Self:
        if console.is_terminal and self._units:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def finished(self, steps: float, seconds: float) -> None:
        """One more is done."""
        self._done, self._steps_done, self._seconds = self._done + 1, self._steps_done + steps, self._seconds + seconds

    def failed(self, what: str, reason: str) -> None:
        """One more cannot be done."""
        self._done += 1
        console.print(f"{what} failed: {reason}", markup=False, soft_wrap=True)

    def show(self, running: Iterable[str]) -> None:
        """What runs now."""
        now = time.monotonic()
        if not console.is_terminal and now - self._shown < QUIET_SECONDS:
            return
        line = f"{self._done}/{self._units} done{self._left()}; now {', '.join(running) or 'starting'}"
        if console.is_terminal:
            self._status.update(escape(line))
        else:
            console.print(line, markup=False, soft_wrap=True)
            self._shown = now

    def _left(self) -> str:
        if not self._steps_done:
            return ""
        seconds = (self._steps - self._steps_done) * self._seconds / self._steps_done / self._workers
        return f", about {max(1, round(seconds / 60))} min left"


def announce(stages: Mapping[str, Callable[[], object]], expected: Mapping[str, float]) -> None:
    """Run the stages in turn, telling which comes and, by an earlier run's seconds, how long all that is left takes."""
    names = list(stages)
    for index, name in enumerate(names):
        left = sum(expected.get(stage, 0.0) for stage in names[index:])
        about = f", about {max(1, round(left / 60))} min left" if left else ""
        console.print(f"{index + 1}/{len(names)} {name}{about}")
        stages[name]()


def quiet_libraries() -> None:
    """What every command does first: one thread, and no third-party chatter, which would bury our own messages.

    With one thread, results are the same to the bit on any number of cores, and other work on the machine delays a run
    by its share only.
    """
    use_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", module=r"(diffusers|transformers|torch|huggingface_hub|open_clip|timm)")
    logging.disable(logging.WARNING)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
