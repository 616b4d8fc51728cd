"""Workers that settle nothing but leave a mark; without torch, so that many can come and go."""

import os
import signal
import time
from pathlib import Path

from bench.run.graph import Node


class Stand:
    """A worker that makes a file for each unit; its name says what befalls it."""

    def begin(self, job: Path) -> str:
        self.folder = job
        return ""

    def settle(self, node: Node) -> tuple[str, float]:
        with (self.folder / node.key).open("a") as file:
            file.write(f"{os.getpid()}\n")
        tries = len((self.folder / node.key).read_text().split())
        if node.name == "dies for good" or (node.name == "dies once" and tries == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1.0 if node.name.startswith("long") else 0.0)
        return ("no room" if node.name == "fails" else ""), 0.1


class Blind(Stand):
    """One that does not see the run folder."""

    def begin(self, job: Path) -> str:
        return f"node7 does not see {job}"
